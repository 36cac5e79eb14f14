"""Rules of the exchange section that its fields alone do not show."""

from __future__ import annotations

from typing import Any

from controller.api.problems import SpecProblem
from model.outer_config import OUTER_MODES


def exchange_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """What contradicts what."""
    section = document.get("exchange")
    if not isinstance(section, dict):
        return []
    dtype = section.get("dtype", "float32")
    if section.get("mode") in OUTER_MODES:
        found = _outer_problems(section)
    else:
        found = _full_problems(section, dtype)
    if section.get("rounding") == "stochastic" and dtype not in ("int8", "int4"):
        detail = f"{dtype} is always rounded to the nearest"
        found.append(_problem("rounding", detail, "leave it out, or use dtype: int8"))
    return found


def _full_problems(section: dict[str, Any], dtype: Any) -> list[SpecProblem]:
    """Where gradients are exchanged after every step."""
    found = []
    if dtype == "int4":
        detail = "gradients of single steps do not bear int4"
        hint = f"use int8, or mode: {' or '.join(OUTER_MODES)}"
        found.append(_problem("dtype", detail, hint))
    if section.get("reproducible") is True and dtype != "float32":
        detail = f"sums of {dtype} depend on the number of pods; all pods still agree"
        found.append(_problem("reproducible", detail, "leave it out, or use dtype: float32"))
    return found


def _outer_problems(section: dict[str, Any]) -> list[SpecProblem]:
    """Where pods synchronise every so often."""
    mode, found = section["mode"], []
    if section.get("reproducible") is True:
        detail = f"what {mode} trains depends on the number of pods"
        found.append(_problem("reproducible", detail, "leave it out, or use mode: full"))
    if section.get("overlap") is False:
        detail = "what a pod sends travels for outer.delay steps"
        hint = "leave it out, and set outer.delay: 0 to wait for it"
        found.append(_problem("overlap", detail, hint))
    return found


def _problem(field: str, detail: str, hint: str) -> SpecProblem:
    return SpecProblem(f"/exchange/{field}", "invalid", detail, hint)
