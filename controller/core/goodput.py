"""Throughput, utilisation and where the time of a job went, from step timings.

MFU is tokens/s x model FLOPs per token / peak FLOP/s of all devices of the job (PaLM, section 4.1);
HFU counts recomputation too. A figure whose denominator is unknown is absent, never guessed.
"""

from __future__ import annotations

import dataclasses
import math

from controller.core.account import Category, Phase
from controller.core.job import Job, JobState


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
    """Wall time from its first admission to its end, or to `now`, by category of
    controller.core.account; empty before admission."""
    since = _since(job)
    if since is None:
        return {}
    return job.account.seconds(since, now, job.totals, _rest(job))


def passed_seconds(job: Job, now: float) -> dict[str, float]:
    """The same for counters: no figure ever falls, and what is not told apart yet is left out."""
    since = _since(job)
    return job.account.passed_seconds(since, now, job.totals) if since is not None else {}


def goodput(job: Job, now: float) -> float | None:
    """Share of the time since its first admission that was spent computing steps that count."""
    spent = time_seconds(job, now)
    wall = sum(spent.values())
    return spent[Category.PRODUCTIVE] / wall if wall > 0 else None


def booked(job: Job, now: float) -> Job:
    """The job after a turn, with its time up to now booked if it is at something else since."""
    account, since = job.account, _since(job)
    phase = _phase(job)
    if since is None or (phase is account.phase and account.cause is None):
        return job
    cause = account.cause
    if cause is not None and account.phase in (Phase.STARTUP, Phase.RUNNING):
        times = account.recoveries.get(cause, 0) + 1
        recoveries = {**account.recoveries, cause: times}
        account = dataclasses.replace(account, recoveries=recoveries)
    if phase is not account.phase:
        account = account.moved(phase, since, now, job.totals, _rest(job))
    return dataclasses.replace(job, account=dataclasses.replace(account, cause=None))


def _since(job: Job) -> float | None:
    """From when on its time is to be booked."""
    return job.admitted_at if job.account.until is None else job.account.until


def _phase(job: Job) -> Phase | None:
    before, is_interrupted = job.account.phase, job.account.cause is not None
    if job.is_final or job.admitted_at is None:
        return None
    if job.state is JobState.RUNNING:
        return Phase.RUNNING
    if job.state is JobState.CANCELLING:
        return Phase.RUNNING if before is Phase.RUNNING else Phase.IDLE
    if is_interrupted or before in (Phase.RUNNING, Phase.RECOVERY):
        return Phase.RECOVERY
    waits = job.state in (JobState.PENDING, JobState.SUSPENDED)
    return Phase.SUSPENDED if waits else Phase.STARTUP


def _rest(job: Job) -> Category:
    """What time was for that no step took."""
    progress, spec = job.progress, job.spec
    if job.account.phase is Phase.RECOVERY:
        return Category.RECOVERY
    if progress and progress.is_complete and (spec.checkpoint_every or spec.evaluate_every):
        return Category.CHECKPOINT
    return Category.IDLE
