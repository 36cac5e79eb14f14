"""One record out of those of all pods for the same step: how long it lasted, and what for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from controller.core.record import MergedStep, StepRecord

Slots = Callable[[int], Mapping[str, int]]
"""Of a step, how many microbatch slots each pod has."""

Waits = Mapping[str, float]
"""Pod name -> seconds that it waited for others in earlier steps and that no step was charged."""


def merge_all(
    held: Mapping[str, tuple[StepRecord, ...]],
    count: int,
    last: StepRecord | None,
    slots: Slots | None,
    waits: Waits,
) -> tuple[list[MergedStep], Waits]:
    """The first `count` steps that every pod of `held` has told of, after step `last`; and what is
    kept for the steps after them."""
    merged: list[MergedStep] = []
    for index in range(count):
        by_pod = {pod: queue[index] for pod, queue in held.items()}
        step, waits = merge(by_pod, last, slots, waits)
        merged.append(step)
        last = step.record
    return merged, waits


def merge(
    by_pod: Mapping[str, StepRecord], last: StepRecord | None, slots: Slots | None, waits: Waits
) -> tuple[MergedStep, Waits]:
    """One step out of a record per pod, and what is kept for the step after it.

    Where the time went is the word of the pod that has waited least for the others: they waited
    for it, or all of them for the link, and what it waited is all that a faster link could save.

    Over several steps, not in this one alone: pods that a link holds up by half a second each may
    wait a second each in turn, and then one of them waits for nothing in every step. What a pod
    waited beyond what was charged is kept for the next steps, up to a step's length: a pod that
    becomes the slow one must not be charged what it saved when it was the fast one. What is left
    over is no link's: the pod with most of it is the fastest, and waits for the slowest.

    A merged step lasts from the last pod's end of the step before to the last pod's end of this
    one, so that durations of steps sum to wall time; the slowest pod of each step alone would
    exceed it.
    """
    records = list(by_pod.values())
    digests = {pod: r.digest for pod, r in by_pod.items() if r.digest}
    waited = {pod: waits.get(pod, 0.0) + r.exposed_seconds for pod, r in by_pod.items()}
    pace = by_pod[min(by_pod, key=lambda pod: (waited[pod], -by_pod[pod].seconds))]
    if len(records) == 1:
        alone = dataclasses.replace(pace, digest="") if pace.digest else pace
        return MergedStep(alone, digests), {}
    time = max(r.time for r in records)
    seconds = max(0.0, time - last.time) if last is not None else pace.seconds
    exposed = min(min(waited.values()), seconds)
    data_wait = min(pace.data_wait_seconds, seconds - exposed)
    pause = min(pace.pause_seconds, seconds - exposed - data_wait)
    left = {pod: waited[pod] - exposed - _charged(pace, r) for pod, r in by_pod.items()}
    compute = seconds - exposed - data_wait - pause
    straggler = min(max(0.0, max(left.values()) - seconds), compute)
    rest = {pod: min(max(0.0, each), seconds) for pod, each in left.items()}
    counts = slots(pace.step) if slots is not None else dict.fromkeys(by_pod, 1)
    weights = [counts[pod] for pod in by_pod]
    grad_norms = [r.grad_norm for r in records if r.grad_norm is not None]
    merged = MergedStep(
        dataclasses.replace(
            pace,
            time=time,
            loss=_mean([r.loss for r in records], weights),
            grad_norm=_mean(grad_norms, weights) if len(grad_norms) == len(records) else None,
            learning_rate=_mean([r.learning_rate for r in records], weights),
            seconds=seconds,
            compute_seconds=compute,
            exposed_seconds=exposed,
            data_wait_seconds=data_wait,
            pause_seconds=pause,
            straggler_seconds=straggler,
            link_bytes=sum(r.link_bytes for r in records),
            float32_bytes=sum(r.float32_bytes for r in records),
            residual_norm=max(
                (n for r in records if (n := r.residual_norm) is not None), default=None
            ),
            digest="",
        ),
        digests,
    )
    return merged, rest


def _charged(pace: StepRecord, record: StepRecord) -> float:
    """Of what a pod waited, what the step is charged as the slow pod's reading, evaluating or
    saving."""
    data_wait = max(0.0, pace.data_wait_seconds - record.data_wait_seconds)
    return data_wait + max(0.0, pace.pause_seconds - record.pause_seconds)


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """The weighted mean; where all pods say the same, in the bits that they say it."""
    if len(set(values)) == 1:
        return values[0]
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
