"""What the steps of a running job say: it goes on, ends, fails, or goes back over a spike."""

from __future__ import annotations

import dataclasses

from controller.core import (
    adapting,
    divergence,
    events,
    exposure,
    letting_go,
    preparing,
    rewinding,
    saving,
    spikes,
    step,
    straggling,
)
from controller.core.job import Job, JobState, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.record import StepRecord
from controller.core.spikes import Spike, Verdict
from controller.core.totals import durations
from controller.core.turn import Entry, Turn


def steps_applied(turn: Turn, event: events.StepsApplied, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.progress is None:
        return
    before = job.progress
    pod, seen = event.host.pod, event.source_sequences
    progress, merged = step.report(before, pod, event.records, seen, job.slots)
    timeline = before.totals.timeline
    if merged and job.setbacks.in_a_row:
        setbacks = dataclasses.replace(job.setbacks, in_a_row=0)
        job = dataclasses.replace(job, setbacks=setbacks)
    turn.measure(dataclasses.replace(job, progress=progress), merged)
    if job.state is not JobState.RUNNING or job.spike is not None:
        return
    progress = _with_link_news(turn, job, progress)
    progress = _with_straggler_news(turn, job, progress)
    job = dataclasses.replace(job, progress=progress)
    for complete in merged:
        if complete.diverged:
            divergence.met(turn, job, complete.record.step, complete.digests)
            return
        if complete.digests:
            digest = next(iter(complete.digests.values()))
            job = divergence.agreed(turn, job, complete.record.step, digest)
        record = complete.record
        timeline = timeline.plus(durations([record]))
        verdict = spikes.judge(job.spec.spikes, job.losses, record.loss, record.grad_norm)
        if verdict.is_spike and _meet_spike(turn, job, record, verdict):
            return
        job = saving.remembering(job, record, timeline)
    turn.measure(job, ())
    if progress.is_complete:
        saving.finish(turn, job)
    else:
        # A change is ordered before steps are granted that it is for.
        preparing.extend_window(turn, adapting.judge(turn, job))


def evaluated(turn: Turn, event: events.Evaluated, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is not JobState.RUNNING:
        return
    if job.spike is not None and event.step >= job.spike.step:
        return
    newest = job.evaluations.newest
    if newest is not None and event.step <= newest.step:
        # Told again to a restarted controller.
        return
    known = job.evaluations
    evaluations = known.with_part(event.step, event.host.pod, event.part, job.gang)
    job = dataclasses.replace(job, evaluations=evaluations)
    turn.measure(job, ())
    if event.step in evaluations.complete and event.step not in known.complete:
        found = evaluations.complete[event.step]
        bits = f", {found.bits_per_byte:.4f} bits per byte" if found.bits_per_byte else ""
        message = f"held-out loss after step {found.step}: {found.loss:.4f}{bits}"
        turn.put_job(job, Entry("job.evaluated", message, job.id, data=found.document()))
        saving.finish(turn, job)


def _with_link_news(turn: Turn, job: Job, progress: step.Progress) -> step.Progress:
    """Say when the link begins to hold the job up, and when it no longer does."""
    waits = exposure.waits(progress)
    if waits == progress.waits_for_link:
        return progress
    data = {"step": progress.merged, "share": exposure.share(progress)}
    message = exposure.sentence(progress, job.gang, turn.pods)
    if waits:
        turn.note(Entry("link.slow", message, job.id, data=data))
    else:
        turn.note(Entry("link.keeps_up", f"the link keeps up again: {message}", job.id, data=data))
    return dataclasses.replace(progress, waits_for_link=waits)


def _with_straggler_news(turn: Turn, job: Job, progress: step.Progress) -> step.Progress:
    """Say when all pods begin to wait for one of them, and when they no longer do."""
    before, found = progress.straggler, straggling.judge(progress.paces, progress.straggler)
    if found == before:
        return progress
    data = {"step": progress.merged}
    if before:
        message = f"{before} keeps up with the others again"
        turn.note(Entry("pod.keeps_up", message, job.id, before, data))
    if isinstance(found, straggling.Straggler):
        figures = {"seconds": found.seconds, "others_seconds": found.others_seconds}
        turn.note(Entry("pod.straggles", str(found), job.id, found.pod, {**data, **figures}))
        found = found.pod
    return dataclasses.replace(progress, straggler=found)


def _meet_spike(turn: Turn, job: Job, record: StepRecord, verdict: Verdict) -> bool:
    """Whether the job leaves its timeline because of this step."""
    policy = job.spec.spikes
    where = f"step {record.step}: {verdict.reason}"
    if policy is None or job.rewinds >= policy.max_rewinds:
        done = f"after {job.rewinds} rewinds" if policy else "without train.spikes"
        if verdict.is_lost:
            message = f"{where}; {done} nothing is done about it but to stop"
            letting_go.fail(turn, job, Reason("NotFinite", message))
        else:
            data = {"step": record.step, "loss": record.loss}
            turn.note(
                Entry("spike.ignored", f"{where}; trained through, {done}", job.id, data=data)
            )
        return verdict.is_lost
    rewinding.meet(turn, job, Spike(record.step, record.loss, where))
    return True
