"""What a run will need and how fast it will be, by arithmetic, before any accelerator is there.

Follows PaLM: model FLOPs per token are 6N + 12LHQT and utilisation is of model FLOPs (appendix B);
in a pod everything is one program, and between pods each host sends its share of the gradients to
the host of the same index (section 4). PaLM sent them after the backward pass, so that the whole
transfer was exposed; with overlap a segment travels while the next is computed, and what is exposed
is what the link has left to carry then. Weak scaling is the speed against one pod with its share of
the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from model import flops, overlap
from model.config import MeshConfig, ModelConfig, SlotConfig
from model.memory import ITEM_BYTES, OPTIMIZER_MOMENTS, DeviceBytes, device_bytes
from model.outer_config import OuterConfig
from model.pipeline import Pipeline, microbatches_for
from model.slot_tree import SlotRange, gradients_at_once, part_sizes

NUM_METRICS = 3
"""float32 sums that travel with the gradients of every slot: loss, weight, z-loss."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What runs where. `slots` has the slot range [first, end) of every pod."""

    model: ModelConfig
    slot: SlotConfig
    mesh: MeshConfig
    slots: Sequence[SlotRange]
    hosts_per_pod: int = 1
    link_dtype: str = "float32"
    chosen_dtypes: Sequence[str] = ()
    """Those that may take the place of `link_dtype` while the job runs."""
    error_feedback: bool = False
    """Whether what a smaller dtype loses on the link is kept for the next step."""
    overlaps: bool = False
    """Whether gradients travel while others are computed."""
    num_segments: int = 1
    """Groups of layers whose gradients become ready one after the other."""
    outer: OuterConfig | None = None
    """Where pods do not exchange after every step."""

    @property
    def num_slots(self) -> int:
        return self.slots[-1][1]

    @property
    def tokens_per_slot(self) -> int:
        return self.slot.microbatch * self.slot.sequence_length

    @property
    def keeps_losses(self) -> bool:
        dtypes = {self.link_dtype, *self.chosen_dtypes}
        return self.error_feedback and dtypes != {"float32"} and len(self.slots) > 1

    @property
    def devices_per_pod(self) -> int:
        return self.mesh.data * self.mesh.model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What arithmetic cannot know; None is unknown.

    `mfu` is that of a pod while it computes; `tokens_per_second` is the whole job's, the link
    included, and wins over `mfu`. `link_bytes_per_second` is what one host sends to its peers.
    """

    peak_flops_per_second: float | None = None
    """Of one device, in the compute dtype."""
    link_bytes_per_second: float | None = None
    mfu: float | None = None
    tokens_per_second: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of a step, and what follows from them; None is unknown."""

    step_seconds: float | None
    exposed_seconds: float | None
    tokens_per_second: float | None
    mfu: float | None
    hfu: float | None
    weak_scaling: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PipelinePlan:
    """The same pods as stages of a pipeline, every slot a microbatch."""

    stages: int
    microbatches: int
    bubble: float
    """Share of the time in which a stage waits."""
    device_bytes: int
    microbatches_to_match: int | None
    """The fewest that lose no more time to the bubble than is exposed on the link; None when that
    is not known, or is nothing."""
    most_microbatches: int
    """How many have a sequence for every device of the data axis."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The numbers of one job."""

    parameters: int
    model_flops_per_token: int
    hardware_flops_per_token: int
    bytes_per_device: DeviceBytes
    link_bytes_per_host_per_step: int
    """Sent by the busiest host, to all its peers together; on average."""
    checkpoint_bytes: int
    speed: Speed
    pipeline: PipelinePlan | None
    """None with one pod."""


LINK_ITEM_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0 + 4 / 256, "int4": 0.5 + 4 / 256}
"""Bytes of a number on the link; blocks of 256 int8 or int4 share a float32."""


def plan(job: Job, assumptions: Assumptions) -> Plan:
    """The plan of a job whose configurations passed model.config.problems."""
    length = job.slot.sequence_length
    numbers = flops.parameter_count(job.model) + flops.norm_scale_count(job.model)
    speed = _speed(job, assumptions)
    return Plan(
        parameters=flops.parameter_count(job.model),
        model_flops_per_token=flops.model_flops_per_token(job.model, length),
        hardware_flops_per_token=flops.hardware_flops_per_token(job.model, length),
        bytes_per_device=device_bytes(
            job.model,
            job.slot,
            job.mesh,
            gradients=gradients_at_once(job.slots),
            residuals=_residuals_at_once(job),
            fragments=job.outer.fragments if job.outer else None,
        ),
        link_bytes_per_host_per_step=link_bytes_per_host(job),
        checkpoint_bytes=numbers * _checkpoint_bytes_per_number(job),
        speed=speed,
        pipeline=_pipeline(job, speed) if len(job.slots) > 1 else None,
    )


def link_bytes_per_host(job: Job) -> int:
    """Bytes the busiest host of the gang sends in a step, on average; 0 with one pod.

    A host has 1/hosts of a gradient. In float32 it sends one for every part of the slot tree that
    its pod sums by itself, in fewer bits one in all. Two pods send each other all of it; of more,
    each sums up its share of what the others send, and sends the total on. Where pods synchronise
    every so often, each sends one sum of everything in so many steps.
    """
    pods = len(job.slots)
    numbers = flops.parameter_count(job.model) + flops.norm_scale_count(job.model)
    gradient = -(-numbers // job.hosts_per_pod) * LINK_ITEM_BYTES[job.link_dtype]
    parts = 1
    if job.link_dtype == "float32" and job.outer is None:
        parts = max(len(part_sizes(job.num_slots, *slots)) for slots in job.slots)
    sent = parts if pods == 2 else (parts + 1) * (pods - 1) / pods
    if job.outer is not None:
        return round((pods > 1) * sent * gradient / job.outer.every)
    return round((pods > 1) * sent * (gradient + NUM_METRICS * 4))


def _residuals_at_once(job: Job) -> float:
    """Of a gradient's size, on a device: those of the last step beside those of this one, which
    count once it is applied. Of more than two pods each keeps what it loses of its share of the
    total, too."""
    pods = len(job.slots)
    return job.keeps_losses * 2 * (1 + (1 / pods if pods > 2 else 0))


def _checkpoint_bytes_per_number(job: Job) -> int:
    """Parameters and the optimizer's moments; of every pod, with anchor and momentum beside, where
    they differ between pods. What is sent and not applied yet is not counted."""
    trained = ITEM_BYTES[job.model.param_dtype] + OPTIMIZER_MOMENTS * 4
    if job.outer is not None:
        trained = 2 * 4 + len(job.slots) * trained
    return trained + 4 * _residuals_written(job)


def _residuals_written(job: Job) -> int:
    """Whole ones, of all pods: of its sums, and with more than two pods of the totals, which is
    zero outside of its share."""
    pods = len(job.slots)
    return job.keeps_losses * pods * (2 if pods > 2 else 1)


def days_to_train(tokens: float, tokens_per_second: float) -> float:
    """Days of undisturbed training."""
    return tokens / tokens_per_second / 86_400


def _speed(job: Job, given: Assumptions) -> Speed:
    tokens = job.num_slots * job.tokens_per_slot
    model_flops = flops.model_flops_per_token(job.model, job.slot.sequence_length)
    hardware_flops = flops.hardware_flops_per_token(job.model, job.slot.sequence_length)
    peak = given.peak_flops_per_second
    pod_peak = peak * job.devices_per_pod if peak is not None else None
    step = compute = None
    if given.tokens_per_second is not None:
        step = tokens / given.tokens_per_second
        exposed = _exposed_of_step(job, given, step)
    else:
        if pod_peak is not None and given.mfu is not None:
            compute = _most_slots(job) * job.tokens_per_slot * model_flops / (pod_peak * given.mfu)
        exposed = _exposed_beside(job, given, compute)
        step = compute + exposed if compute is not None and exposed is not None else None
    rate = tokens / step if step else None
    mfu = hfu = scaling = None
    if rate is not None and pod_peak is not None:
        mfu = rate * model_flops / (pod_peak * len(job.slots))
        hfu = rate * hardware_flops / (pod_peak * len(job.slots))
    if step is not None and exposed is not None and exposed < step:
        scaling = len(job.slots) * (step - exposed) / step
    return Speed(
        step_seconds=step,
        exposed_seconds=exposed,
        tokens_per_second=rate,
        mfu=mfu,
        hfu=hfu,
        weak_scaling=scaling,
    )


def _pipeline(job: Job, speed: Speed) -> PipelinePlan:
    pipeline = Pipeline(stages=len(job.slots), microbatches=job.num_slots)
    lost = None
    if speed.step_seconds and speed.exposed_seconds:
        lost = speed.exposed_seconds / speed.step_seconds
    return PipelinePlan(
        stages=pipeline.stages,
        microbatches=pipeline.microbatches,
        bubble=pipeline.bubble,
        device_bytes=pipeline.device_bytes(device_bytes(job.model, job.slot, job.mesh)),
        microbatches_to_match=(
            microbatches_for(pipeline.stages, lost) if lost is not None and lost < 1 else None
        ),
        most_microbatches=max(1, job.num_slots * job.slot.microbatch // job.mesh.data),
    )


def _most_slots(job: Job) -> int:
    """Of the pod that has most of them, for which the others wait."""
    return max(end - first for first, end in job.slots)


def _exposed_beside(job: Job, given: Assumptions, compute: float | None) -> float | None:
    """What is exposed beside so many seconds of computing in a step.

    Every host sends and receives at once, so a transfer takes as long as its sending.
    """
    transfer = _transfer_seconds(job, given)
    if not transfer:
        return transfer
    if job.outer is not None:
        return _exposed_of_fragments(job, transfer, compute)
    if not job.overlaps:
        return transfer
    if compute is None:
        return None
    return max(ready * compute + tail for ready, tail in _tails(job, transfer)) - compute


def _exposed_of_step(job: Job, given: Assumptions, step: float) -> float | None:
    """What is exposed in a step that takes so many seconds. All of it, where the link alone needs
    longer."""
    transfer = _transfer_seconds(job, given)
    if not transfer:
        return transfer
    if job.outer is not None:
        return _exposed_of_fragments(job, transfer, step)
    if not job.overlaps:
        return transfer
    # The step is the longest of ready * compute + tail.
    compute = min((step - tail) / ready for ready, tail in _tails(job, transfer))
    return step - max(0.0, compute)


def _exposed_of_fragments(job: Job, transfer: float, step: float | None) -> float | None:
    """A fragment is hidden behind the steps of its delay, which take `step` seconds each."""
    assert job.outer is not None
    if not job.outer.delay:
        return transfer
    if step is None:
        return None
    hidden = job.outer.delay * step * job.outer.fragments / job.outer.every
    return max(0.0, transfer - hidden)


def _transfer_seconds(job: Job, given: Assumptions) -> float | None:
    """Of what the busiest host sends for a step."""
    if len(job.slots) == 1:
        return 0.0
    if given.link_bytes_per_second is None:
        return None
    return link_bytes_per_host(job) / given.link_bytes_per_second


def _tails(job: Job, transfer: float) -> list[tuple[float, float]]:
    """For every segment, the share of a step's computing after which it is ready, and the seconds
    of sending it and all behind it. Sums are complete with a pod's last slot, so only that one's
    segments become ready one after the other."""
    slots = _most_slots(job)
    found = overlap.departures(job.model, job.slot.sequence_length, job.num_segments)
    whole = found[0].remaining
    return [
        ((slots - 1 + departure.ready) / slots, transfer * departure.remaining / whole)
        for departure in found
    ]
