"""From the text of a specification to a `Spec`, or to everything that is wrong with it, at once.

Four looks at the document: its shape, what this version cannot run, the model's own rules, and
rules between fields. They are independent, so that one mistake does not hide the next; where two
looks object to the same place, the first is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import model.config
from controller.api.availability import unavailable
from controller.api.data_paths import path_problems
from controller.api.documents import NotReadable, Parsed
from controller.api.exchange_rules import exchange_problems
from controller.api.placement_rules import placement_problems
from controller.api.problems import ApiProblem, SpecProblem
from controller.api.shape import read_shape
from controller.api.spec import Placement, PodRange, Spec
from controller.api.training_rules import (
    batch_problems,
    checkpoint_problems,
    evaluation_problems,
    whole,
)

BYTE_TOKENS = 257
"""256 bytes and the end of a document."""


def validate(
    text: str,
    parse: Callable[[str], Parsed],
    *,
    check_data_paths: bool,
    refuse_unavailable: bool = True,
) -> Spec:
    """The specification in the text; raises ApiProblem with all errors."""
    try:
        parsed = parse(text)
    except NotReadable as error:
        raise _invalid([error.problem]) from error
    shape = read_shape(parsed.value)
    found: list[SpecProblem] = [] if isinstance(shape, Spec) else shape
    if isinstance(parsed.value, dict):
        found = [
            *found,
            *(unavailable(parsed.value) if refuse_unavailable else ()),
            *_model_problems(parsed.value),
            *_relations(parsed.value),
        ]
        if check_data_paths:
            found += path_problems(parsed.value)
    if found or not isinstance(shape, Spec):
        raise _invalid(_located(_one_per_place(found), parsed.positions))
    return shape


def pod_range(placement: Placement) -> tuple[int, int]:
    """(fewest, most) pods."""
    pods = placement.pods
    return (pods.min, pods.max) if isinstance(pods, PodRange) else (pods, pods)


def _invalid(problems: list[SpecProblem]) -> ApiProblem:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    first = problems[0]
    detail = f"the job spec has {count}: {first.pointer or 'the document'}: {first.detail}"
    return ApiProblem(422, "invalid-spec", detail, errors=problems)


def _one_per_place(problems: Iterable[SpecProblem]) -> list[SpecProblem]:
    first: dict[str, SpecProblem] = {}
    for problem in problems:
        first.setdefault(problem.pointer, problem)
    return list(first.values())


def _located(
    problems: list[SpecProblem], positions: Mapping[str, tuple[int, int]]
) -> list[SpecProblem]:
    """With line and column of the place, or of the nearest section around what is missing."""
    located = []
    for problem in problems:
        pointer = problem.pointer
        while pointer and pointer not in positions:
            pointer = pointer.rpartition("/")[0]
        line, column = positions.get(pointer, (None, None))
        located.append(dataclasses.replace(problem, line=line, column=column))
    return sorted(located, key=lambda p: (p.line or 0, p.column or 0))


def _model_problems(document: dict[str, Any]) -> list[SpecProblem]:
    placement = document.get("placement")
    mesh = placement.get("mesh", {}) if isinstance(placement, dict) else {}
    exchange = document.get("exchange")
    request = {
        "model": document.get("model"),
        "train": document.get("train"),
        "mesh": mesh,
        # What else is wrong with the section, its own shape says.
        "exchange": exchange if _is_map(exchange) else {},
    }
    return [
        SpecProblem(problem.pointer, "invalid", problem.detail, problem.hint)
        for problem in model.config.problems(request, mesh_pointer="/placement/mesh")
    ]


def _relations(document: dict[str, Any]) -> list[SpecProblem]:
    """Rules between fields that are sound by themselves."""
    return [
        *batch_problems(document, *_pods(document)),
        *evaluation_problems(document),
        *checkpoint_problems(document),
        *_vocabulary_problems(document),
        *exchange_problems(document),
        *placement_problems(document),
    ]


def _vocabulary_problems(document: dict[str, Any]) -> list[SpecProblem]:
    section = document.get("model")
    preset = model.config.PRESETS.get(str(section.get("preset"))) if _is_map(section) else None
    size = _count(document, "model", "vocab_size") or (preset.vocab_size if preset else None)
    data = document.get("data")
    tokenizer = data.get("tokenizer", {"kind": "bytes"}) if _is_map(data) else None
    if size is None or size >= BYTE_TOKENS or tokenizer != {"kind": "bytes"}:
        return []
    detail = f"{size} tokens do not hold the {BYTE_TOKENS} of the bytes tokenizer"
    return [SpecProblem("/model/vocab_size", "invalid", detail, f"at least {BYTE_TOKENS}")]


def _pods(document: dict[str, Any]) -> tuple[int, int]:
    placement = document.get("placement")
    pods = placement.get("pods", 1) if _is_map(placement) else 1
    if _is_map(pods):
        most = pods.get("max")
        return whole(pods.get("min", 1)) or 1, whole(most) or whole(pods.get("min", 1)) or 1
    return whole(pods) or 1, whole(pods) or 1


def _count(document: dict[str, Any], section: str, key: str) -> int | None:
    inner = document.get(section)
    return whole(inner.get(key)) if _is_map(inner) else None


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
