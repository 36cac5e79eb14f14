"""Checks a document against the shape of a specification and tells, in our words, what is wrong.

Pydantic finds the errors; here they get the pointer of the place in the document (without the names
of union branches), a sentence and a hint, with the nearest known key for an unknown one.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from controller.api.documents import pointer_of
from controller.api.problems import SpecProblem
from controller.api.spec import Spec

Key = str | int

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_type": "text",
}


def read_shape(document: Any) -> Spec | list[SpecProblem]:
    """The specification, or everything wrong with its shape."""
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        return [_problem(document, item) for item in error.errors(include_url=False)]


def _problem(document: Any, item: Any) -> SpecProblem:
    kind: str = item["type"]
    path = _path_in(document, item["loc"])
    if kind == "extra_forbidden":
        return _unknown_key(path, item["loc"])
    if kind == "missing":
        return SpecProblem(pointer_of(*path), "missing", f"{path[-1]} is missing", "give it")
    if kind == "union_tag_not_found":
        choices = _tags(item)
        return SpecProblem(pointer_of(*path, "kind"), "missing", "kind is missing", choices)
    if kind == "union_tag_invalid":
        detail = f"{item['ctx']['tag']!r:.60} is no kind"
        return SpecProblem(pointer_of(*path, "kind"), "invalid", detail, _tags(item))
    expected = _EXPECTED.get(kind)
    detail = f"{f'expected {expected}' if expected else item['msg']}, got {_shown(item['input'])}"
    code = "type" if expected else "invalid"
    return SpecProblem(pointer_of(*path), code, detail, _hint(item.get("ctx", {})))


def _path_in(document: Any, loc: Sequence[Key]) -> list[Key]:
    """The part of a pydantic location that is in the document: union branches are not."""
    path: list[Key] = []
    here = document
    for position, key in enumerate(loc):
        if _has(here, key):
            here = here[key]
            path.append(key)
        elif position == len(loc) - 1 and isinstance(here, dict) and key != "[key]":
            path.append(key)
    return path


def _has(value: Any, key: Key) -> bool:
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, dict) and key in value


def _unknown_key(path: list[Key], loc: Sequence[Key]) -> SpecProblem:
    name = str(path[-1])
    known = sorted({field for model in _models_at(loc[:-1]) for field in model.model_fields})
    near = difflib.get_close_matches(name[:100], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return SpecProblem(pointer_of(*path), "unknown-key", f"unknown key {name[:60]!r}", hint)


def _models_at(loc: Sequence[Key]) -> list[type[BaseModel]]:
    """The sections a location can mean; the name of a union branch narrows them."""
    models: list[type[BaseModel]] = [Spec]
    for key in loc:
        inner = [
            found
            for model in models
            if key in model.model_fields
            for found in _sections(model.model_fields[str(key)].annotation)
        ]
        branch = [model for model in models if key in _kinds(model)]
        models = inner or branch or models
    return models


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _sections(part)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _tags(item: Any) -> str:
    expected = item["ctx"].get("expected_tags", "")
    return f"one of: {expected}" if expected else "name the kind"


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if not isinstance(value, (dict, list)) else _collection(value)


def _collection(value: dict[Any, Any] | list[Any]) -> str:
    return "a mapping" if isinstance(value, dict) else "a list"


def _hint(context: dict[str, Any]) -> str:
    bounds = {
        "ge": "at least {}",
        "gt": "more than {}",
        "le": "at most {}",
        "lt": "less than {}",
        "min_length": "at least {} of them",
        "max_length": "at most {} long",
        "pattern": "it must match {}",
        "expected": "one of: {}",
    }
    hints = [text.format(context[key]) for key, text in bounds.items() if key in context]
    return "; ".join(hints) or "docs/spec.md has every key"
