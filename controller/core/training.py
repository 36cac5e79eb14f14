"""What the steps of a running job say: it goes on, ends, fails, or goes back over a spike."""

from __future__ import annotations

import dataclasses
import math

from controller.core import (
    batch,
    commands,
    events,
    membership,
    preparing,
    saving,
    spikes,
    step,
)
from controller.core.checkpoint import Mark, Saved
from controller.core.cluster import Assignment
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn


def steps_applied(turn: Turn, event: events.StepsApplied, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.progress is None:
        return
    before = job.progress
    progress, merged = step.report(before, event.host.pod, event.records, event.source_sequences)
    totals = before.totals
    turn.measure(dataclasses.replace(job, progress=progress), merged)
    if job.state is not JobState.RUNNING:
        return
    job = dataclasses.replace(job, progress=progress)
    for complete in merged:
        if complete.diverged:
            membership.fail(turn, job, _divergence(complete))
            return
        record = complete.record
        totals = totals.plus([record])
        verdict = spikes.judge(job.spec.spikes, job.losses, record.loss)
        if verdict.is_spike and _meet_spike(turn, job, record, verdict.reason):
            return
        job = _remembering(job, record, totals)
    turn.measure(job, ())
    if progress.is_complete:
        saving.finish(turn, job)
    else:
        preparing.extend_window(turn, job)


def evaluated(turn: Turn, event: events.Evaluated, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is not JobState.RUNNING:
        return
    known = job.evaluations
    evaluations = known.with_part(event.step, event.host.pod, event.part, job.gang)
    job = dataclasses.replace(job, evaluations=evaluations)
    turn.measure(job, ())
    if event.step in evaluations.complete and event.step not in known.complete:
        found = evaluations.complete[event.step]
        bits = f", {found.bits_per_byte:.4f} bits per byte" if found.bits_per_byte else ""
        data = {**dataclasses.asdict(found), "loss": step.finite(found.loss)}
        message = f"held-out loss after step {found.step}: {found.loss:.4f}{bits}"
        turn.put_job(job, Entry("job.evaluated", message, job.id, data=data))
        saving.finish(turn, job)


def _remembering(job: Job, record: step.StepRecord, totals: step.Totals) -> Job:
    """With what later decisions need of this step."""
    losses = spikes.remember(job.spec.spikes, job.losses, record.loss)
    checkpoints = job.checkpoints
    if saving.is_due(job, record.step):
        checkpoints = checkpoints.marked(record.step, Mark(losses, totals))
    return dataclasses.replace(job, losses=losses, checkpoints=checkpoints)


def _divergence(complete: step.MergedStep) -> Reason:
    seen = ", ".join(f"{pod} {digest[:12]}" for pod, digest in sorted(complete.digests.items()))
    return Reason("Diverged", f"after step {complete.record.step} pods hold other bits: {seen}")


def _meet_spike(turn: Turn, job: Job, record: step.StepRecord, why: str) -> bool:
    """Whether the job leaves its timeline because of this step."""
    policy = job.spec.spikes
    is_lost = not math.isfinite(record.loss)
    where = f"step {record.step}: {why}"
    if policy is None or job.rewinds >= policy.max_rewinds:
        done = f"after {job.rewinds} rewinds" if policy else "without train.spikes"
        if is_lost:
            message = f"{where}; {done} nothing is done about it but to stop"
            membership.fail(turn, job, Reason("NotFinite", message))
        else:
            data = {"step": record.step, "loss": record.loss}
            turn.note(
                Entry("spike.ignored", f"{where}; trained through, {done}", job.id, data=data)
            )
        return is_lost
    _rewind(turn, job, record, where)
    return True


def _rewind(turn: Turn, job: Job, record: step.StepRecord, where: str) -> None:
    """Back to a checkpoint, past the batches after it, with the same pods and program."""
    policy, progress = job.spec.spikes, job.progress
    assert policy is not None and progress is not None
    target = job.checkpoints.before(record.step, policy.rewind_steps)
    after, position, losses = _standing(job, target)
    # The batches around the spike, however far before it the checkpoint is.
    begins = max(after, record.step - policy.rewind_steps)
    phases, microbatch = job.spec.phases, job.spec.microbatch
    kept = batch.slots_between(phases, after, begins) * microbatch
    count = batch.slots_between(phases, begins, begins + policy.skip_steps) * microbatch
    start = batch.advance(job.skipped, position, kept)
    gone = [saved for saved in job.checkpoints.saved if saved.step > after]
    mark = job.checkpoints.marks.get(after)
    totals = progress.totals.undone_to(mark.totals if mark else step.Totals())
    message = (
        f"{where}; back to step {after}, and past {policy.skip_steps} batches from that of step "
        f"{begins + 1} on"
    )
    old = Assignment(job.id, job.generation)
    stopped = list(turn.holders(old))
    job = dataclasses.replace(
        job.moved(Move.REWIND, Reason("Rewinding", message)),
        generation=job.generation + 1,
        progress=dataclasses.replace(
            progress,
            merged=after,
            applied={},
            held={},
            recent=(),
            source_sequences={},
            totals=totals,
        ),
        checkpoints=job.checkpoints.discarded(gone).begun_anew(),
        skipped=batch.skip(job.skipped, start, count),
        rewinds=job.rewinds + 1,
        losses=losses,
        evaluations=job.evaluations.begun_anew(after),
        suspicion=None,
        rewound_at=turn.now,
    )
    data = {
        "step": record.step,
        "loss": step.finite(record.loss),
        "to_step": after,
        "skipped": count,
        "generation": job.generation,
    }
    turn.put_job(job, Entry("spike.rewound", message, job.id, data=data))
    for saved in gone:
        saving.order_removal(turn, job, old, saved)
    for host in stopped:
        turn.order(commands.StopHost(host.ref, old, message))
    new = Assignment(job.id, job.generation)
    for pod in job.gang:
        turn.put_pod(dataclasses.replace(turn.pods[pod], assignment=new))
    preparing.order(turn, job)


def _standing(job: Job, target: Saved | None) -> tuple[int, int, tuple[float, ...]]:
    """(step, position of the data, losses before) to go on from; without a checkpoint, those of
    the job's beginning."""
    if target is not None:
        return target.step, target.data_position, target.losses
    origin = job.spec.origin
    return (origin.step, origin.data_position, origin.losses) if origin else (0, 0, ())
