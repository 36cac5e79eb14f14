"""The controller's brain: (state, event, now) -> what the state becomes and what is to be done.

Pure: no clock, no I/O, no randomness. `handle` looks up the one handler of an event; handlers of
hosts and pods are in `membership`, those of jobs here. After any event that may free or add pods,
the waiting jobs are looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from controller.core import commands, errors, events, gang, membership, saving, step
from controller.core.cluster import Assignment
from controller.core.job import Job, JobState, Move, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Outcome, State, Turn

Handler = Callable[[Turn, Any, LivenessPolicy], None]


def handle(state: State, event: events.Event, now: float, policy: LivenessPolicy) -> Outcome:
    """Decide about one event. Raises UnknownJob when a request names a job that is not live, and
    JobIsLive when it names one that is and must not be."""
    turn = Turn(state, now)
    _HANDLERS[type(event)](turn, event, policy)
    if turn.availability_changed:
        _admit_waiting(turn)
    return turn.outcome()


def _job_submitted(turn: Turn, event: events.JobSubmitted, _policy: LivenessPolicy) -> None:
    reason = Reason("PendingEvaluation", "submitted")
    job = Job(event.job_id, event.spec, JobState.PENDING, reason, created_at=turn.now)
    turn.put_job(job, Entry("job.submitted", f"{event.spec.name} was submitted", job.id))
    turn.availability_changed = True


def _job_reloaded(turn: Turn, event: events.JobReloaded, _policy: LivenessPolicy) -> None:
    """Steps are pure functions of the seed, so starting over costs time and no result."""
    job = event.job
    if job.state is JobState.CANCELLING:
        job = dataclasses.replace(job.moved(Move.REQUEUE, job.reason), finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", job.reason.message, job.id))
        return
    if job.state is JobState.PENDING:
        turn.put_job(job)
    else:
        reason = Reason("ControllerRestarted", "the controller restarted; the job starts over")
        job = dataclasses.replace(job.moved(Move.REQUEUE, reason), attempt=job.attempt + 1)
        turn.put_job(job, Entry("job.requeued", reason.message, job.id))
    turn.availability_changed = True


def _cancel_requested(turn: Turn, event: events.CancelRequested, _policy: LivenessPolicy) -> None:
    job = turn.job(event.job_id)
    if job.state is JobState.CANCELLING:
        return
    reason = Reason("Cancelled", f"cancelled by {event.actor}")
    job = dataclasses.replace(job.moved(Move.CANCEL, reason), suspicion=None)
    if job.state is JobState.CANCELLED:
        job = dataclasses.replace(job, finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", reason.message, job.id))
        turn.availability_changed = True
        return
    turn.put_job(job, Entry("job.cancelling", reason.message, job.id))
    membership.let_go(turn, job, reason.message)


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


def _program_lowered(turn: Turn, event: events.ProgramLowered, _policy: LivenessPolicy) -> None:
    job = turn.current_job(event.assignment)
    if job is None or job.state is not JobState.ADMITTED:
        return
    reason = Reason("Compiling", "hosts fetch, compile and initialise the program")
    job = dataclasses.replace(job.moved(Move.LOWERED, reason), program=event.program)
    turn.put_job(job, Entry("job.lowered", f"program {event.program.digest}", job.id))
    members = tuple(
        commands.GangAddress(
            member.pod,
            member.first_slot,
            member.end_slot,
            tuple(host.link_address for _, host in sorted(turn.pods[member.pod].hosts.items())),
        )
        for member in job.gang
    )
    for index, member in enumerate(job.gang):
        for _, host in sorted(turn.pods[member.pod].hosts.items()):
            turn.put_host(dataclasses.replace(host, holds=event.assignment, dataset_digest=None))
            turn.order(
                commands.PrepareHost(
                    host=host.ref,
                    assignment=event.assignment,
                    bundle_digest=event.program.digest,
                    members=members,
                    member_index=index,
                    num_slots=job.spec.num_slots,
                    seed=job.spec.seed,
                    data=job.spec.data,
                    digest_every=job.spec.digest_every,
                    target_steps=job.spec.steps,
                    checkpoint_every=job.spec.checkpoint_every,
                    checkpoint_directory=job.spec.checkpoint_directory,
                    restore=saving.to_restore(job),
                )
            )


def _lowering_failed(turn: Turn, event: events.LoweringFailed, _policy: LivenessPolicy) -> None:
    job = turn.current_job(event.assignment)
    if job is not None and job.state is JobState.ADMITTED:
        membership.fail(turn, job, Reason("LoweringFailed", event.message))


def _program_ready(turn: Turn, event: events.ProgramReady, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is not JobState.STARTING:
        return
    host = turn.pods[event.host.pod].hosts[event.host.index]
    turn.put_host(dataclasses.replace(host, dataset_digest=event.dataset_digest))
    if event.data_steps and event.data_steps < job.spec.steps:
        message = (
            f"the data has {event.data_steps} steps of this batch and the job wants "
            f"{job.spec.steps}; lower train.steps, add data or raise data.epochs"
        )
        membership.fail(turn, job, Reason("DataExhausted", message))
        return
    gang_hosts = [h for member in job.gang for h in turn.pods[member.pod].hosts.values()]
    digests = {str(h.ref): h.dataset_digest for h in gang_hosts}
    if None in digests.values():
        return
    if len(set(digests.values())) > 1:
        seen = ", ".join(f"{ref} {digest}" for ref, digest in sorted(digests.items()))
        membership.fail(turn, job, Reason("DataDiffers", f"hosts hold different data: {seen}"))
        return
    _start(turn, job, event.assignment)


def _start(turn: Turn, job: Job, assignment: Assignment) -> None:
    newest = job.checkpoints.newest
    after = newest.step if newest else 0
    progress = step.begin(job.spec.steps, [member.pod for member in job.gang], after)
    peaks = [turn.pods[m.pod].peak_flops_per_second(job.spec.compute_dtype) for m in job.gang]
    known = [peak for peak in peaks if peak is not None]
    reason = Reason("Training", f"{len(job.gang)} pods in lockstep")
    if len(job.gang) == 1:
        reason = Reason("Training", "one pod")
    job = dataclasses.replace(
        job.moved(Move.READY, reason),
        progress=progress,
        started_at=turn.now,
        peak_flops_per_second=sum(known) if len(known) == len(peaks) else None,
        peak_source=turn.pods[job.gang[0].pod].inventories[0].peak_source,
    )
    start = f"goes on after step {after}" if after else "starts"
    turn.put_job(job, Entry("job.started", f"all hosts are ready; training {start}", job.id))
    if progress.is_complete:
        saving.finish(turn, job)
    else:
        _extend_window(turn, job, assignment)


def _steps_applied(turn: Turn, event: events.StepsApplied, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.progress is None:
        return
    progress, merged = step.report(job.progress, event.host.pod, event.records)
    job = dataclasses.replace(job, progress=progress)
    turn.measure(job, merged)
    for complete in merged:
        if complete.diverged and job.state is JobState.RUNNING:
            membership.fail(turn, job, _divergence(complete))
            return
    if job.state is not JobState.RUNNING:
        return
    if progress.is_complete:
        saving.finish(turn, job)
    else:
        _extend_window(turn, job, event.assignment)


def _divergence(complete: step.MergedStep) -> Reason:
    seen = ", ".join(f"{pod} {digest[:12]}" for pod, digest in sorted(complete.digests.items()))
    return Reason("Diverged", f"after step {complete.record.step} pods hold other bits: {seen}")


def _extend_window(turn: Turn, job: Job, assignment: Assignment) -> None:
    assert job.progress is not None
    longer = step.extend(job.progress)
    if longer is None:
        return
    turn.measure(dataclasses.replace(job, progress=longer), ())
    for host in turn.holders(assignment):
        turn.order(commands.GrantWindow(host.ref, assignment, longer.granted))


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
    job = dataclasses.replace(
        job.moved(Move.ADMIT, verdict.reason),
        generation=job.generation + 1,
        gang=verdict.gang,
        admitted_at=turn.now,
        suspicion=None,
        checkpoints=job.checkpoints.begun_anew(),
    )
    turn.put_job(job, Entry("job.admitted", verdict.reason.message, job.id))
    assignment = Assignment(job.id, job.generation)
    for member in verdict.gang:
        turn.put_pod(dataclasses.replace(turn.pods[member.pod], assignment=assignment))
    platform = turn.pods[verdict.gang[0].pod].inventories[0].platform
    turn.order(commands.LowerProgram(assignment, job.spec.program_request, platform))


_HANDLERS: dict[type, Handler] = {
    events.JobSubmitted: _job_submitted,
    events.JobReloaded: _job_reloaded,
    events.CancelRequested: _cancel_requested,
    events.RetryRequested: _retry_requested,
    events.CheckpointRequested: saving.checkpoint_requested,
    events.DeleteRequested: _delete_requested,
    events.ProgramLowered: _program_lowered,
    events.LoweringFailed: _lowering_failed,
    events.ProgramReady: _program_ready,
    events.StepsApplied: _steps_applied,
    events.HostAttached: membership.host_attached,
    events.HostInventoried: membership.host_inventoried,
    events.HostHeard: membership.host_heard,
    events.HostDetached: membership.host_detached,
    events.JobFaulted: membership.job_faulted,
    events.JobReleased: membership.job_released,
    events.CheckpointWritten: saving.checkpoint_written,
    events.CheckpointPublished: saving.checkpoint_published,
    events.RestoreFailed: saving.restore_failed,
    events.Ticked: membership.ticked,
}
