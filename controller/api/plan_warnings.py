"""What a plan warns of, each with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.api.availability import unavailable
from controller.api.spec import Spec
from controller.api.validation import pod_range
from controller.core.cluster import Pod, PodState
from controller.core.exposure import ways_out
from controller.core.job import JobSpec
from model.accelerators import ACCELERATORS
from model.memory import LESS_MEMORY
from model.planner import Plan

_FITS_SHARE = 0.92
"""Of a device's memory that a plan may fill: the runtime, its collectives and fragmentation take
some, and the activations are an estimate."""

_EXPOSED_SHARE = 0.1
"""Of a step that may go by on the link before the plan warns."""

Warned = dict[str, str]


def of_pods(spec: Spec, pods: Sequence[Pod]) -> list[Warned]:
    """Whether those there are can hold the job."""
    if spec.assume is not None and spec.assume.device is not None:
        return []
    mesh = spec.placement.mesh
    devices, (fewest, _) = mesh.data * mesh.model, pod_range(spec.placement)
    coming = [p for p in pods if p.state is not PodState.LOST]
    fitting = [p for p in coming if p.state is PodState.FORMING or p.num_devices == devices]
    if len(fitting) >= fewest:
        return []
    there_are = ", ".join(f"{pod.name} of {pod.num_devices}" for pod in coming) or "none"
    needs = f"{_count(fewest, 'pod')} of {_count(devices, 'device')}"
    message = f"needs {needs}; there are: {there_are}"
    hint = "the job would wait; change placement.mesh or placement.pods"
    return [_warning("DoesNotFit", message, hint)]


def of_plan(decided: JobSpec, plan: Plan, device_memory_bytes: int | None) -> list[Warned]:
    """What does not fit, and what takes long; memory of a device None is unknown."""
    return [*_memory(plan, device_memory_bytes), *_link(decided, plan)]


def of_spec(spec: Spec) -> list[Warned]:
    """What the specification says and does not get, wherever it runs."""
    return [*_assumed_device(spec), *_rewinds(spec), *_best(spec), *_availability(spec)]


def _assumed_device(spec: Spec) -> list[Warned]:
    name = spec.assume.device if spec.assume else None
    if name is None or name in ACCELERATORS:
        return []
    message = f"assume.device: nothing is known about {name[:60]!r}"
    return [_warning("UnknownDevice", message, f"one of: {', '.join(ACCELERATORS)}")]


def _memory(plan: Plan, memory: int | None) -> list[Warned]:
    need = plan.bytes_per_device.total
    if memory is None or need <= _FITS_SHARE * memory:
        return []
    message = f"needs {_gib(need)} a device of {_gib(memory)}, {_share(need / memory)} of it"
    return [_warning("OutOfMemory", message, LESS_MEMORY)]


def _link(decided: JobSpec, plan: Plan) -> list[Warned]:
    step, exposed = plan.speed.step_seconds, plan.speed.exposed_seconds
    if not step or exposed is None or exposed <= _EXPOSED_SHARE * step:
        return []
    message = f"{_share(exposed / step)} of a step goes by on the link between the pods"
    return [_warning("LinkBound", message, ways_out(decided.exchange, decided.choice))]


def _rewinds(spec: Spec) -> list[Warned]:
    """Going back needs a checkpoint old enough that is still there."""
    spikes, checkpoint = spec.train.spikes, spec.checkpoint
    if spikes is None or checkpoint is None:
        return []
    if checkpoint.keep_every and checkpoint.keep_every <= spikes.rewind_steps:
        return []
    # Just before a save the newest is almost `every` steps old, just after it 0.
    oldest = (checkpoint.keep - 1) * checkpoint.every
    if oldest >= spikes.rewind_steps:
        return []
    message = (
        f"a spike goes back {spikes.rewind_steps} steps, and the oldest of {checkpoint.keep} "
        f"checkpoints may be {oldest} steps old"
    )
    hint = f"checkpoint.keep: {-(-spikes.rewind_steps // checkpoint.every) + 1}, or fewer saves"
    return [_warning("RewindTooShort", message, hint)]


def _best(spec: Spec) -> list[Warned]:
    """A checkpoint has a held-out loss when both are due after the same step."""
    checkpoint, evaluation = spec.checkpoint, spec.train.eval
    if checkpoint is None or evaluation is None or not checkpoint.keep_best:
        return []
    together = math.lcm(checkpoint.every, evaluation.every)
    if together == checkpoint.every:
        return []
    message = f"only a checkpoint every {together} steps has a held-out loss to be the best by"
    hint = "make checkpoint.every a multiple of train.eval.every"
    return [_warning("BestIsRarelyKnown", message, hint)]


def _availability(spec: Spec) -> list[Warned]:
    document = spec.model_dump(mode="json", exclude_none=True)
    return [
        _warning("NotAvailable", problem.detail, problem.hint) for problem in unavailable(document)
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _warning(code: str, message: str, hint: str) -> Warned:
    return {"code": code, "message": message, "hint": hint}


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"


def _share(ratio: float) -> str:
    return f"{100 * ratio:.0f}%"
