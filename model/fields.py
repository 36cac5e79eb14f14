"""Checks one mapping of a spec against the fields of a frozen dataclass.

Every rule stands beside its field, in the field's metadata (type from the annotation, range,
choices), so a configuration class is the only description of what a user may write. Rules that
involve two fields live beside their classes. Standard library only: the controller imports this to
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


def variant(kinds: Mapping[str, type], *, default: Any) -> Any:
    """A dataclass field that takes a section whose `kind` names one of several dataclasses.

    `default` is an instance of one of them, with a field `kind` of its own.
    """
    return dataclasses.field(
        default=default, metadata={"kind": "variant", "kinds": kinds, "default": default.kind}
    )


def variant_problems(
    given: Any, kinds: Mapping[str, type], pointer: str, *, default: str
) -> list[Problem]:
    """Everything wrong with a section whose `kind` names one of several dataclasses."""
    if not isinstance(given, Mapping):
        detail = f"expected a mapping, got {given!r:.60}"
        return [Problem(pointer, detail, f"{{kind: {default}}}")]
    kind = given.get("kind", default)
    detail_hint = _choice_problem(kind, tuple(kinds))
    if detail_hint is not None:
        return [Problem(f"{pointer}/kind", *detail_hint)]
    return field_problems(given, kinds[kind], pointer, also=["kind"])


def field_problems(
    given: Mapping[str, Any], kind: type, pointer: str, *, also: Iterable[str] = ()
) -> list[Problem]:
    """Every unknown key and every value out of its field's type, range or choices.

    `also` names keys that are allowed beside the dataclass's own (a preset, a kind).
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = [
        _section_of(name, fields.values(), pointer) or unknown_key(name, [*fields, *also], pointer)
        for name in given
        if name not in fields and name not in also
    ]
    for name in given:
        if name in fields:
            found += _field_problems(given[name], fields[name].metadata, f"{pointer}/{name}")
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
    known = sorted(set(known))
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return Problem(f"{pointer}/{_escaped(name)}", f"unknown key {str(name)[:100]!r}", hint)


def _field_problems(value: Any, rule: Mapping[str, Any], pointer: str) -> list[Problem]:
    if rule["kind"] == "variant":
        return variant_problems(value, rule["kinds"], pointer, default=rule["default"])
    detail_hint = _value_problem(value, rule)
    return [] if detail_hint is None else [Problem(pointer, *detail_hint)]


def _section_of(
    name: str, fields: Iterable[dataclasses.Field[Any]], pointer: str
) -> Problem | None:
    """The problem of a key that one of the sections below would know."""
    for field in fields:
        for kind, section in field.metadata.get("kinds", {}).items():
            if name != "kind" and name in {inner.name for inner in dataclasses.fields(section)}:
                hint = f"it belongs to {field.name}: {{kind: {kind}, {name}: ...}}"
                detail = f"unknown key {name!r}"
                return Problem(f"{pointer}/{_escaped(name)}", detail, hint)
    return None


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
