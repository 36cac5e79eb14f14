"""A restarted controller and the hosts that went on without one.

Hosts finish the steps they were granted, keep what they have to tell, and dial again. Each says
which generation it holds; when all pods of a job's gang are accounted for, they tell again what is
not in the store, and the job goes on as if nobody had been away. A pod that does not come back, or
comes back without the job, is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from controller.core import adapting, commands, healing, letting_go, preparing, saving
from controller.core.cluster import Assignment, Host, Pod
from controller.core.job import Job, JobState, Reason
from controller.core.record import StepRecord
from controller.core.totals import durations
from controller.core.turn import Entry, Turn

_LOST_CODE = "ControllerRestarted"


def reloaded(turn: Turn, job: Job, records: Sequence[StepRecord]) -> None:
    """A job that hosts may still run. `records` are its newest steps; what is known of them is what
    would be known if this controller had heard of them itself."""
    assert job.progress is not None or job.state is JobState.STARTING
    if job.progress is not None:
        newest = job.checkpoints.newest
        later = [r for r in records if newest is None or r.step > newest.step]
        timeline = job.progress.totals.timeline.minus(durations(later))
        for record in later:
            timeline = timeline.plus(durations([record]))
            job = saving.remembering(job, record, timeline)
    reason = Reason("ControllerRestarted", "waits for its hosts to come back to the controller")
    job = dataclasses.replace(job, reason=reason, awaited_since=turn.now)
    turn.put_job(job, Entry("job.awaited", reason.message, job.id))


def came_back(turn: Turn, host: Host, held: Assignment) -> None:
    """A host that dialled before says what it holds."""
    pod, job = turn.pods[host.ref.pod], turn.jobs.get(held.job)
    turn.put_host(dataclasses.replace(host, holds=held))
    if job is not None and _is_of(job, host.ref.pod, held):
        turn.put_pod(dataclasses.replace(turn.pods[pod.name], assignment=held))
        return
    turn.order(commands.StopHost(host.ref, held, "the job goes on without it, or has ended"))
    turn.put_pod(
        dataclasses.replace(turn.pods[pod.name], assignment=held, releasing_since=turn.now)
    )


def settle(turn: Turn, grace: float | None = None) -> None:
    """Take over every job whose pods are all accounted for, or that waited for longer than
    `grace`, seconds."""
    for job in list(turn.jobs.values()):
        since = job.awaited_since
        if since is None:
            continue
        is_late = grace is not None and turn.now - since > grace
        pods = {name: turn.pods.get(name) for name in job.gang}
        if is_late or all(pod is not None and _is_whole(pod) for pod in pods.values()):
            _take_over(turn, job, {name: pod for name, pod in pods.items() if pod is not None})


def _take_over(turn: Turn, job: Job, pods: dict[str, Pod]) -> None:
    job = dataclasses.replace(job, awaited_since=None)
    turn.measure(job, ())
    back = [name for name in job.gang if name in pods and _runs(job, pods[name])]
    lost = [name for name in job.gang if name not in back]
    if job.state is JobState.STARTING or (lost and job.spec.on_pod_loss == "fail"):
        _start_over(turn, job, lost)
        return
    known = job.progress.merged if job.progress else 0
    for name in lost:
        pod = turn.pods.get(name)
        if pod is not None and pod.assignment is not None and pod.assignment.job == job.id:
            letting_go.drop(turn, pod, f"{name} did not come back whole")
    hosts = [host for name in back for _, host in sorted(pods[name].hosts.items())]
    for host in hosts:
        assert host.holds is not None
        turn.order(commands.TellAgain(host.ref, host.holds, known))
    if lost:
        gone = " and ".join(lost)
        reason = Reason("PodLost", f"{gone} did not come back to the restarted controller")
        healing.pod_lost(turn, job, lost[0], reason)
    elif job.state is JobState.RUNNING:
        _go_on(turn, job, hosts)
    elif job.healing is not None and not _has_begun(job, hosts):
        healing.gather(turn, job, job.healing.cause)


def _has_begun(job: Job, hosts: Sequence[Host]) -> bool:
    """Whether all hosts were told of the generation that goes on; they then get ready for it."""
    begun = job.healing is not None and job.healing.begun is not None
    return begun and all(host.holds and host.holds.generation == job.generation for host in hosts)


def _go_on(turn: Turn, job: Job, hosts: Sequence[Host]) -> None:
    """All of its hosts run it."""
    assert job.progress is not None
    progress = job.progress
    granted = max(progress.merged, *(host.granted for host in hosts))
    message = f"all hosts still run it; {progress.merged} steps are on record"
    reason = Reason("Training", f"{len(job.gang)} pods in lockstep" if job.gang[1:] else "one pod")
    job = adapting.taken_over(turn, job)
    job = dataclasses.replace(
        job, reason=reason, progress=dataclasses.replace(progress, granted=granted)
    )
    data = {"step": progress.merged, "generation": job.generation}
    turn.put_job(job, Entry("job.taken_over", message, job.id, data=data))
    if job.progress is not None and not job.progress.is_complete:
        preparing.extend_window(turn, job)


def _start_over(turn: Turn, job: Job, lost: Sequence[str]) -> None:
    """What nothing is lost by, or what is to end with its pods: from the newest checkpoint."""
    what = f"{', '.join(lost)} did not come back" if lost else "it had not begun"
    letting_go.restart(turn, job, Reason(_LOST_CODE, f"the controller restarted and {what}"))


def _is_of(job: Job, pod: str, held: Assignment) -> bool:
    """Whether the job waits for a host that holds this; one that was not told of the newest
    generation any more stands still in the one before."""
    generations = {job.generation}
    if job.healing is not None and job.healing.begun is not None:
        generations.add(job.generation - 1)
    return job.awaited_since is not None and pod in job.gang and held.generation in generations


def _is_whole(pod: Pod) -> bool:
    return len(pod.hosts) == pod.num_hosts and all(host.inventory for host in pod.hosts.values())


def _runs(job: Job, pod: Pod) -> bool:
    return (
        _is_whole(pod)
        and pod.releasing_since is None
        and all(host.holds and host.holds.job == job.id for host in pod.hosts.values())
    )
