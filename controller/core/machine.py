"""The controller's brain: (state, event, now) -> what the state becomes and what is to be done.

Pure: no clock, no I/O, no randomness. `handle` looks up the one handler of an event. Handlers of
hosts and pods are in `membership`, of lost pods in `healing`, of getting ready in `preparing`, of
steps in `training`, of checkpoints in `saving` and `rewinding`, of the emulated link in `linking`,
and those of people's wishes about jobs here. After any event that may free or add pods, gangs that
stand still and then waiting jobs are looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from controller.core import (
    commands,
    draining,
    errors,
    events,
    gang,
    hanging,
    healing,
    letting_go,
    linking,
    membership,
    preparing,
    rewinding,
    saving,
    taking_over,
    training,
)
from controller.core.checkpoint import Saved
from controller.core.cluster import Assignment
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.totals import Durations, Totals
from controller.core.turn import Entry, Outcome, State, Turn

Handler = Callable[[Turn, Any, LivenessPolicy], None]


def handle(state: State, event: events.Event, now: float, policy: LivenessPolicy) -> Outcome:
    """Decide about one event. Raises UnknownJob when a request names a job that is not live,
    JobIsLive when it names one that is and must not be, and what else `errors` says of requests."""
    turn = Turn(state, now)
    _HANDLERS[type(event)](turn, event, policy)
    draining.withhold_those_named(turn)
    if turn.availability_changed:
        # Who stands still with its state comes before who has not begun.
        healing.seek(turn)
        _admit_waiting(turn)
    return turn.outcome()


def _job_submitted(turn: Turn, event: events.JobSubmitted, _policy: LivenessPolicy) -> None:
    reason = Reason("PendingEvaluation", "submitted")
    origin = event.spec.origin
    source = turn.jobs.get(origin.job) if origin else None
    if origin and source and not source.checkpoints.has(origin.id):
        raise errors.CheckpointGone(origin.job, origin.step)
    job = Job(
        event.job_id,
        event.spec,
        JobState.PENDING,
        reason,
        created_at=turn.now,
        skipped=origin.skipped if origin else (),
        data_digest=origin.data_digest if origin else None,
    )
    turn.put_job(job, Entry("job.submitted", f"{event.spec.name} was submitted", job.id))
    turn.availability_changed = True


def _job_reloaded(turn: Turn, event: events.JobReloaded, _policy: LivenessPolicy) -> None:
    """Steps are pure functions of the seed, so starting over costs time and no result; but hosts
    may run it still."""
    job = event.job
    if job.state is JobState.CANCELLING:
        job = dataclasses.replace(job.moved(Move.REQUEUE, job.reason), finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", job.reason.message, job.id))
        return
    if job.state is JobState.PENDING:
        turn.put_job(job)
    elif job.program is not None and job.state is not JobState.ADMITTED:
        taking_over.reloaded(turn, job, event.records)
    else:
        reason = Reason("ControllerRestarted", "the controller restarted; the job starts over")
        job = dataclasses.replace(
            job.moved(Move.REQUEUE, reason),
            attempt=job.attempt + 1,
            account=job.account.interrupted(reason.code),
        )
        data = {"code": reason.code}
        turn.put_job(job, Entry("job.requeued", reason.message, job.id, data=data))
    turn.availability_changed = True


def _cancel_requested(turn: Turn, event: events.CancelRequested, _policy: LivenessPolicy) -> None:
    job = turn.job(event.job_id)
    if job.state is JobState.CANCELLING:
        return
    reason = Reason("Cancelled", f"cancelled by {event.actor}")
    job = dataclasses.replace(job.moved(Move.CANCEL, reason), healing=None)
    if job.awaited_since is not None:
        # Hosts that come back later are told to stop then.
        job = dataclasses.replace(job.moved(Move.REQUEUE, reason), awaited_since=None)
        letting_go.let_go(turn, job, reason.message)
    if job.state is JobState.CANCELLED:
        job = dataclasses.replace(job, finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", reason.message, job.id))
        turn.availability_changed = True
        return
    turn.put_job(job, Entry("job.cancelling", reason.message, job.id))
    letting_go.let_go(turn, job, reason.message)


def _retry_requested(turn: Turn, event: events.RetryRequested, _policy: LivenessPolicy) -> None:
    """Another attempt of the same job, from its newest checkpoint; it queues as a new one would."""
    live = turn.jobs.get(event.job.id)
    if live is not None:
        raise errors.JobIsLive(live.id, live.state)
    reason = Reason("Retried", f"retried by {event.actor}")
    job = event.job.moved(Move.RETRY, reason)
    turn.put_job(
        dataclasses.replace(job, attempt=job.attempt + 1),
        Entry("job.retried", reason.message, job.id),
    )
    turn.availability_changed = True


def _delete_requested(turn: Turn, event: events.DeleteRequested, _policy: LivenessPolicy) -> None:
    """Whether a job that is not live ever was is known to the store alone."""
    live = turn.jobs.get(event.job_id)
    if live is not None:
        raise errors.JobIsLive(live.id, live.state)
    turn.forget(event.job_id)


def _lowering_failed(turn: Turn, event: events.LoweringFailed, _policy: LivenessPolicy) -> None:
    job = turn.current_job(event.assignment)
    if job is not None and job.state is JobState.ADMITTED:
        letting_go.fail(turn, job, Reason("LoweringFailed", event.message))


def _admit_waiting(turn: Turn) -> None:
    waiting = sorted(
        (job for job in turn.jobs.values() if job.state is JobState.PENDING),
        key=lambda job: (job.created_at, job.id),
    )
    for verdict in gang.admit(waiting, turn.pods.values()):
        job = turn.job(verdict.job_id)
        if verdict.gang:
            _admit(turn, job, verdict)
        elif verdict.reason != job.reason:
            entry = Entry("job.waiting", verdict.reason.message, job.id)
            turn.put_job(dataclasses.replace(job, reason=verdict.reason), entry)


def _admit(turn: Turn, job: Job, verdict: gang.Admission) -> None:
    newest, origin = job.checkpoints.newest, job.spec.origin
    job = dataclasses.replace(
        job.moved(Move.ADMIT, verdict.reason),
        generation=job.generation + 1,
        gang=verdict.gang,
        admitted_at=turn.now if job.admitted_at is None else job.admitted_at,
        account=dataclasses.replace(job.account, totals=_totals_from(job, newest)),
        healing=None,
        checkpoints=job.checkpoints.begun_anew(),
        progress=None,
        started_at=None,
        rewound_at=None,
        spike=None,
        losses=newest.losses if newest else origin.losses if origin else (),
        evaluations=job.evaluations.begun_anew(newest.step if newest else 0),
    )
    data = {"attempt": job.attempt, "generation": job.generation, "pods": verdict.gang}
    turn.put_job(job, Entry("job.admitted", verdict.reason.message, job.id, data=data))
    assignment = Assignment(job.id, job.generation)
    for pod in verdict.gang:
        turn.put_pod(dataclasses.replace(turn.pods[pod], assignment=assignment))
    platform = turn.pods[verdict.gang[0]].inventories[0].platform
    turn.order(commands.LowerProgram(assignment, job.spec.program_request, platform))


def _totals_from(job: Job, newest: Saved | None) -> Totals:
    """What an attempt goes on with: steps after the newest checkpoint have been for nothing."""
    after, mark = (newest.step, newest.timeline) if newest else (0, Durations())
    if job.progress is None:
        return job.totals.undone_to(mark)
    return job.progress.undone_to(after, mark).totals


_HANDLERS: dict[type, Handler] = {
    events.JobSubmitted: _job_submitted,
    events.JobReloaded: _job_reloaded,
    events.CancelRequested: _cancel_requested,
    events.RetryRequested: _retry_requested,
    events.CheckpointRequested: saving.checkpoint_requested,
    events.DeleteRequested: _delete_requested,
    events.LinkChangeRequested: linking.change_requested,
    events.DrainRequested: draining.drain_requested,
    events.UndrainRequested: draining.undrain_requested,
    events.PodsReloaded: draining.pods_reloaded,
    events.HostLeaving: draining.host_leaving,
    events.LinkConditionsReported: linking.conditions_reported,
    events.ProgramLowered: preparing.program_lowered,
    events.LoweringFailed: _lowering_failed,
    events.ProgramReady: preparing.program_ready,
    events.StepsApplied: training.steps_applied,
    events.Evaluated: training.evaluated,
    events.HostAttached: membership.host_attached,
    events.HostInventoried: membership.host_inventoried,
    events.HostHeard: membership.host_heard,
    events.HostWarmed: membership.host_warmed,
    events.HostDetached: membership.host_detached,
    events.JobFaulted: membership.job_faulted,
    events.JobHeld: membership.job_held,
    events.JobReleased: membership.job_released,
    events.CheckpointWritten: rewinding.checkpoint_written,
    events.CheckpointPublished: rewinding.checkpoint_published,
    events.RestoreFailed: saving.restore_failed,
    events.StacksTold: hanging.stacks_told,
    events.Ticked: membership.ticked,
}
