"""A spike is met: back to a checkpoint, past the batches around it, with the same pods and program.

Which checkpoint follows from the steps alone, so that a run which was killed and restored goes back
to the same one: where it is still being written, the job waits until it is published or given up.
"""

from __future__ import annotations

import dataclasses

from controller.core import batch, commands, events, preparing, saving
from controller.core.checkpoint import Saved
from controller.core.cluster import Assignment
from controller.core.commands import CheckpointId
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.record import finite
from controller.core.spikes import Spike
from controller.core.totals import Durations
from controller.core.turn import Entry, Turn


def checkpoint_written(turn: Turn, event: events.CheckpointWritten, policy: LivenessPolicy) -> None:
    saving.checkpoint_written(turn, event, policy)
    _go_on(turn, event.assignment)


def checkpoint_published(
    turn: Turn, event: events.CheckpointPublished, policy: LivenessPolicy
) -> None:
    saving.checkpoint_published(turn, event, policy)
    _go_on(turn, event.assignment)


def meet(turn: Turn, job: Job, spike: Spike) -> None:
    """Leave the timeline because of a spike that the policy allows to be met, now or when the
    checkpoint to go back to is there."""
    target = _target(job, spike)
    if target in job.checkpoints.awaited:
        message = f"{spike.what}; goes back to step {target} once that is on disk"
        data = {"step": spike.step, "loss": finite(spike.loss), "to_step": target}
        job = dataclasses.replace(job, spike=spike, reason=Reason("AwaitingCheckpoint", message))
        turn.put_job(job, Entry("spike.met", message, job.id, data=data))
    else:
        _rewind(turn, job, spike, job.checkpoints.at(target))


def _go_on(turn: Turn, assignment: Assignment) -> None:
    """With a spike that waited for the checkpoint which has just been concluded."""
    job = turn.current_job(assignment)
    if job is None or job.spike is None:
        return
    target = _target(job, job.spike)
    if job.state is JobState.RUNNING and target not in job.checkpoints.awaited:
        _rewind(turn, job, job.spike, job.checkpoints.at(target))


def _target(job: Job, spike: Spike) -> int | None:
    policy, spec = job.spec.spikes, job.spec
    assert policy is not None
    return job.checkpoints.target(
        spike.step, policy.rewind_steps, spec.checkpoint_keep, spec.checkpoint_keep_every
    )


def _rewind(turn: Turn, job: Job, spike: Spike, target: Saved | None) -> None:
    policy, progress = job.spec.spikes, job.progress
    assert policy is not None and progress is not None
    after, position, losses = _standing(job, target)
    # The batches around the spike, however far before it the checkpoint is.
    begins = max(after, spike.step - policy.rewind_steps)
    kept = _sequences(job, after, begins)
    count = _sequences(job, begins, begins + policy.skip_steps)
    start = batch.advance(job.skipped, position, kept)
    gone = [saved for saved in job.checkpoints.saved if saved.step > after]
    message = (
        f"{spike.what}; back to step {after}, and past {policy.skip_steps} batches from that of "
        f"step {begins + 1} on"
    )
    old = Assignment(job.id, job.generation)
    stopped = list(turn.holders(old))
    publishing = [CheckpointId(s, old.generation) for s in saving.publishing(job) if s > after]
    job = dataclasses.replace(
        job.moved(Move.REWIND, Reason("Rewinding", message)),
        generation=job.generation + 1,
        progress=progress.undone_to(after, target.timeline if target else Durations()),
        checkpoints=job.checkpoints.discarded(gone).begun_anew(),
        skipped=batch.skip(job.skipped, start, count),
        rewinds=job.rewinds + 1,
        spike=None,
        losses=losses,
        evaluations=job.evaluations.begun_anew(after),
        rewound_at=turn.now,
        account=job.account.interrupted("Spike"),
    )
    data = {
        "step": spike.step,
        "loss": finite(spike.loss),
        "to_step": after,
        "skipped": count,
        "generation": job.generation,
    }
    turn.put_job(job, Entry("spike.rewound", message, job.id, data=data))
    abandoned = [*(saved.id for saved in gone), *publishing]
    wanted = saving.wanted(turn, job)
    for which in abandoned:
        if which not in wanted:
            saving.order_removal(turn, job, old, which)
    for host in stopped:
        turn.order(commands.StopHost(host.ref, old, message))
    new = Assignment(job.id, job.generation)
    for pod in job.gang:
        turn.put_pod(dataclasses.replace(turn.pods[pod], assignment=new))
    preparing.order(turn, job)


def _sequences(job: Job, after: int, through: int) -> int:
    """Of the steps after `after` through `through`."""
    return batch.slots_between(job.spec.phases, after, through) * job.spec.microbatch


def _standing(job: Job, target: Saved | None) -> tuple[int, int, tuple[float, ...]]:
    """(step, position of the data, losses before) to go on from; without a checkpoint, those of
    the job's beginning."""
    if target is not None:
        return target.step, target.data_position, target.losses
    origin = job.spec.origin
    return (origin.step, origin.data_position, origin.losses) if origin else (0, 0, ())
