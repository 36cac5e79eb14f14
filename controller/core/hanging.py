"""Hosts that are alive and do not get on: who holds the others up, and what is done about it.

With every heartbeat a host says what it does and since when. How long a step may take follows from
the job's own steps; what a job does rarely has a generous limit of its own. Of a gang in lockstep
most hosts wait for one: those that wait are not judged while another may still take its time, so
that whoever holds the gang up is found. When that is nobody, because all wait, it is the link.

Before anything is done, the stacks of all the gang's hosts are taken into the events. A gang that
moved on meanwhile is left alone. Else the pods that hold it up are given up like lost ones.
"""

from __future__ import annotations

import dataclasses
import statistics
import typing
from collections.abc import Mapping

from controller.core import commands, events, healing
from controller.core.cluster import Activity, Assignment, Host, Pod
from controller.core.job import Hang, Job, JobState, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn

_WAITING = frozenset({"exchange", "heal"})
"""What a host does while it can only wait for others."""

_LEAST_STEPS = 3
"""From fewer, nothing is said about how long a step takes."""

_DOING = {
    "fetch": "has fetched the program",
    "data": "has read and tokenised data",
    "compile": "has compiled",
    "heal": "has waited for the state",
    "compute": "has computed step {step}",
    "exchange": "has waited for the gradients of step {step}",
    "evaluate": "has evaluated step {step}",
    "save": "has copied the state of step {step}",
}


class Hung(typing.NamedTuple):
    """Pods that hold a gang up, and the evidence. No pods: all wait for the link."""

    pods: tuple[str, ...]
    reason: str


_NOBODY = Hung((), "")


def allowed_seconds(job: Job, activity: Activity, policy: LivenessPolicy) -> float | None:
    """How long a host may do what it does; None is as long as it likes."""
    phase, progress = activity.phase, job.progress
    if phase not in ("compute", "exchange"):
        limit = policy.phase_limits.get(phase)
        pauses = [record.pause_seconds for record in progress.recent] if progress else []
        if limit is None or phase not in ("evaluate", "save") or not any(pauses):
            return limit
        return max(policy.phase_limits["save"], policy.step_multiple * max(pauses))
    recent = progress.recent if progress else ()
    seconds = [record.seconds - record.pause_seconds for record in recent]
    if len(seconds) < _LEAST_STEPS or (progress and activity.step <= progress.begun_after + 1):
        return policy.first_step_limit
    median = statistics.median(seconds)
    deviation = statistics.median(abs(each - median) for each in seconds)
    return max(
        policy.step_floor,
        policy.step_multiple * median,
        median + policy.step_deviations * deviation,
    )


def judge(job: Job, pods: Mapping[str, Pod], now: float, policy: LivenessPolicy) -> Hung | None:
    """Who holds the gang up beyond what is allowed."""
    late: dict[str, str] = {}
    overdue: list[float] = []
    may_get_on = False
    for host in _hosts(job, pods):
        activity = host.activity
        if activity is None or activity.assignment != Assignment(job.id, job.generation):
            may_get_on = True
            continue
        allowed, spent = allowed_seconds(job, activity, policy), now - activity.since
        if activity.phase in _WAITING:
            overdue.append(spent - max(allowed or 0.0, policy.link_limit))
        elif allowed is not None and spent > allowed:
            late.setdefault(host.ref.pod, _evidence(host, activity, spent, allowed))
        elif activity.phase != "rest":
            may_get_on = True
    if late:
        return Hung(tuple(late), "; ".join(late.values()))
    if may_get_on or not overdue or min(overdue) <= 0:
        return None
    names = ", ".join(job.gang)
    return Hung((), f"{names} wait for each other and nothing comes over the link")


def ticked(turn: Turn, job_id: str, policy: LivenessPolicy) -> Hung:
    """Time passes; returns which pods are to be given up now."""
    job = turn.jobs.get(job_id)
    if job is None:
        return _NOBODY
    hung = judge(job, turn.pods, turn.now, policy) if _is_judged(job) else None
    if job.hang is None:
        if hung is not None:
            _ask(turn, job, hung)
        return _NOBODY
    if hung is None:
        turn.measure(dataclasses.replace(job, hang=None), ())
        turn.note(Entry("job.moved_on", f"{job.spec.name} gets on again", job.id))
        return _NOBODY
    asked = {str(host.ref) for host in _hosts(job, turn.pods)}
    if not asked <= job.hang.told and turn.now - job.hang.since <= policy.stacks_grace:
        return _NOBODY
    job = dataclasses.replace(job, hang=None)
    turn.measure(job, ())
    if hung.pods:
        return hung
    healing.unexplained(turn, job, Reason("LinkDown", hung.reason))
    return _NOBODY


def stacks_told(turn: Turn, event: events.StacksTold, _policy: LivenessPolicy) -> None:
    job = turn.current_job(event.assignment)
    if turn.host(event.host) is None or job is None or job.hang is None:
        return
    hang = dataclasses.replace(job.hang, told=job.hang.told | {str(event.host)})
    turn.measure(dataclasses.replace(job, hang=hang), ())
    message = f"what the threads of {event.host} are at"
    data = {"host": event.host.index, "stacks": event.text}
    turn.note(Entry("host.stacks", message, job.id, event.host.pod, data))


def _is_judged(job: Job) -> bool:
    """Whether hosts are to get on by themselves. Those that are told to stand still are watched
    while they are, and so are those that must explain what became of a peer."""
    if job.awaited_since is not None or job.suspicion is not None or job.is_gathering:
        return False
    return job.state in (JobState.STARTING, JobState.RUNNING, JobState.RECOVERING)


def _ask(turn: Turn, job: Job, hung: Hung) -> None:
    turn.measure(dataclasses.replace(job, hang=Hang(turn.now)), ())
    step = job.progress.merged if job.progress else 0
    data = {"pods": list(hung.pods), "step": step}
    pod = hung.pods[0] if hung.pods else None
    turn.note(
        Entry("job.hung", f"{job.spec.name} does not get on: {hung.reason}", job.id, pod, data)
    )
    assignment = Assignment(job.id, job.generation)
    for host in _hosts(job, turn.pods):
        turn.order(commands.DumpStacks(host.ref, assignment))


def _hosts(job: Job, pods: Mapping[str, Pod]) -> list[Host]:
    return [
        host for name in job.gang if name in pods for _, host in sorted(pods[name].hosts.items())
    ]


def _evidence(host: Host, activity: Activity, spent: float, allowed: float) -> str:
    doing = _DOING[activity.phase].format(step=activity.step)
    return f"{host.ref} {doing} for {spent:.0f} s, {allowed:.0f} s are allowed"
