"""Jobs that end or start over, and pods that let go of them.

Hosts let go when they are told to, or by themselves where they have failed; a pod is free once all
of its hosts have.
"""

from __future__ import annotations

import dataclasses

from controller.core import commands
from controller.core.cluster import Assignment, Pod
from controller.core.job import Job, JobState, Move, Reason
from controller.core.turn import Entry, Turn


def fail(turn: Turn, job: Job, reason: Reason) -> None:
    """The job ends with this reason; its pods let go."""
    job = dataclasses.replace(job.moved(Move.FAIL, reason), finished_at=turn.now, healing=None)
    turn.put_job(job, Entry("job.failed", reason.message, job.id, data={"code": reason.code}))
    let_go(turn, job, reason.message)


def restart(turn: Turn, job: Job, reason: Reason) -> None:
    """Another attempt, from the newest checkpoint."""
    newest = job.checkpoints.newest
    then = f"goes back to step {newest.step}" if newest else "starts over"
    reason = Reason(reason.code, f"{reason.message}; the job {then}")
    job = dataclasses.replace(
        job.moved(Move.REQUEUE, reason),
        attempt=job.attempt + 1,
        healing=None,
        account=job.account.interrupted(reason.code),
    )
    before = job.progress.merged if job.progress else 0
    rerun = max(0, before - (newest.step if newest else 0))
    data = {"code": reason.code, "rerun": rerun}
    turn.put_job(job, Entry("job.requeued", reason.message, job.id, data=data))
    let_go(turn, job, reason.message)
    turn.availability_changed = True


def let_go(turn: Turn, job: Job, reason: str) -> None:
    """Every pod of the job stops at the next step boundary and becomes free."""
    if job.program is None:
        turn.order(commands.AbandonLowering(Assignment(job.id, job.generation)))
    for pod in list(turn.pods.values()):
        if pod.assignment is not None and pod.assignment.job == job.id:
            drop(turn, pod, reason)


def drop(turn: Turn, pod: Pod, reason: str) -> None:
    """A pod that holds a job lets go of it, and is expected to from now on."""
    if pod.releasing_since is not None:
        return
    for _, host in sorted(pod.hosts.items()):
        if host.holds is not None:
            turn.order(commands.StopHost(host.ref, host.holds, reason))
    turn.put_pod(dataclasses.replace(pod, releasing_since=turn.now))
    free_if_released(turn, turn.pods[pod.name])


def free_if_released(turn: Turn, pod: Pod) -> None:
    """A pod none of whose hosts holds its assignment is free once the assignment is over."""
    assignment = pod.assignment
    if assignment is None or pod.releasing_since is None:
        return
    if any(host.holds is not None for host in pod.hosts.values()):
        return
    turn.put_pod(dataclasses.replace(pod, assignment=None, releasing_since=None))
    turn.availability_changed = True
    dismiss_if_leaving(turn, turn.pods[pod.name])
    job = turn.current_job(assignment)
    still_held = any(other.assignment == assignment for other in turn.pods.values())
    if job is not None and job.state is JobState.CANCELLING and not still_held:
        job = dataclasses.replace(job.moved(Move.RELEASED, job.reason), finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", job.reason.message, job.id))


def dismiss_if_leaving(turn: Turn, pod: Pod) -> None:
    """A free pod whose machine wants it gone need wait no longer."""
    if pod.withheld is not None and pod.is_leaving:
        for _, host in sorted(pod.hosts.items()):
            turn.order(commands.DismissHost(host.ref, pod.withheld.message))
