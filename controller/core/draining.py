"""Pods that are withheld: drained by a person, quarantined, or told by their machine to leave.

What such a pod works on goes on elsewhere, after the step at hand: the others of its gang hold the
same state. Then it is free, and stays so until a person wants it back; one that is to leave is
dismissed.
"""

from __future__ import annotations

import dataclasses

from controller.core import events, healing, letting_go
from controller.core.cluster import Pod, Withheld
from controller.core.job import JobState, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn

_ENDING = frozenset({JobState.CANCELLING, JobState.PENDING})
"""Pods let go of jobs in these states anyway."""


def drain_requested(turn: Turn, event: events.DrainRequested, _policy: LivenessPolicy) -> None:
    pod = turn.pod(event.pod)
    if pod.withheld is None or pod.is_leaving:
        withhold(turn, pod, Withheld("Drained", f"{pod.name} is drained by {event.actor}"))


def undrain_requested(turn: Turn, event: events.UndrainRequested, _policy: LivenessPolicy) -> None:
    pod = turn.pod(event.pod)
    if pod.withheld is not None and not pod.is_leaving:
        turn.put_pod(dataclasses.replace(pod, withheld=None))
        turn.note(
            Entry("pod.released", f"{pod.name} is used again, by {event.actor}", pod=pod.name)
        )
        turn.availability_changed = True


def pods_reloaded(turn: Turn, event: events.PodsReloaded, _policy: LivenessPolicy) -> None:
    """Before their hosts are there, which find it so. One that was about to end tells again."""
    for name, withheld in event.withheld.items():
        pod = dataclasses.replace(turn.pods.get(name, Pod(name, 1)), withheld=withheld)
        if not pod.is_leaving:
            turn.put_pod(pod)
            turn.availability_changed = True


def host_leaving(turn: Turn, event: events.HostLeaving, _policy: LivenessPolicy) -> None:
    if turn.host(event.host) is None:
        return
    pod = turn.pods[event.host.pod]
    message = f"{event.host} was told to end and does so within {event.seconds:.0f} s"
    withhold(turn, pod, Withheld("Leaving", message))


def withhold_those_named(turn: Turn) -> None:
    """What was found out about pods while something else was decided."""
    for name, withheld in turn.to_withhold.items():
        pod = turn.pods.get(name)
        if pod is not None:
            withhold(turn, pod, withheld)


def withhold(turn: Turn, pod: Pod, withheld: Withheld) -> None:
    """Give the pod no job any more, and have the one that it has go on without it."""
    turn.put_pod(dataclasses.replace(pod, withheld=withheld))
    # Of no job: it is remembered by this entry, which must not go when a job is deleted.
    turn.note(Entry("pod.withheld", withheld.message, pod=pod.name, data={"code": withheld.code}))
    turn.availability_changed = True
    job = turn.current_job(pod.assignment) if pod.assignment else None
    if pod.assignment is None:
        letting_go.dismiss_if_leaving(turn, turn.pods[pod.name])
    elif job is not None and job.state not in _ENDING and pod.releasing_since is None:
        healing.hand_over(turn, job, pod.name, Reason(withheld.code, withheld.message))
