"""Rules of the exchange section that its fields alone do not show."""

from __future__ import annotations

from typing import Any

from controller.api.problems import SpecProblem


def exchange_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """What contradicts what."""
    section = document.get("exchange")
    if not isinstance(section, dict):
        return []
    dtype = section.get("dtype", "float32")
    found = []
    if section.get("rounding") == "stochastic" and dtype != "int8":
        detail = f"{dtype} is always rounded to the nearest"
        found.append(_problem("rounding", detail, "leave it out, or use dtype: int8"))
    if section.get("reproducible") is True and dtype != "float32":
        detail = f"sums of {dtype} depend on the number of pods; all pods still agree"
        found.append(_problem("reproducible", detail, "leave it out, or use dtype: float32"))
    return found


def _problem(field: str, detail: str, hint: str) -> SpecProblem:
    return SpecProblem(f"/exchange/{field}", "invalid", detail, hint)
