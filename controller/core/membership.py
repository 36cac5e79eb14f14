"""Hosts and pods that come, go, fault and let go, and what that means for the jobs on them.

A pod is lost as a whole: when one of its hosts goes, its job fails and its other hosts are
restarted, since a jax.distributed pod cannot be joined again by a new process. The job's other pods
let go at the next step boundary and are free for the next job.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from controller.core import commands, events, liveness
from controller.core.cluster import Assignment, Host, Pod, PodState, Traffic
from controller.core.job import Job, JobState, Move, Reason, Suspicion
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn

_FAULT_CODES = {
    "fetch": "BundleUnavailable",
    "data": "DataError",
    "compile": "CompileFailed",
    "compute": "ComputeFailed",
    "exchange": "LinkDown",
}


_LEAVING = frozenset({JobState.CANCELLING, JobState.PENDING})
"""Hosts let go of jobs in these states because they were told to."""


def host_attached(turn: Turn, event: events.HostAttached, _policy: LivenessPolicy) -> None:
    ref = event.host
    pod = turn.pods.get(ref.pod, Pod(ref.pod, event.num_hosts))
    if pod.hosts and pod.num_hosts != event.num_hosts:
        reason = f"{pod.name} has {pod.num_hosts} hosts, this one says {event.num_hosts}"
        turn.order(commands.DismissHost(ref, reason))
        return
    earlier = pod.hosts.get(ref.index)
    if earlier is not None:
        if earlier.ref != ref:
            turn.order(commands.DismissHost(earlier.ref, f"another process dialled as {ref}"))
        _lose(turn, earlier, f"{ref} dialled again")
        pod = turn.pods[ref.pod]
    host = Host(ref, event.link_address, event.coordinator_address, event.pid, turn.now)
    pod = dataclasses.replace(pod, num_hosts=event.num_hosts).with_host(host)
    pod = _coming(turn, pod)
    turn.put_pod(pod)
    turn.note(Entry("host.attached", f"{ref} attached (pid {event.pid})", pod=pod.name))
    turn.availability_changed = True
    if len(pod.hosts) == pod.num_hosts:
        lead = pod.hosts[0]
        coordinator = lead.coordinator_address if pod.num_hosts > 1 else ""
        for _, member in sorted(pod.hosts.items()):
            turn.order(commands.AssembleHost(member.ref, coordinator, lead.link_address))


def host_inventoried(turn: Turn, event: events.HostInventoried, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None:
        return
    host = dataclasses.replace(host, inventory=event.inventory, last_heard=turn.now)
    pod = _coming(turn, turn.pods[host.ref.pod].with_host(host))
    turn.put_pod(pod)
    turn.availability_changed = True
    if pod.state is PodState.READY:
        message = f"{pod.name} is ready: {pod.num_devices} x {event.inventory.device_kind}"
        turn.note(Entry("pod.ready", message, pod=pod.name))


def host_heard(turn: Turn, event: events.HostHeard, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None:
        return
    job = turn.current_job(host.holds) if host.holds else None
    if job is not None and job.progress is not None:
        turn.measure(_with_retries(job, host.traffic, event.traffic), ())
    turn.put_host(dataclasses.replace(host, last_heard=turn.now, traffic=event.traffic))


def _with_retries(job: Job, before: Mapping[str, Traffic], now: Mapping[str, Traffic]) -> Job:
    """A pod works for one job at a time, so what was sent again meanwhile was the job's."""
    assert job.progress is not None
    known = {peer: traffic.retries for peer, traffic in before.items()}
    more = sum(max(0, each.retries - known.get(peer, 0)) for peer, each in now.items())
    totals = job.progress.totals
    totals = dataclasses.replace(totals, link_retries=totals.link_retries + more)
    return dataclasses.replace(job, progress=dataclasses.replace(job.progress, totals=totals))


def host_detached(turn: Turn, event: events.HostDetached, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is not None:
        _lose(turn, host, event.cause)


def job_faulted(turn: Turn, event: events.JobFaulted, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or job.state is JobState.CANCELLING:
        return
    where = f"{event.host} at step {event.step}" if event.step else f"{event.host}"
    reason = Reason(_FAULT_CODES[event.phase], f"{where}: {event.message}")
    if not _may_be_anothers(turn.pods[event.host.pod], event):
        fail(turn, job, reason)
    elif job.suspicion is None:
        entry = Entry("job.suspected", reason.message, job.id, event.suspect_pod or event.host.pod)
        turn.put_job(_suspected(turn, job, reason), entry)


def job_released(turn: Turn, event: events.JobReleased, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None or host.holds != event.assignment:
        return
    job = turn.current_job(event.assignment)
    turn.put_host(dataclasses.replace(host, holds=None, dataset_digest=None))
    _free_if_released(turn, turn.pods[host.ref.pod])
    if job is None or job.state in _LEAVING or event.applied_step >= job.target_steps:
        return
    if job.suspicion is None:
        message = f"{host.ref} left after {event.applied_step} of {job.target_steps} steps"
        entry = Entry("job.left_early", message, job.id, host.ref.pod)
        turn.put_job(_suspected(turn, job, Reason("LeftEarly", message)), entry)


def ticked(turn: Turn, _event: events.Ticked, policy: LivenessPolicy) -> None:
    absent = liveness.was_absent(turn.ticked_at, turn.now, policy)
    turn.ticked_at = turn.now
    if absent.holds:
        _start_waiting_anew(turn, absent.reason)
        return
    for pod in list(turn.pods.values()):
        _check_pod(turn, pod, policy)
    for job in list(turn.jobs.values()):
        if job.suspicion and turn.now - job.suspicion.since > policy.suspicion_grace:
            fail(turn, job, job.suspicion.reason)


def _check_pod(turn: Turn, pod: Pod, policy: LivenessPolicy) -> None:
    verdicts = [(host, liveness.is_silent(host, turn.now, policy)) for host in pod.hosts.values()]
    silent = next(((host, verdict.reason) for host, verdict in verdicts if verdict.holds), None)
    stuck = liveness.is_stuck(pod, turn.now, policy)
    missed = liveness.is_not_coming(pod, turn.now, policy)
    if silent is not None:
        _fail_job_of(turn, *silent)
        _restart(turn, turn.pods[pod.name], silent[1])
    elif stuck.holds:
        _restart(turn, pod, stuck.reason)
    elif missed.holds:
        turn.put_pod(dataclasses.replace(pod, is_given_up=True))
        turn.note(Entry("pod.lost", missed.reason, pod=pod.name))
        turn.availability_changed = True


def _start_waiting_anew(turn: Turn, reason: str) -> None:
    turn.note(Entry("controller.absent", reason))
    for pod in list(turn.pods.values()):
        releasing_since = None if pod.releasing_since is None else turn.now
        turn.put_pod(dataclasses.replace(pod, releasing_since=releasing_since, stirred_at=turn.now))
        for host in pod.hosts.values():
            turn.put_host(dataclasses.replace(host, last_heard=turn.now))


def _coming(turn: Turn, pod: Pod) -> Pod:
    """The pod after a sign that it forms, for which jobs wait (again)."""
    return dataclasses.replace(pod, stirred_at=turn.now, is_given_up=False)


def _may_be_anothers(pod: Pod, event: events.JobFaulted) -> bool:
    """Whether the fault may only echo the end of another host: of a peer on the link, or of a
    neighbour in the pod, whose collectives break when it dies."""
    in_lockstep = event.phase in ("compute", "exchange")
    return bool(event.suspect_pod) or (pod.num_hosts > 1 and in_lockstep)


def _suspected(turn: Turn, job: Job, reason: Reason) -> Job:
    return dataclasses.replace(job, suspicion=Suspicion(turn.now, reason))


def fail(turn: Turn, job: Job, reason: Reason) -> None:
    """The job ends with this reason; its pods let go."""
    job = dataclasses.replace(job.moved(Move.FAIL, reason), finished_at=turn.now, suspicion=None)
    turn.put_job(job, Entry("job.failed", reason.message, job.id, data={"code": reason.code}))
    let_go(turn, job, reason.message)


def let_go(turn: Turn, job: Job, reason: str) -> None:
    """Every pod of the job stops at the next step boundary and becomes free."""
    assignment = Assignment(job.id, job.generation)
    if job.program is None:
        turn.order(commands.AbandonLowering(assignment))
    for host in list(turn.holders(assignment)):
        turn.order(commands.StopHost(host.ref, assignment, reason))
    await_release(turn, assignment)


def await_release(turn: Turn, assignment: Assignment) -> None:
    """From now on the pods of the assignment are expected to let go."""
    for pod in list(turn.pods.values()):
        if pod.assignment == assignment:
            turn.put_pod(dataclasses.replace(pod, releasing_since=turn.now))
            _free_if_released(turn, turn.pods[pod.name])


def _lose(turn: Turn, host: Host, cause: str) -> None:
    """A host is gone, and with it its pod and the job on it."""
    pod = turn.pods[host.ref.pod].without_host(host.ref.index)
    pod = dataclasses.replace(pod, stirred_at=turn.now)
    turn.put_pod(pod)
    turn.note(Entry("host.detached", cause, pod=pod.name))
    turn.availability_changed = True
    _fail_job_of(turn, host, cause)
    pod = turn.pods[pod.name]
    if pod.hosts:
        _restart(turn, pod, f"{pod.name} lost {host.ref}", host)
    else:
        _free_if_released(turn, pod)


def _fail_job_of(turn: Turn, lost: Host, cause: str) -> None:
    assignment = turn.pods[lost.ref.pod].assignment
    job = turn.current_job(assignment) if assignment else None
    if job is not None and job.state is not JobState.CANCELLING:
        at = f" at step {job.progress.merged}" if job.progress else ""
        message = f"{lost.ref} (pid {lost.pid}) was lost{at}: {cause}"
        fail(turn, job, Reason("PodLost", message))


def _restart(turn: Turn, pod: Pod, reason: str, *lost: Host) -> None:
    """Give up all processes of a pod, those of lost hosts too; it forms again when they are
    back."""
    for host in pod.hosts.values():
        turn.order(commands.DismissHost(host.ref, reason))
    pids = tuple(host.pid for host in (*pod.hosts.values(), *lost))
    turn.order(commands.RestartPod(pod.name, pids, reason))
    turn.note(Entry("pod.restarted", reason, pod=pod.name))
    turn.put_pod(dataclasses.replace(pod, hosts={}, stirred_at=turn.now))
    turn.availability_changed = True
    _free_if_released(turn, turn.pods[pod.name])


def _free_if_released(turn: Turn, pod: Pod) -> None:
    """A pod none of whose hosts holds its assignment is free once the assignment is over."""
    assignment = pod.assignment
    if assignment is None or pod.releasing_since is None:
        return
    if any(host.holds == assignment for host in pod.hosts.values()):
        return
    turn.put_pod(dataclasses.replace(pod, assignment=None, releasing_since=None))
    turn.availability_changed = True
    job = turn.current_job(assignment)
    still_held = any(other.assignment == assignment for other in turn.pods.values())
    if job is not None and job.state is JobState.CANCELLING and not still_held:
        job = dataclasses.replace(job.moved(Move.RELEASED, job.reason), finished_at=turn.now)
        turn.put_job(job, Entry("job.cancelled", job.reason.message, job.id))
