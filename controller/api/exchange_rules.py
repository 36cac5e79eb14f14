"""Rules of the exchange section that its fields alone do not show."""

from __future__ import annotations

from typing import Any

from controller.api.problems import SpecProblem
from model.outer_config import DILOCO, OUTER_MODES


def exchange_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """What contradicts what."""
    section = document.get("exchange")
    if not isinstance(section, dict):
        return []
    dtype = section.get("dtype", "float32")
    mode, allowed = section.get("mode"), _allowed(section)
    if mode == "auto":
        found = _auto_problems(section, allowed)
    else:
        found = [
            _problem(field, "nothing is chosen unless mode is auto", "leave it out, or mode: auto")
            for field in ("budget", "allow")
            if section.get(field) is not None
        ]
        found += _outer_problems(section) if mode in OUTER_MODES else _full_problems(section, dtype)
    if mode == "auto" and section.get("rounding") == "stochastic":
        if "int8" not in allowed:
            detail = "only int8 is rounded at random, and exchange.allow does not name it"
            found.append(_problem("rounding", detail, "leave it out, or allow: [int8]"))
    elif section.get("rounding") == "stochastic" and dtype not in ("int8", "int4"):
        detail = f"{dtype} is always rounded to the nearest"
        hint = "leave it out, or use dtype: int8"
        if mode in OUTER_MODES:
            hint += " or int4"
        found.append(_problem("rounding", detail, hint))
    return found


def _full_problems(section: dict[str, Any], dtype: Any) -> list[SpecProblem]:
    """Where gradients are exchanged after every step."""
    found = []
    if dtype == "int4":
        detail = "int4 is too coarse for the gradients of single steps"
        hint = f"use int8, or mode: {' or '.join(OUTER_MODES)}"
        found.append(_problem("dtype", detail, hint))
    if section.get("reproducible") is True and dtype != "float32":
        detail = f"sums of {dtype} depend on the number of pods; all pods still agree"
        found.append(_problem("reproducible", detail, "leave it out, or use dtype: float32"))
    return found


def _auto_problems(section: dict[str, Any], allowed: list[Any]) -> list[SpecProblem]:
    """Where the dtype is chosen while the job runs."""
    found = []
    dtype = section.get("dtype", "float32")
    if dtype != "float32" or ("dtype" in section and allowed):
        detail = f"auto chooses the dtype, and {dtype} is chosen here"
        hint = "leave it out and name in exchange.allow what may be chosen, or use mode: full"
        found.append(_problem("dtype", detail, hint))
    if section.get("overlap") is False:
        detail = "auto counts on gradients that travel while others are computed"
        found.append(_problem("overlap", detail, "leave it out, or use mode: full"))
    if section.get("reproducible") is True and allowed:
        names = " and ".join(str(name) for name in allowed)
        detail = f"when {names} takes over depends on the link, and with it every bit from there on"
        hint = "leave it out, or leave out exchange.allow, so that float32 stays"
        found.append(_problem("reproducible", detail, hint))
    return found


def _allowed(section: dict[str, Any]) -> list[Any]:
    """What may be chosen beside float32; nothing where that is no list."""
    allowed = section.get("allow")
    return allowed if isinstance(allowed, list) else []


def _outer_problems(section: dict[str, Any]) -> list[SpecProblem]:
    """Where pods synchronise every so often."""
    mode, found = section["mode"], []
    if section.get("reproducible") is True:
        detail = f"what {mode} trains depends on the number of pods"
        found.append(_problem("reproducible", detail, "leave it out, or use mode: full"))
    if section.get("overlap") is False:
        detail = "what a pod sends travels for outer.delay steps"
        hint = "leave it out, and set outer.delay: 0 to wait for it"
        if mode == DILOCO:
            detail, hint = "pods wait for each other in diloco in any case", "leave it out"
        found.append(_problem("overlap", detail, hint))
    return found


def _problem(field: str, detail: str, hint: str) -> SpecProblem:
    return SpecProblem(f"/exchange/{field}", "invalid", detail, hint)
