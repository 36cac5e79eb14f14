"""Throughput, utilisation and where the time of a job went, from step timings.

MFU is tokens/s x model FLOPs per token / peak FLOP/s of all devices of the job (PaLM, section 4.1);
HFU counts recomputation too. A figure whose denominator is unknown is absent, never guessed.
"""

from __future__ import annotations

import dataclasses
import math

from controller.core.job import Job
from controller.core.totals import Totals


@dataclasses.dataclass(frozen=True, slots=True)
class StepSeconds:
    """Of the recent steps, seconds."""

    p50: float
    p95: float
    max: float


def tokens_per_second(job: Job) -> float | None:
    """Over the recent steps, all pods together."""
    if job.progress is None or not job.progress.recent:
        return None
    recent = job.progress.recent
    seconds = sum(record.seconds for record in recent)
    tokens = sum(job.spec.tokens_of(record.step) for record in recent)
    return tokens / seconds if seconds > 0 else None


def utilisation(
    tokens_per_s: float | None, flops_per_token: float, peak: float | None
) -> float | None:
    """Share of the peak in use; None when rate, FLOPs or peak are not known."""
    if tokens_per_s is None or not flops_per_token or not peak:
        return None
    return tokens_per_s * flops_per_token / peak


def step_seconds(job: Job) -> StepSeconds | None:
    if job.progress is None or not job.progress.recent:
        return None
    ordered = sorted(record.seconds for record in job.progress.recent)
    rank = max(0, math.ceil(0.95 * len(ordered)) - 1)
    return StepSeconds(job.progress.step_seconds or 0.0, ordered[rank], ordered[-1])


def time_seconds(job: Job, now: float) -> dict[str, float]:
    """Wall time since admission by category, none below zero.

    They sum to the wall time, or to what the hosts measured where that is more: their clocks may be
    ahead of ours.
    """
    if job.admitted_at is None:
        return {}
    end = job.finished_at if job.finished_at is not None else now
    wall = max(0.0, end - job.admitted_at)
    startup = max(0.0, (job.started_at if job.started_at is not None else end) - job.admitted_at)
    totals = job.progress.totals if job.progress else Totals()
    waited = totals.exposed_seconds + totals.data_wait_seconds + totals.pause_seconds
    spent = {
        "startup": startup,
        "compute": max(0.0, totals.seconds - waited),
        "exposed_exchange": totals.exposed_seconds,
        "data_wait": totals.data_wait_seconds,
        "evaluation_and_checkpoint": totals.pause_seconds,
        "rework": totals.rework_seconds,
        "recovery": totals.recovery_seconds,
    }
    return {**spent, "idle": max(0.0, wall - sum(spent.values()))}


def goodput(job: Job, now: float) -> float | None:
    """Share of the time since admission that was spent computing steps that counted."""
    spent = time_seconds(job, now)
    wall = sum(spent.values())
    return spent["compute"] / wall if wall > 0 else None
