"""What a job would need and how fast it would be, told before it starts.

The arithmetic is model.planner's. Here a specification, the pods there are and what the `assume`
section takes for granted become its input, and its answer becomes a document with warnings that say
what to do. A number that cannot be known is null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from controller.api.availability import unavailable
from controller.api.conversion import job_spec, normalise
from controller.api.spec import Spec
from controller.api.validation import pod_range
from controller.core.cluster import Pod, PodState
from controller.core.program import slot_ranges
from model import planner
from model.accelerators import ACCELERATORS, Accelerator
from model.config import MeshConfig, ModelConfig, SlotConfig
from model.planner import Assumptions, Job, Plan

_FITS_SHARE = 0.92
"""Of a device's memory that a plan may fill: the runtime, its collectives and fragmentation take
some, and the activations are an estimate."""

_EXPOSED_SHARE = 0.1
"""Of a step that may go by on the link before the plan warns."""

Warned = dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Devices:
    """What the plan is for. None is unknown."""

    peak_flops_per_second: float | None
    """Of one device, in the job's compute dtype."""
    memory_bytes: int | None
    hosts_per_pod: int


def plan_document(spec: Spec, pods: Iterable[Pod]) -> dict[str, Any]:
    """The plan of a valid specification, on what it assumes or on the pods there are."""
    pods = list(pods)
    devices = _devices(spec, pods)
    job = _job(spec, devices)
    given = spec.assume
    assumptions = Assumptions(
        peak_flops_per_second=devices.peak_flops_per_second,
        link_bytes_per_second=given.link_bytes_per_second if given else None,
        mfu=given.mfu if given else None,
        tokens_per_second=given.tokens_per_second if given else None,
    )
    plan = planner.plan(job, assumptions)
    need, speed = plan.bytes_per_device, plan.speed
    return {
        "parameters": plan.parameters,
        "model_flops_per_token": plan.model_flops_per_token,
        "hardware_flops_per_token": plan.hardware_flops_per_token,
        "bytes_per_device": {**dataclasses.asdict(need), "total": need.total},
        "device_memory_bytes": devices.memory_bytes,
        "link_bytes_per_host_per_step": plan.link_bytes_per_host_per_step,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "tokens_per_step": job.num_slots * job.tokens_per_slot,
        **dataclasses.asdict(speed),
        "days": _days(spec, plan),
        "pipeline": dataclasses.asdict(plan.pipeline) if plan.pipeline else None,
        "warnings": [
            *_assumption_warnings(spec),
            *_pod_warnings(spec, pods),
            *_memory_warnings(plan, devices),
            *_link_warnings(plan),
            *_availability_warnings(spec),
        ],
        # With a platform, what model.lower and model.examine take.
        "program_request": json.loads(job_spec(spec, "").program_request),
        "spec": normalise(spec),
    }


def _job(spec: Spec, devices: Devices) -> Job:
    train, mesh = spec.train, spec.placement.mesh
    fewest, _ = pod_range(spec.placement)
    batch = train.global_batch
    if not isinstance(batch, int):
        # The largest batch needs the most memory and is what most of the tokens are trained with.
        batch = max(sequences for _, sequences in batch)
    return Job(
        model=ModelConfig.from_spec(spec.model),
        slot=SlotConfig(microbatch=train.microbatch, sequence_length=train.sequence_length),
        mesh=MeshConfig(data=mesh.data, model=mesh.model),
        slots=slot_ranges(batch // train.microbatch, fewest),
        hosts_per_pod=devices.hosts_per_pod,
        link_dtype=spec.exchange.dtype,
    )


def _devices(spec: Spec, pods: Sequence[Pod]) -> Devices:
    dtype = ModelConfig.from_spec(spec.model).compute_dtype
    wanted = spec.placement.mesh.data * spec.placement.mesh.model
    assumed = _assumed(spec)
    if assumed is not None:
        hosts = max(1, wanted // assumed.devices_per_host)
        return Devices(assumed.peak_flops_per_second.get(dtype), assumed.memory_bytes, hosts)
    fitting = [pod for pod in pods if pod.num_devices == wanted and pod.inventories]
    if not fitting or (spec.assume is not None and spec.assume.device is not None):
        return Devices(None, None, 1)
    inventory = fitting[0].inventories[0]
    peak = inventory.peak_flops_per_second.get(dtype)
    return Devices(
        peak / inventory.num_devices if peak else None,
        inventory.device_memory_bytes or None,
        fitting[0].num_hosts,
    )


def _assumed(spec: Spec) -> Accelerator | None:
    name = spec.assume.device if spec.assume else None
    return ACCELERATORS.get(name) if name else None


def _days(spec: Spec, plan: Plan) -> float | None:
    rate = plan.speed.tokens_per_second
    if rate is None:
        return None
    tokens = spec.assume.tokens if spec.assume else None
    if tokens is None:
        tokens = float(job_spec(spec, "").tokens_through(spec.train.steps))
    return planner.days_to_train(tokens, rate)


def _assumption_warnings(spec: Spec) -> list[Warned]:
    name = spec.assume.device if spec.assume else None
    if name is None or name in ACCELERATORS:
        return []
    message = f"assume.device: nothing is known about {name[:60]!r}"
    return [_warning("UnknownDevice", message, f"one of: {', '.join(ACCELERATORS)}")]


def _pod_warnings(spec: Spec, pods: Sequence[Pod]) -> list[Warned]:
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


def _memory_warnings(plan: Plan, devices: Devices) -> list[Warned]:
    need, memory = plan.bytes_per_device.total, devices.memory_bytes
    if memory is None or need <= _FITS_SHARE * memory:
        return []
    message = f"needs {_gib(need)} a device of {_gib(memory)}, {_share(need / memory)} of it"
    hint = (
        "more devices a pod (placement.mesh), a smaller train.microbatch, or more recomputation "
        "(model.remat: full)"
    )
    return [_warning("OutOfMemory", message, hint)]


def _link_warnings(plan: Plan) -> list[Warned]:
    step, exposed = plan.speed.step_seconds, plan.speed.exposed_seconds
    if not step or exposed is None or exposed <= _EXPOSED_SHARE * step:
        return []
    message = f"{_share(exposed / step)} of a step goes by on the link between the pods"
    hint = "compress (exchange.dtype), overlap (exchange.overlap), or raise train.global_batch"
    return [_warning("LinkBound", message, hint)]


def _availability_warnings(spec: Spec) -> list[Warned]:
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
