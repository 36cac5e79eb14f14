"""Text to plain values: JSON or YAML 1.2, with the line and column of every value.

Specifications come from anybody, so nothing here recurses and nothing is quadratic: depth and
number of values are bounded while reading. YAML is read as events and built by hand for that
reason, and because it leaves out what a specification does not need (aliases, tags, several
documents). What the values mean is `validation`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from controller.api.problems import SpecProblem
from controller.api.yaml_builder import Builder, NotAccepted

MAX_DEPTH = 100
"""Levels of nesting; a specification has five."""

MAX_VALUES = 20_000
"""Values in a YAML text: half a second of reading. A specification has fifty."""

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """The values of a text and where they stand."""

    value: Any
    positions: Mapping[str, tuple[int, int]]
    """JSON pointer -> (line, column), from 1; empty for JSON."""


class NotReadable(Exception):
    """The text is no document; carries the one problem that says where and why."""

    def __init__(self, problem: SpecProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def parse_json(text: str) -> Parsed:
    """Values of a JSON text; raises NotReadable."""
    if _json_depth(text) > MAX_DEPTH:
        raise _too_deep()
    try:
        value = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        raise _syntax(error.msg, error.lineno, error.colno) from error
    except (ValueError, RecursionError) as error:
        raise _syntax(str(error)) from error
    return Parsed(value, {})


def parse_yaml(text: str) -> Parsed:
    """Values of a YAML 1.2 text; raises NotReadable."""
    builder = Builder(MAX_DEPTH, MAX_VALUES)
    try:
        for event in YAML(typ="safe", pure=True).parse(io.StringIO(text)):
            builder.take(event)
    except NotAccepted as error:
        raise _syntax(error.detail, error.line, error.column, error.hint) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        position = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise _syntax(detail, *position) from error
    except YAMLError as error:
        raise _syntax(str(error).splitlines()[0]) from error
    return Parsed(builder.value, builder.positions)


def pointer_of(*keys: str | int) -> str:
    """The JSON pointer (RFC 6901) of a path of keys."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def _json_depth(text: str) -> int:
    deepest = depth = 0
    for token in _JSON_TOKEN.finditer(text):
        character = token.group()[0]
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key[:60]!r} is there twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _too_deep() -> NotReadable:
    return _syntax(f"more than {MAX_DEPTH} levels of nesting", hint="a job spec needs five")


def _syntax(
    detail: str, line: int | None = None, column: int | None = None, hint: str = ""
) -> NotReadable:
    hint = hint or "examples/palm-tiny.yaml is a complete one"
    return NotReadable(SpecProblem("", "syntax", detail, hint, line, column))
