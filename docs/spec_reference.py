"""The reference of the job specification, as a document: every key, what it takes, what it is when
left out, and what it means. All of it stands in the code beside the key."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from controller.api import availability, spec
from model import config, schedule

_TEXT = """\
# The job specification, version 1

Drawn from `controller/api/spec.py`, `model/config.py` and `model/schedule.py` by
`docs/generate.py`. A specification is YAML or JSON; `landbridge validate` checks one and
`landbridge plan` says what it would take. `examples/` has some to start from. A key that is not
here is an error, and so is a number written as text. Without a default, a key must be given.

{sections}
"""

_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits and `._-`",
    r"^[0-9]+(ms|s|m|h|d)$": "a duration, such as `90s` or `2h`",
}

_LARGE = 1 << 20
"""Bounds from here on only keep out what nobody means, and are not told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A row of a table."""

    name: str
    takes: str
    default: str
    meaning: str

    def __str__(self) -> str:
        cells = (f"`{self.name}`", self.takes, self.default, self.meaning)
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def document() -> str:
    """The whole reference."""
    sections = [_section(title, about, keys) for title, about, keys in _sections()]
    return _TEXT.format(sections="\n\n".join(sections))


def _sections() -> Iterator[tuple[str, str, list[Key]]]:
    schema = spec.Spec.model_json_schema()
    definitions = {"Spec": schema, **schema["$defs"]}
    paths = _in_order(schema, definitions)
    titles = {name: _title(path, definitions[name]) for name, path in paths.items()}
    for name, path in paths.items():
        described = definitions[name]
        yield titles[name], described["description"], _keys(name, described, path, titles)
        if name == "Spec":
            yield "model", _about(config.ModelConfig), [_PRESET, *_fields(config.ModelConfig)]
        if name == "Train":
            for kind, optimizer in config.OPTIMIZERS.items():
                title = f"train.optimizer, kind: {kind}"
                yield title, _about(optimizer), _fields(optimizer)
            for kind, rule in schedule.SCHEDULES.items():
                yield f"train.optimizer.schedule, kind: {kind}", _about(rule), _fields(rule)


def _title(path: tuple[str, ...], described: Mapping[str, Any]) -> str:
    """The keys that lead to a section, and the kind that makes it this one."""
    kind = described["properties"].get("kind", {}).get("const")
    where = ".".join(path) or "The whole"
    return where if kind is None else f"{where}, kind: {kind}"


_PRESET = Key(
    "preset",
    " or ".join(f"`{name}`" for name in config.PRESETS),
    "none",
    "Where the fields that are not given come from.",
)


def _section(title: str, about: str, keys: list[Key]) -> str:
    head = "| key | takes | default | meaning |\n|---|---|---|---|"
    return "\n".join([f"## {title}", _flowing(about), "", head, *map(str, keys)])


def _in_order(
    described: Mapping[str, Any], definitions: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """The sections as a reader meets them, each once, with the keys that lead there."""
    found: dict[str, tuple[str, ...]] = {"Spec": ()}

    def visit(part: Any, path: tuple[str, ...]) -> None:
        match part:
            case {"$ref": str(reference)}:
                name = _named(reference)
                if name not in found:
                    found[name] = path
                    enter(definitions[name], path)
            case dict():
                for inner in part.values():
                    visit(inner, path)
            case list():
                for inner in part:
                    visit(inner, path)

    def enter(section: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for key, part in section["properties"].items():
            visit(part, (*path, key))

    enter(described, ())
    return found


def _keys(
    section: str, described: Mapping[str, Any], path: tuple[str, ...], titles: Mapping[str, str]
) -> list[Key]:
    fields = getattr(spec, section).model_fields
    return [
        Key(
            name,
            _takes(part, titles),
            "" if fields[name].is_required() else _shown(_default_of(fields[name])),
            _flowing(f"{_meaning(section, name, fields[name])} {_limit((*path, name))}"),
        )
        for name, part in described["properties"].items()
    ]


def _meaning(section: str, name: str, field: FieldInfo) -> str:
    if field.description is None and name != "kind":
        raise ValueError(f"{section}.{name} has no text below it that says what it means")
    return field.description or ""


def _default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _limit(path: tuple[str, ...]) -> str:
    """What this version cannot run yet of a key."""
    for limit in availability.LIMITS:
        if limit.path == path:
            able = " or ".join(f"`{value}`" for value in limit.available)
            return f"*Only {able} in this version.*" if able else "*Not in this version.*"
    return ""


def _takes(part: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    match part:
        case {"$ref": str(reference)}:
            title = titles[_named(reference)]
            return f"[{title}](#{_anchor(title)})"
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"anyOf": kinds} | {"oneOf": kinds}:
            return " or ".join(_takes(kind, titles) for kind in kinds if kind.get("type") != "null")
        case {"type": "array", "items": items}:
            return f"a list: {_takes(items, titles)}"
        case {"type": "integer" | "number" as kind}:
            return _number(kind, part)
        case {"type": "string"}:
            return _PATTERNS.get(part.get("pattern", ""), "text")
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"type": "object"}:
            return "a mapping of texts"
    return "a mapping"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


def _number(kind: str, part: Mapping[str, Any]) -> str:
    bounds = []
    if "exclusiveMinimum" in part:
        bounds.append(f"above {part['exclusiveMinimum']:g}")
    if "minimum" in part:
        bounds.append(f"from {part['minimum']:g}")
    if "exclusiveMaximum" in part:
        bounds.append(f"below {part['exclusiveMaximum']:g}")
    if part.get("maximum", _LARGE) < _LARGE:
        bounds.append(f"to {part['maximum']:g}")
    return " ".join([kind, *bounds])


def _named(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


def _shown(default: Any) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case {"kind": kind} | spec.BytesTokenizer(kind=kind):
            return f"`{{kind: {kind}}}`"
        case dict():
            return "empty"
        case spec.Section():
            return "those below"
    return f"`{default}`"


def _fields(kind: type) -> list[Key]:
    """Of a dataclass whose fields carry their rules (model.fields)."""
    meanings = _meanings(kind)
    return [
        Key(
            field.name,
            _rule(field.metadata),
            _default(field),
            _flowing(meanings[field.name]),
        )
        for field in dataclasses.fields(kind)
        if field.name != "kind"
    ]


def _rule(rule: Mapping[str, Any]) -> str:
    match rule["kind"]:
        case "choice":
            return ", ".join(f"`{option}`" for option in rule["options"])
        case "variant":
            return "a mapping with `kind`: " + ", ".join(f"`{kind}`" for kind in rule["kinds"])
    return _number(rule["kind"], {"minimum": rule["at_least"], "maximum": rule["at_most"]})


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return ""
    if field.metadata["kind"] == "variant":
        return f"`{{kind: {field.metadata['default']}}}`"
    return _shown(field.default)


def _about(kind: type) -> str:
    return inspect.getdoc(kind) or ""


def _meanings(kind: type) -> dict[str, str]:
    """The texts below the fields of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                found[name] = inspect.cleandoc(meaning)
    return found


def _flowing(text: str) -> str:
    return " ".join(text.split())
