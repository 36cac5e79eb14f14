"""Hosts and pods that come, go, fault, stand still and let go, and what that means for the jobs on
them.

A pod is lost as a whole: when one of its hosts goes, its other hosts are restarted, since a
jax.distributed pod cannot be joined again by a new process. What becomes of its job is decided in
`healing`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from controller.core import commands, events, hanging, healing, liveness, taking_over
from controller.core.cluster import Activity, Assignment, Host, Pod, PodState, Standing, Traffic
from controller.core.job import Job, JobState, Reason, Suspicion
from controller.core.letting_go import fail, free_if_released
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn

_FAULT_CODES = {
    "fetch": "BundleUnavailable",
    "data": "DataError",
    "compile": "CompileFailed",
    "compute": "ComputeFailed",
    "exchange": "LinkDown",
    "heal": "HealFailed",
    "evaluate": "ComputeFailed",
    "save": "ComputeFailed",
    "rest": "ComputeFailed",
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
    host = Host(
        ref,
        event.link_address,
        event.coordinator_address,
        event.pid,
        turn.now,
        assembled_with=event.assembled_with,
        granted=event.granted,
    )
    if not pod.hosts and pod.is_leaving:
        pod = dataclasses.replace(pod, withheld=None)
    pod = dataclasses.replace(pod, num_hosts=event.num_hosts).with_host(host)
    pod = _coming(turn, pod)
    turn.put_pod(pod)
    turn.note(Entry("host.attached", f"{ref} attached (pid {event.pid})", pod=pod.name))
    turn.availability_changed = True
    if event.held is not None:
        taking_over.came_back(turn, host, event.held)
    pod = turn.pods[pod.name]
    if len(pod.hosts) == pod.num_hosts:
        _assemble(turn, pod)


def _assemble(turn: Turn, pod: Pod) -> None:
    """Have a pod whose hosts are all there form, unless it has formed before."""
    lead = pod.hosts[0]
    assembled = {host.assembled_with for host in pod.hosts.values()}
    if assembled == {lead.ref.incarnation}:
        return
    if assembled != {""}:
        _restart(turn, pod, f"{pod.name} has hosts that assembled without the others")
        return
    coordinator = lead.coordinator_address if pod.num_hosts > 1 else ""
    for _, member in sorted(pod.hosts.items()):
        turn.order(
            commands.AssembleHost(member.ref, coordinator, lead.link_address, lead.ref.incarnation)
        )


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
    taking_over.settle(turn)


def host_heard(turn: Turn, event: events.HostHeard, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None:
        return
    job = turn.current_job(host.holds) if host.holds else None
    if job is not None and job.progress is not None:
        turn.measure(_with_retries(job, host.traffic, event.traffic), ())
    doing, activity = event.doing, None
    if doing is not None:
        since = turn.now - doing.seconds
        activity = Activity(doing.assignment, doing.phase, doing.step, since)
    turn.put_host(
        dataclasses.replace(host, last_heard=turn.now, traffic=event.traffic, activity=activity)
    )


def host_warmed(turn: Turn, event: events.HostWarmed, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is not None:
        turn.put_host(dataclasses.replace(host, warm=event.bundle_digest))
        turn.availability_changed = True
        pod = turn.pods[host.ref.pod]
        if pod.is_warm(event.bundle_digest):
            message = f"{pod.name} has compiled {event.bundle_digest} and can stand in at once"
            turn.note(Entry("pod.warm", message, pod=pod.name))


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
    if job is None or job.state in _LEAVING:
        return
    where = f"{event.host} at step {event.step}" if event.step else f"{event.host}"
    reason = Reason(_FAULT_CODES[event.phase], f"{where}: {event.message}")
    if not _may_be_anothers(turn.pods[event.host.pod], event):
        fail(turn, job, reason)
    elif job.suspicion is None and not job.is_gathering:
        entry = Entry("job.suspected", reason.message, job.id, event.suspect_pod or event.host.pod)
        turn.put_job(_suspected(turn, job, reason), entry)


def job_held(turn: Turn, event: events.JobHeld, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None or host.holds != event.assignment:
        return
    standing = Standing(event.applied_step, event.state_sha256)
    turn.put_host(dataclasses.replace(host, standing=standing))
    _has_left(turn, host, event.assignment, event.applied_step, "stands still")


def job_released(turn: Turn, event: events.JobReleased, _policy: LivenessPolicy) -> None:
    host = turn.host(event.host)
    if host is None or host.holds != event.assignment:
        return
    is_let_go = turn.pods[host.ref.pod].releasing_since is not None
    turn.put_host(dataclasses.replace(host, holds=None, standing=None, dataset_digest=None))
    free_if_released(turn, turn.pods[host.ref.pod])
    if not is_let_go:
        _has_left(turn, host, event.assignment, event.applied_step, "left")


def _has_left(turn: Turn, host: Host, assignment: Assignment, step: int, how: str) -> None:
    """A host runs the job no more. If nothing told it to, another event must soon say why."""
    job = turn.jobs.get(assignment.job)
    is_let_go = turn.pods[host.ref.pod].releasing_since is not None
    if job is None or job.awaited_since is not None or is_let_go:
        return
    if job.state is JobState.RECOVERING:
        healing.settle(turn, job)
    elif job.state not in _LEAVING and step < job.target_steps and job.suspicion is None:
        message = f"{host.ref} {how} after {step} of {job.target_steps} steps"
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
            healing.unexplained(turn, job, job.suspicion.reason)
    taking_over.settle(turn, policy.takeover_grace)
    for job in list(turn.jobs.values()):
        late = healing.overdue(turn, job, policy)
        for pod in late.pods:
            _lose_pod(turn, pod, late.reason)
        hung = hanging.ticked(turn, job.id, policy)
        for name in hung.pods:
            _lose_pod(turn, turn.pods[name], hung.reason)
        healing.ticked(turn, job.id)


def _check_pod(turn: Turn, pod: Pod, policy: LivenessPolicy) -> None:
    verdicts = [(host, liveness.is_silent(host, turn.now, policy)) for host in pod.hosts.values()]
    silent = next(((host, verdict.reason) for host, verdict in verdicts if verdict.holds), None)
    stuck = liveness.is_stuck(pod, turn.now, policy)
    missed = liveness.is_not_coming(pod, turn.now, policy)
    if silent is not None:
        _tell_job(turn, pod, f"{silent[0].ref} (pid {silent[0].pid})", silent[1])
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
            turn.put_host(dataclasses.replace(host, last_heard=turn.now, activity=None))


def _coming(turn: Turn, pod: Pod) -> Pod:
    """The pod after a sign that it forms, for which jobs wait (again)."""
    return dataclasses.replace(pod, stirred_at=turn.now, is_given_up=False)


def _may_be_anothers(pod: Pod, event: events.JobFaulted) -> bool:
    """Whether the fault may only echo the end of another host: of a peer on the link, or of a
    neighbour in the pod, whose collectives break when it dies."""
    in_lockstep = event.phase not in ("fetch", "data", "compile", "heal")
    return bool(event.suspect_pod) or (pod.num_hosts > 1 and in_lockstep)


def _suspected(turn: Turn, job: Job, reason: Reason) -> Job:
    return dataclasses.replace(job, suspicion=Suspicion(turn.now, reason))


def _lose(turn: Turn, host: Host, cause: str) -> None:
    """A host is gone, and with it its pod."""
    pod = turn.pods[host.ref.pod].without_host(host.ref.index)
    pod = dataclasses.replace(pod, stirred_at=turn.now)
    turn.put_pod(pod)
    turn.note(Entry("host.detached", cause, pod=pod.name))
    turn.availability_changed = True
    _tell_job(turn, pod, f"{host.ref} (pid {host.pid})", cause)
    pod = turn.pods[pod.name]
    if pod.hosts:
        _restart(turn, pod, f"{pod.name} lost {host.ref}", host)
    else:
        free_if_released(turn, pod)


def _lose_pod(turn: Turn, pod: Pod, cause: str) -> None:
    """A pod is of no use as it is."""
    _tell_job(turn, pod, pod.name, cause)
    _restart(turn, turn.pods[pod.name], cause)


def _tell_job(turn: Turn, pod: Pod, lost: str, cause: str) -> None:
    """The job of a pod goes on without it, if it can."""
    assignment = pod.assignment
    job = turn.current_job(assignment) if assignment else None
    # What is not there when a restarted controller's waiting ends is lost then.
    if job is not None and job.state not in _LEAVING and pod.releasing_since is None:
        at = f" at step {job.progress.merged}" if job.progress else ""
        healing.pod_lost(turn, job, pod.name, Reason("PodLost", f"{lost} was lost{at}: {cause}"))


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
    free_if_released(turn, turn.pods[pod.name])
