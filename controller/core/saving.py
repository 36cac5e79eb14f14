"""Checkpoints of running jobs, from the pods' words to what is kept; the end waits for the last.

A job that writes checkpoints ends after its last one is published or given up: whoever sees it
SUCCEEDED finds its final state on disk, or an event that says why not.
"""

from __future__ import annotations

import dataclasses

from controller.core import checkpoint, commands, errors, events, membership
from controller.core.checkpoint import Part, Saved
from controller.core.cluster import Assignment, HostRef
from controller.core.commands import CheckpointId
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn


def to_restore(job: Job) -> CheckpointId | None:
    """What the next generation starts from; None is the seed."""
    newest = job.checkpoints.newest
    return CheckpointId(newest.step, newest.generation) if newest else None


def checkpoint_requested(
    turn: Turn, event: events.CheckpointRequested, _policy: LivenessPolicy
) -> None:
    """The step is the first that no host may run yet: all of them hear of it in time."""
    job = turn.job(event.job_id)
    if job.state is not JobState.RUNNING or not job.spec.checkpoint_every:
        raise errors.CannotSave(job.id, job.state, bool(job.spec.checkpoint_every))
    assert job.progress is not None
    step = min(job.progress.granted + 1, job.spec.steps)
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
    if event.step <= job.checkpoints.concluded:
        return
    if event.error:
        _give_up(turn, job, event.step, f"{event.host} could not write its share: {event.error}")
        return
    part = Part(event.state_sha256, event.num_bytes)
    checkpoints = job.checkpoints.with_part(event.step, event.host.pod, part)
    job = dataclasses.replace(job, checkpoints=checkpoints)
    turn.measure(job, ())
    pods = [member.pod for member in job.gang]
    parts = checkpoint.complete(checkpoints, event.step, pods)
    if parts is None:
        return
    digests = {pod: part.state_sha256 for pod, part in zip(pods, parts, strict=True)}
    if len(set(digests.values())) > 1:
        seen = ", ".join(f"{pod} {digest[:12]}" for pod, digest in sorted(digests.items()))
        message = f"after step {event.step} pods hold other bits: {seen}"
        membership.fail(turn, job, Reason("Diverged", message))
        return
    turn.order(
        commands.PublishCheckpoint(
            _keeper(turn, job),
            event.assignment,
            job.spec.checkpoint_directory,
            event.step,
            len(pods),
            event.state_sha256,
        )
    )


def checkpoint_published(
    turn: Turn, event: events.CheckpointPublished, _policy: LivenessPolicy
) -> None:
    job = turn.current_job(event.assignment)
    if job is None or job.state is not JobState.RUNNING or event.host != _keeper(turn, job):
        return
    parts = job.checkpoints.under_way.get(event.step, {})
    if not parts:
        return
    if event.error:
        _give_up(turn, job, event.step, f"{event.host} could not publish it: {event.error}")
        return
    saved = Saved(
        event.step,
        event.assignment.generation,
        next(iter(parts.values())).state_sha256,
        sum(part.num_bytes for part in parts.values()),
        turn.now,
    )
    checkpoints = job.checkpoints.published(saved)
    gone = checkpoint.superfluous(checkpoints, job.spec.checkpoint_keep)
    for old in gone:
        turn.order(
            commands.RemoveCheckpoint(
                event.host,
                event.assignment,
                job.spec.checkpoint_directory,
                CheckpointId(old.step, old.generation),
            )
        )
    job = dataclasses.replace(job, checkpoints=checkpoints.discarded(gone))
    message = f"step {saved.step} is on disk, {saved.num_bytes} bytes"
    turn.put_job(job, Entry("checkpoint.published", message, job.id, data={"step": saved.step}))
    finish(turn, job)


def restore_failed(turn: Turn, event: events.RestoreFailed, _policy: LivenessPolicy) -> None:
    """The checkpoint before is tried, and the seed when there is none."""
    job = turn.job_held(event.host, event.assignment)
    newest = job.checkpoints.newest if job else None
    if job is None or newest is None or job.state is not JobState.STARTING:
        return
    checkpoints = job.checkpoints.discarded([newest])
    before = checkpoints.newest
    then = f"step {before.step} is tried" if before else "the job starts over"
    reason = Reason("CheckpointDamaged", f"{event.host}: {event.message}; {then}")
    turn.put_job(
        dataclasses.replace(job.moved(Move.REQUEUE, reason), checkpoints=checkpoints),
        Entry("checkpoint.damaged", reason.message, job.id, data={"step": newest.step}),
    )
    membership.let_go(turn, job, reason.message)
    turn.availability_changed = True


def finish(turn: Turn, job: Job) -> None:
    """The job ends, if its steps are applied and its last checkpoint is published or given up."""
    assert job.progress is not None
    if not job.progress.is_complete:
        return
    newest = job.checkpoints.newest
    is_settled = (
        not job.spec.checkpoint_every
        or job.checkpoints.concluded >= job.spec.steps
        or (newest is not None and newest.step >= job.spec.steps)
    )
    if not is_settled:
        return
    reason = Reason("Completed", f"all {job.progress.target_steps} steps applied")
    job = dataclasses.replace(job.moved(Move.FINISH, reason), finished_at=turn.now)
    turn.put_job(job, Entry("job.succeeded", reason.message, job.id))
    membership.await_release(turn, Assignment(job.id, job.generation))


def _give_up(turn: Turn, job: Job, step: int, message: str) -> None:
    job = dataclasses.replace(job, checkpoints=job.checkpoints.given_up(step))
    message = f"no checkpoint of step {step}: {message}"
    turn.put_job(job, Entry("checkpoint.failed", message, job.id, data={"step": step}))
    finish(turn, job)


def _keeper(turn: Turn, job: Job) -> HostRef:
    """The host that publishes and deletes: the lead of the first pod."""
    return turn.pods[job.gang[0].pod].hosts[0].ref
