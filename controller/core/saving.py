"""Checkpoints of running jobs, from the pods' words to what is kept; the end waits for the last.

A job that writes checkpoints ends after its last one is published or given up: whoever sees it
SUCCEEDED finds its final state on disk, or an event that says why not.
"""

from __future__ import annotations

import dataclasses
import math

from controller.core import checkpoint, commands, divergence, errors, events, letting_go, spikes
from controller.core.checkpoint import Mark, Part, Saved
from controller.core.cluster import Assignment, HostRef
from controller.core.commands import CheckpointId
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.record import StepRecord
from controller.core.totals import Durations
from controller.core.turn import Entry, Turn


def is_due(job: Job, step: int) -> bool:
    """Whether the pods write the state after this step."""
    every = job.spec.checkpoint_every
    if not every:
        return False
    is_last = step == job.target_steps
    return is_last or step % every == 0 or step in job.checkpoints.requested


def remembering(job: Job, record: StepRecord, timeline: Durations) -> Job:
    """With what later decisions need of a step; `timeline` is that through it."""
    losses = spikes.remember(job.spec.spikes, job.losses, record.loss)
    checkpoints = job.checkpoints
    if is_due(job, record.step):
        checkpoints = checkpoints.marked(record.step, Mark(losses, timeline))
    return dataclasses.replace(job, losses=losses, checkpoints=checkpoints)


def checkpoint_requested(
    turn: Turn, event: events.CheckpointRequested, _policy: LivenessPolicy
) -> None:
    """The step is the first that no host may run yet: all of them hear of it in time."""
    job = turn.job(event.job_id)
    has_checkpoints, is_leaving = bool(job.spec.checkpoint_every), job.spike is not None
    is_awaited = job.awaited_since is not None
    if job.state is not JobState.RUNNING or is_leaving or is_awaited or not has_checkpoints:
        doing = "going back over a spike" if is_leaving else job.state
        doing = "waiting for its hosts" if is_awaited else doing
        raise errors.CannotSave(job.id, doing, has_checkpoints)
    assert job.progress is not None
    step = min(job.progress.granted + 1, job.target_steps)
    checkpoints = job.checkpoints
    requested = dataclasses.replace(checkpoints, requested=checkpoints.requested | {step})
    turn.measure(dataclasses.replace(job, checkpoints=requested), ())
    turn.note(Entry("checkpoint.requested", f"{event.actor} wants step {step} on disk", job.id))
    assignment = Assignment(job.id, job.generation)
    for host in turn.holders(assignment):
        turn.order(commands.SaveCheckpoint(host.ref, assignment, step))


def checkpoint_written(
    turn: Turn, event: events.CheckpointWritten, _policy: LivenessPolicy
) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is not JobState.RUNNING:
        return
    if not job.checkpoints.may_come(event.step):
        return
    if event.error:
        _give_up(turn, job, event.step, f"{event.host} could not write its share: {event.error}")
        return
    part = Part(event.state_sha256, event.num_bytes, event.data_position)
    checkpoints = job.checkpoints.with_part(event.step, event.host.pod, part)
    job = dataclasses.replace(job, checkpoints=checkpoints)
    turn.measure(job, ())
    parts = checkpoint.complete(checkpoints, event.step, job.gang)
    if parts is None:
        return
    keeper = _keeper(turn, job)
    assert keeper is not None, "a running job has all its pods"
    digests = {pod: part.state_sha256 for pod, part in zip(job.gang, parts, strict=True)}
    if len(set(digests.values())) > 1:
        divergence.met(turn, job, event.step, digests)
        return
    turn.order(
        commands.PublishCheckpoint(
            keeper,
            event.assignment,
            job.spec.checkpoint_directory,
            event.step,
            len(job.gang),
            event.state_sha256,
            event.data_position,
            job.skipped,
        )
    )


def checkpoint_published(
    turn: Turn, event: events.CheckpointPublished, _policy: LivenessPolicy
) -> None:
    job = turn.current_job(event.assignment)
    if job is None or not _may_publish(job) or event.host != _keeper(turn, job):
        return
    this = CheckpointId(event.step, event.assignment.generation)
    parts = job.checkpoints.under_way.get(event.step, {})
    mark = job.checkpoints.marks.get(event.step)
    if not parts or mark is None:
        # Overtaken by a later one, or behind a spike that is about to be met.
        if not event.error and not job.checkpoints.has(this):
            order_removal(turn, job, event.assignment, this)
        return
    if event.error:
        _give_up(turn, job, event.step, f"{event.host} could not publish it: {event.error}")
        return
    evaluation = job.evaluations.complete.get(event.step)
    any_part = next(iter(parts.values()))
    saved = Saved(
        this.step,
        this.generation,
        any_part.state_sha256,
        sum(part.num_bytes for part in parts.values()),
        turn.now,
        any_part.data_position,
        mark.losses,
        evaluation.loss if evaluation and math.isfinite(evaluation.loss) else None,
        mark.timeline,
    )
    checkpoints = job.checkpoints.published(saved)
    gone = checkpoint.superfluous(
        checkpoints,
        job.spec.checkpoint_keep,
        job.spec.checkpoint_keep_every,
        job.spec.checkpoint_keep_best,
        wanted(turn, job),
    )
    for old in gone:
        order_removal(turn, job, event.assignment, old.id)
    job = dataclasses.replace(job, checkpoints=checkpoints.discarded(gone))
    message = f"step {saved.step} is on disk, {saved.num_bytes} bytes"
    turn.put_job(job, Entry("checkpoint.published", message, job.id, data={"step": saved.step}))
    if job.state is JobState.RUNNING:
        finish(turn, job)


def order_removal(turn: Turn, job: Job, assignment: Assignment, which: CheckpointId) -> None:
    """Have a checkpoint deleted, by a gang that is whole."""
    keeper, directory = _keeper(turn, job), job.spec.checkpoint_directory
    assert keeper is not None, "a gang that is whole has its first lead"
    turn.order(commands.RemoveCheckpoint(keeper, assignment, directory, which))


def wanted(turn: Turn, job: Job) -> set[CheckpointId]:
    """Its checkpoints that other jobs start from."""
    origins = (other.spec.origin for other in turn.jobs.values())
    return {origin.id for origin in origins if origin and origin.job == job.id}


def publishing(job: Job) -> list[int]:
    """Steps whose parts are all written, and whose publication was ordered."""
    parts = job.checkpoints
    return [step for step in parts.under_way if checkpoint.complete(parts, step, job.gang)]


def restore_failed(turn: Turn, event: events.RestoreFailed, _policy: LivenessPolicy) -> None:
    """The checkpoint before is tried, and the seed when there is none."""
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is not JobState.STARTING:
        return
    newest = job.checkpoints.newest
    if newest is None:
        # The checkpoint of another job: there is none before it to go back to.
        letting_go.fail(turn, job, Reason("CheckpointDamaged", f"{event.host}: {event.message}"))
        return
    checkpoints = job.checkpoints.discarded([newest])
    before = checkpoints.newest
    start = "from the other job's checkpoint" if job.spec.origin else "over"
    then = f"step {before.step} is tried" if before else f"the job starts {start}"
    reason = Reason("CheckpointDamaged", f"{event.host}: {event.message}; {then}")
    turn.put_job(
        dataclasses.replace(
            job.moved(Move.REQUEUE, reason),
            checkpoints=checkpoints,
            account=job.account.interrupted(reason.code),
        ),
        Entry("checkpoint.damaged", reason.message, job.id, data={"step": newest.step}),
    )
    letting_go.let_go(turn, job, reason.message)
    turn.availability_changed = True


def finish(turn: Turn, job: Job) -> None:
    """The job ends, if its steps are applied, its last state is evaluated, and its last checkpoint
    is published or given up."""
    assert job.progress is not None
    if not job.progress.is_complete or job.spike is not None:
        return
    # A generation that starts at the end applies nothing, and nothing is evaluated.
    is_evaluated = (
        not job.spec.evaluate_every
        or job.progress.last is None
        or job.target_steps in job.evaluations.complete
    )
    newest = job.checkpoints.newest
    is_settled = (
        not job.spec.checkpoint_every
        or not job.checkpoints.may_come(job.target_steps)
        or (newest is not None and newest.step >= job.target_steps)
    )
    if not is_evaluated or not is_settled:
        return
    message = f"all {job.target_steps} steps applied"
    if job.target_steps < job.spec.steps:
        message = f"{job.target_steps} of {job.spec.steps} steps applied; the data ended"
    reason = Reason("Completed", message)
    job = dataclasses.replace(job.moved(Move.FINISH, reason), finished_at=turn.now)
    turn.put_job(job, Entry("job.succeeded", reason.message, job.id))
    letting_go.let_go(turn, job, reason.message)


def _give_up(turn: Turn, job: Job, step: int, message: str) -> None:
    job = dataclasses.replace(job, checkpoints=job.checkpoints.given_up(step))
    message = f"no checkpoint of step {step}: {message}"
    turn.put_job(job, Entry("checkpoint.failed", message, job.id, data={"step": step}))
    finish(turn, job)


def _may_publish(job: Job) -> bool:
    """One that was ordered before a pod was lost is as good as any."""
    return job.state is JobState.RUNNING or job.is_gathering


def _keeper(turn: Turn, job: Job) -> HostRef | None:
    """The host that publishes and deletes: the lead of the first pod. None when it is lost."""
    lead = turn.pods[job.gang[0]].hosts.get(0)
    return lead.ref if lead else None
