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

from controller.api import plan_warnings
from controller.api.conversion import job_spec, normalise
from controller.api.spec import Spec
from controller.api.validation import pod_range
from controller.core.cluster import Pod
from controller.core.job import JobSpec
from controller.core.program import slot_ranges
from model import planner
from model.accelerators import ACCELERATORS, Accelerator
from model.config import MeshConfig, ModelConfig, SlotConfig
from model.outer_config import OuterConfig
from model.planner import Assumptions, Job, Plan
from model.segments import segment_count


@dataclasses.dataclass(frozen=True, slots=True)
class Devices:
    """What the plan is for. None is unknown."""

    peak_flops_per_second: float | None
    """Of one device, in the job's compute dtype."""
    memory_bytes: int | None
    hosts_per_pod: int


def plan_document(spec: Spec, pods: Iterable[Pod] | None) -> dict[str, Any]:
    """The plan of a valid specification, on what it assumes or on the pods there are; None is
    where pods are not known."""
    pods = None if pods is None else list(pods)
    devices, decided = _devices(spec, pods or ()), job_spec(spec, "")
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
        "days": _days(spec, decided, plan),
        "pipeline": dataclasses.asdict(plan.pipeline) if plan.pipeline else None,
        "warnings": [
            *(plan_warnings.of_pods(spec, pods) if pods is not None else ()),
            *plan_warnings.of_plan(decided, plan, devices.memory_bytes),
            *plan_warnings.of_spec(spec),
        ],
        # With a platform, what model.lower and model.examine take.
        "program_request": json.loads(decided.program_request),
        "spec": normalise(spec),
    }


def _job(spec: Spec, devices: Devices) -> Job:
    train, mesh = spec.train, spec.placement.mesh
    model = ModelConfig.from_spec(spec.model)
    fewest, _ = pod_range(spec.placement)
    batch = train.global_batch
    if not isinstance(batch, int):
        # The largest batch needs the most memory and is what most of the tokens are trained with.
        batch = max(sequences for _, sequences in batch)
    return Job(
        model=model,
        slot=SlotConfig(microbatch=train.microbatch, sequence_length=train.sequence_length),
        mesh=MeshConfig(data=mesh.data, model=mesh.model),
        slots=slot_ranges(batch // train.microbatch, fewest),
        hosts_per_pod=devices.hosts_per_pod,
        link_dtype=spec.exchange.dtype,
        chosen_dtypes=spec.exchange.allow or (),
        error_feedback=spec.exchange.error_feedback,
        overlaps=spec.exchange.overlap,
        num_segments=spec.exchange.segments or segment_count(model),
        outer=OuterConfig.from_spec(spec.exchange.model_dump(exclude_none=True), model.num_layers),
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


def _days(spec: Spec, decided: JobSpec, plan: Plan) -> float | None:
    rate = plan.speed.tokens_per_second
    if rate is None:
        return None
    tokens = spec.assume.tokens if spec.assume else None
    if tokens is None:
        tokens = float(decided.tokens_through(decided.steps))
    return planner.days_to_train(tokens, rate)
