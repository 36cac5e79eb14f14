from __future__ import annotations

import pytest

from controller.core import commands, events, view
from controller.core.errors import LinkNotEmulated, UnknownPod
from controller.core.link import LinkConditions
from tests.controller.core.world import World, ref, two_pods

SLOW = LinkConditions(bandwidth_bytes_per_second=25e6, latency_seconds=0.005)
CUT = LinkConditions(is_partitioned=True)


def emulated(hosts: int = 1) -> World:
    world = World()
    for host in world.pod_joins("pod-0", hosts):
        world.happens(events.LinkConditionsReported(host, LinkConditions()))
    world.pod_joins("pod-1")
    return world


def asks(world: World, conditions: LinkConditions, pod: str = "pod-0") -> None:
    world.happens(events.LinkChangeRequested(pod, conditions, "somebody"))


def test_all_hosts_of_the_pod_are_told_and_people_see_who_did_it() -> None:
    world = emulated(hosts=2)
    asks(world, SLOW)
    orders = world.ordered(commands.SetLinkConditions)
    assert [(order.host.index, order.conditions) for order in orders] == [(0, SLOW), (1, SLOW)]
    (entry,) = world.outcome.entries
    assert (entry.kind, entry.pod, entry.job_id) == ("link.changed", "pod-0", None)
    assert entry.message == "what pod-0 sends: bandwidth 200Mbit, latency 5ms, by somebody"
    assert entry.data["bandwidth_bytes_per_second"] == 25e6


def test_the_job_on_the_pod_has_the_change_among_its_events_and_goes_on() -> None:
    world = two_pods()
    world.happens(events.LinkConditionsReported(ref("pod-0"), LinkConditions()))
    world.start()
    asks(world, CUT)
    assert [entry.job_id for entry in world.outcome.entries] == ["job-1"]
    world.happens(events.LinkConditionsReported(ref("pod-0"), CUT))
    world.passes(3600.0)
    assert world.job().state == "RUNNING"


@pytest.mark.parametrize("attached", [True, False])
def test_a_link_that_is_not_emulated_stays_as_it_is(attached: bool) -> None:
    world = emulated()
    if not attached:
        world.happens(events.HostDetached(ref("pod-1"), "gone"))
    with pytest.raises(LinkNotEmulated):
        asks(world, SLOW, "pod-1")


def test_one_host_without_an_emulated_link_is_enough_to_refuse() -> None:
    world = World()
    first, _ = world.pod_joins("pod-0", 2)
    world.happens(events.LinkConditionsReported(first, LinkConditions()))
    with pytest.raises(LinkNotEmulated):
        asks(world, SLOW)


def test_a_pod_that_never_came_is_unknown() -> None:
    with pytest.raises(UnknownPod):
        asks(emulated(), SLOW, "pod-9")


def test_readers_see_what_hosts_say_is_in_force() -> None:
    world = emulated(hosts=2)
    asks(world, SLOW)
    unlimited = view.link_conditions_document(LinkConditions())
    plain = {"name": "pod-1", "is_emulated": False, "conditions": None}
    assert view.emulated_link_documents(world.state) == [
        {"name": "pod-0", "is_emulated": True, "conditions": unlimited},
        plain,
    ]
    world.happens(events.LinkConditionsReported(ref("pod-0", 0), SLOW))
    changing, _ = view.emulated_link_documents(world.state)
    assert changing == {"name": "pod-0", "is_emulated": True, "conditions": None}
    world.happens(events.LinkConditionsReported(ref("pod-0", 1), SLOW))
    changed, _ = view.emulated_link_documents(world.state)
    assert changed["conditions"] == {
        "bandwidth": "200Mbit",
        "latency": "5ms",
        "jitter": None,
        "stall_every": None,
        "stall": None,
        "drop": None,
        "partitioned": False,
    }


def test_a_new_process_has_the_link_it_was_started_with() -> None:
    world = emulated()
    world.happens(events.LinkConditionsReported(ref("pod-0"), CUT))
    world.pod_joins("pod-0", incarnation="b")
    world.happens(events.LinkConditionsReported(ref("pod-0"), CUT))
    document, _ = view.emulated_link_documents(world.state)
    assert not document["is_emulated"]
