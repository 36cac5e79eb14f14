"""The plan page: a specification in, and its plan or everything wrong with it as a page shows them.

Nothing is decided here that the API does not say; what it leaves out stays unknown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from controller.api.context import ApiContext
from controller.api.documents import parse_yaml
from controller.api.plan import plan_document
from controller.api.problems import MAX_ERRORS, ApiProblem, SpecProblem
from controller.api.validation import validate
from controller.dashboard import FOLDER, figures

_SPECS = FOLDER / "static" / "specs"
"""Copies of examples/, which an installed controller does not have."""

SHOWN_FIRST = "palm-540b"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Either a plan, as `figures_of` gives it, or problems."""

    plan: Mapping[str, Any] | None
    problems: tuple[SpecProblem, ...] = ()
    num_problems: int = 0


def examples() -> dict[str, pathlib.Path]:
    """Specifications to begin with, by name."""
    return {path.stem: path for path in sorted(_SPECS.glob("*.yaml"))}


async def answer(text: str, context: ApiContext) -> Answer:
    """What POST /api/v1/jobs:plan says about a YAML or JSON text."""
    try:
        spec = await asyncio.to_thread(
            validate,
            text,
            parse_yaml,
            check_data_paths=context.check_data_paths,
            refuse_unavailable=False,
        )
    except ApiProblem as problem:
        shown = tuple(problem.errors[:MAX_ERRORS])
        return Answer(None, shown, len(problem.errors))
    return Answer(figures_of(plan_document(spec, context.loop.state.pods.values())))


def figures_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan document with what the page draws: `memory`, `step`, `wanting` and `tokens`.

    `memory` has parts of a bar that is 1000 wide and ends at what is larger, the need or the
    device; `limit` is where the device ends, None where that is the end of the bar or not known.
    `wanting` has the fields without which the time of a step is not known.
    """
    need, device = dict(plan["bytes_per_device"]), plan["device_memory_bytes"]
    total = need.pop("total")
    free = max(0, device - total) if device else 0
    rate, days = plan["tokens_per_second"], plan["days"]
    return {
        **plan,
        "memory": {
            "verdict": _verdict(plan),
            "parts": figures.shares({**need, "free": free}),
            "limit": round(1000 * device / total) if device and total > device else None,
        },
        "step": _step(plan),
        "wanting": _wanting(plan),
        "tokens": rate * days * 86_400 if rate is not None and days is not None else None,
    }


def _verdict(plan: Mapping[str, Any]) -> str:
    if plan["device_memory_bytes"] is None:
        return "unknown"
    codes = {warning["code"] for warning in plan["warnings"]}
    return "too-large" if "OutOfMemory" in codes else "fits"


def _step(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts of a step's bar; none where a step's time, or the link's share of it, is not known."""
    step, exposed = plan["step_seconds"], plan["exposed_seconds"]
    if step is None or exposed is None:
        return []
    return figures.shares({"compute": max(0.0, step - exposed), "exposed exchange": exposed})


def _wanting(plan: Mapping[str, Any]) -> list[str]:
    given = plan["spec"].get("assume", {})
    fields = []
    # Where gradients travel behind computation, it takes the time of that, too.
    if plan["exposed_seconds"] is None and "link_bytes_per_second" not in given:
        fields.append("assume.link_bytes_per_second")
    if "mfu" not in given and "tokens_per_second" not in given:
        fields.append("assume.mfu")
    # The speed follows from an MFU only where the peak of a device is known.
    if plan["step_seconds"] is None and not fields:
        fields.append("assume.device")
    return fields
