"""Checks one mapping of a spec against the fields of a frozen dataclass.

Every rule stands beside its field, in the field's metadata (type from the annotation, range,
choices), so a configuration class is the only description of what a user may write. Rules that
involve two fields live in model.config. Standard library only: the controller imports this to
refuse a spec before anything starts.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing wrong with a spec: where (JSON pointer), what, and what to write instead."""

    pointer: str
    detail: str
    hint: str


def integer(*, at_least: int, at_most: int, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that takes an integer within both bounds."""
    return dataclasses.field(
        default=default, metadata={"kind": "integer", "at_least": at_least, "at_most": at_most}
    )


def real(*, at_least: float, at_most: float, default: float) -> Any:
    """A dataclass field that takes a finite number within both bounds."""
    return dataclasses.field(
        default=default, metadata={"kind": "number", "at_least": at_least, "at_most": at_most}
    )


def choice(*options: str, default: str) -> Any:
    """A dataclass field that takes one of a few words."""
    return dataclasses.field(default=default, metadata={"kind": "choice", "options": options})


def field_problems(
    given: Mapping[str, Any], kind: type, pointer: str, *, also: Iterable[str] = ()
) -> list[Problem]:
    """Every unknown key and every value out of its field's type, range or choices.

    `also` names keys that are allowed beside the dataclass's own (a preset, a kind).
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = [
        unknown_key(name, [*fields, *also], pointer)
        for name in given
        if name not in fields and name not in also
    ]
    for name in given:
        if name in fields:
            detail_hint = _value_problem(given[name], fields[name].metadata)
            if detail_hint is not None:
                found.append(Problem(f"{pointer}/{name}", *detail_hint))
    return found


def missing_problems(
    given: Mapping[str, Any], kind: type, pointer: str, hint: str
) -> list[Problem]:
    """One problem for each field without a default that is not given."""
    return [
        Problem(f"{pointer}/{field.name}", "missing", hint)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.name not in given
    ]


def unknown_key(name: str, known: Iterable[str], pointer: str) -> Problem:
    """The problem of a key nobody knows, with the nearest known key as a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return Problem(f"{pointer}/{_escaped(name)}", f"unknown key {str(name)[:100]!r}", hint)


def _value_problem(value: Any, rule: Mapping[str, Any]) -> tuple[str, str] | None:
    if rule["kind"] == "choice":
        return _choice_problem(value, rule["options"])
    # bool is an int in Python, and nobody means `num_layers: true`. NaN is not equal to itself.
    allowed = (int,) if rule["kind"] == "integer" else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or value != value:
        return (
            f"expected a{'n' * (allowed == (int,))} {rule['kind']}, got {value!r:.60}",
            (f"a value from {rule['at_least']} to {rule['at_most']}"),
        )
    if not rule["at_least"] <= value <= rule["at_most"]:
        return f"{value!r:.60} is out of range", (
            f"a value from {rule['at_least']} to {rule['at_most']}"
        )
    return None


def _choice_problem(value: Any, options: tuple[str, ...]) -> tuple[str, str] | None:
    if value in options:
        return None
    near = difflib.get_close_matches(str(value)[:100], options, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(options)}"
    return f"{value!r:.60} is not a choice", hint


def _escaped(name: str) -> str:
    return str(name)[:100].replace("~", "~0").replace("/", "~1")
