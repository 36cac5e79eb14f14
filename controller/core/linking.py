"""The emulated link of a fleet while it runs: what operators ask of it and what hosts say holds.

A host that was started without an emulated link says nothing of one, and is never asked for one: a
slip of the API must not throttle a link that people depend on.
"""

from __future__ import annotations

import dataclasses

from controller.core import commands, errors, events
from controller.core.liveness import LivenessPolicy
from controller.core.turn import Entry, Turn


def change_requested(
    turn: Turn, event: events.LinkChangeRequested, _policy: LivenessPolicy
) -> None:
    """Every host of the pod sends under these conditions from now on, whatever it works for."""
    pod = turn.pod(event.pod)
    if not pod.hosts or any(host.link is None for host in pod.hosts.values()):
        raise errors.LinkNotEmulated(pod.name)
    for _, host in sorted(pod.hosts.items()):
        turn.order(commands.SetLinkConditions(host.ref, event.conditions))
    turn.note(
        Entry(
            "link.changed",
            f"what {pod.name} sends: {event.conditions}, by {event.actor}",
            pod.assignment.job if pod.assignment else None,
            pod.name,
            dataclasses.asdict(event.conditions),
        )
    )


def conditions_reported(
    turn: Turn, event: events.LinkConditionsReported, _policy: LivenessPolicy
) -> None:
    host = turn.host(event.host)
    if host is not None:
        turn.put_host(dataclasses.replace(host, link=event.conditions))
