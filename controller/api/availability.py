"""What the format of specifications knows and this version cannot run.

Such a value is refused by name, since a job that silently does something else is worse than no job.
A row goes when its feature comes.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from controller.api.documents import pointer_of
from controller.api.problems import SpecProblem


class Limit(typing.NamedTuple):
    """Values that a field may have today; none at all when the field must be left out."""

    path: tuple[str, ...]
    """Keys; "*" is every item of a list."""
    available: tuple[Any, ...] = ()


LIMITS = (
    Limit(("model", "bundle")),
    Limit(("placement", "selector")),
    Limit(("queue",), ("default",)),
    Limit(("priority",), (0,)),
    Limit(("max_duration",)),
    Limit(("restarts",)),
)


def unavailable(document: dict[str, Any]) -> list[SpecProblem]:
    """A problem for everything in the document that this version cannot run."""
    return [
        _problem(path, value, limit)
        for limit in LIMITS
        for path, value in _values_at(document, limit.path)
        if value is not None and value not in limit.available
    ]


def _problem(path: tuple[str | int, ...], value: Any, limit: Limit) -> SpecProblem:
    field = ".".join(str(key) for key in path)
    what = f"{field}: {value!r:.60}" if limit.available else field
    words = " or ".join(repr(choice) for choice in limit.available)
    hint = f"use {words}, or leave it out" if limit.available else "leave it out"
    detail = f"{what} is not available in this version"
    return SpecProblem(pointer_of(*path), "not-available", detail, hint)


def _values_at(
    value: Any, path: tuple[str, ...], walked: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if not path:
        yield walked, value
    elif path[0] == "*" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _values_at(item, path[1:], (*walked, index))
    elif isinstance(value, dict) and path[0] in value:
        yield from _values_at(value[path[0]], path[1:], (*walked, path[0]))
