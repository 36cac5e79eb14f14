"""Pods that are withheld, as the core decides about them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core import commands, errors, events
from controller.core.cluster import PodState, Withheld
from controller.core.job import JobState
from tests.controller.core.test_healing import goes_on, resumes, running
from tests.controller.core.world import World, ref, two_pods


def drain(world: World, pod: str = "pod-1") -> None:
    world.happens(events.DrainRequested(pod, "ann"))


def undrain(world: World, pod: str = "pod-1") -> None:
    world.happens(events.UndrainRequested(pod, "ann"))


def leaves(world: World, pod: str = "pod-1", index: int = 0) -> None:
    world.happens(events.HostLeaving(ref(pod, index), 25.0))


def trains(steps: int = 7, **fields: Any) -> World:
    world = running(**fields)
    for host in world.hosts():
        world.apply(host, range(1, steps + 1))
    return world


def state_of(world: World, pod: str = "pod-1") -> PodState:
    return world.state.pods[pod].state


def test_free_pod_that_is_drained_is_given_no_job_until_it_is_wanted_back() -> None:
    world = two_pods()
    drain(world)
    assert world.noted() == ["pod.withheld"] and state_of(world) is PodState.DRAINED
    assert world.outcome.entries[0].message == "pod-1 is drained by ann"
    world.submit()
    assert world.job().state is JobState.PENDING
    assert "pod-1 is drained" in world.job().reason.message
    undrain(world)
    assert "pod.released" in world.noted()
    assert world.job().state is JobState.ADMITTED


def test_draining_twice_and_wanting_back_what_is_not_drained_change_nothing() -> None:
    world = two_pods()
    undrain(world)
    assert not world.outcome.entries
    drain(world)
    drain(world)
    assert not world.outcome.entries and state_of(world) is PodState.DRAINED


@pytest.mark.parametrize("request_", [events.DrainRequested, events.UndrainRequested])
def test_pod_that_is_not_there_is_refused(request_: Any) -> None:
    with pytest.raises(errors.UnknownPod):
        two_pods().happens(request_("pod-9", "ann"))


@pytest.mark.parametrize("ahead", [0, 1])
def test_job_of_a_drained_pod_goes_on_with_a_spare_and_no_setback(ahead: int) -> None:
    """Whatever the one that goes has applied beyond the others is run again."""
    world = trains(pods=2)
    world.pod_joins("pod-2")
    drain(world)
    assert [order.host.pod for order in world.ordered(commands.HoldHost)] == ["pod-0", "pod-1"]
    world.hold(ref("pod-1"), 7 + ahead)
    world.hold(ref("pod-0"), 7)
    assert world.job().gang == ("pod-0", "pod-2") and world.job().generation == 2
    resume = resumes(world)["pod-2"]
    assert resume is not None and (resume.step, resume.lacking) == (7, (1,))
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-1"]
    goes_on(world)
    assert world.job().state is JobState.RUNNING
    assert (world.job().setbacks.total, world.job().setbacks.handovers) == (0, 1)
    (stopped,) = [p for p in world.state.pods.values() if p.name == "pod-1"]
    assert stopped.state is PodState.BUSY
    world.release(ref("pod-1"), world.state.pods["pod-1"].hosts[0].holds, 7 + ahead)
    assert state_of(world) is PodState.DRAINED


def test_job_waits_for_another_pod_where_there_is_no_spare() -> None:
    world = trains(pods=2)
    drain(world)
    world.hold(ref("pod-0"), 7)
    world.hold(ref("pod-1"), 7)
    assert world.job().state is JobState.RECOVERING
    assert world.job().reason.code == "WaitingForPod"
    world.release(ref("pod-1"), world.assignment(), 7)
    undrain(world)
    assert world.job().gang == ("pod-0", "pod-1") and world.job().generation == 2


def test_job_goes_on_with_fewer_pods_where_it_may() -> None:
    world = trains(pods=3, on_pod_loss="shrink")
    drain(world)
    for pod in ("pod-0", "pod-1", "pod-2"):
        world.hold(ref(pod), 7)
    assert world.job().gang == ("pod-0", "pod-2")


def test_job_that_may_lose_no_pod_fails_for_it() -> None:
    world = trains(on_pod_loss="fail")
    drain(world)
    assert world.job().state is JobState.FAILED and world.job().reason.code == "Drained"


def test_job_whose_pods_are_all_withheld_starts_over_elsewhere() -> None:
    world = trains(pods=2)
    drain(world, "pod-0")
    drain(world, "pod-1")
    world.hold(ref("pod-0"), 7)
    world.hold(ref("pod-1"), 7)
    assert world.job().state is JobState.PENDING and world.job().attempt == 2


def test_job_that_gets_ready_is_begun_again_elsewhere() -> None:
    world = two_pods()
    world.submit(on_pod_loss="wait")
    world.lower()
    drain(world)
    assert world.job().state is JobState.PENDING


def test_newcomer_that_is_drained_while_it_gets_ready_is_done_without() -> None:
    world = trains(pods=2)
    world.pod_joins("pod-2")
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    assert world.job().gang == ("pod-0", "pod-2")
    drain(world, "pod-2")
    world.hold(ref("pod-0"), 7)
    world.release(ref("pod-2"), world.assignment())
    assert world.job().reason.code == "WaitingForPod"
    assert state_of(world, "pod-2") is PodState.DRAINED


def test_pod_that_stands_still_and_waits_is_drained_at_once() -> None:
    world = trains(pods=3)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    world.hold(ref("pod-2"), 7)
    assert world.job().reason.code == "WaitingForPod"
    drain(world, "pod-2")
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-2"]
    assert world.job().is_gathering


def test_drain_of_a_pod_that_lets_go_anyway_leaves_its_job_alone() -> None:
    world = trains(pods=2)
    world.happens(events.CancelRequested("job-1", "ann"))
    drain(world)
    assert world.job().state is JobState.CANCELLING
    assert not world.ordered(commands.HoldHost)


def test_host_that_must_leave_is_dismissed_once_its_job_goes_on_without_it() -> None:
    world = trains(pods=2)
    world.pod_joins("pod-2")
    leaves(world)
    assert world.job().reason.message == "host 0 of pod-1 was told to end and does so within 25 s"
    world.hold(ref("pod-0"), 7)
    world.hold(ref("pod-1"), 7)
    assert not world.ordered(commands.DismissHost)
    world.release(ref("pod-1"), world.state.pods["pod-1"].hosts[0].holds, 7)
    assert [order.host for order in world.ordered(commands.DismissHost)] == [ref("pod-1")]
    world.loses("pod-1")
    assert world.job().setbacks.total == 0
    # Another process of that name has nothing to do with it.
    world.pod_joins("pod-1", incarnation="b")
    assert state_of(world) is PodState.READY


def test_idle_pod_that_must_leave_is_dismissed_at_once_as_a_whole() -> None:
    world = World()
    world.pod_joins("pod-1", hosts=2)
    leaves(world, index=1)
    dismissed = [order.host for order in world.ordered(commands.DismissHost)]
    assert dismissed == [ref("pod-1", 0), ref("pod-1", 1)]
    undrain(world)
    assert state_of(world) is PodState.DRAINED


def test_stranger_that_leaves_is_nobodys_business() -> None:
    world = two_pods()
    world.happens(events.HostLeaving(ref("pod-1", incarnation="z"), 25.0))
    assert state_of(world) is PodState.READY


def test_drained_pod_whose_machine_goes_is_drained_when_it_comes_back() -> None:
    world = two_pods()
    drain(world)
    world.loses("pod-1")
    world.pod_joins("pod-1", incarnation="b")
    assert state_of(world) is PodState.DRAINED


def test_withheld_pods_are_known_to_a_restarted_controller_but_those_that_were_leaving() -> None:
    world = World()
    withheld = {
        "pod-0": Withheld("Drained", "d"),
        "pod-1": Withheld("Leaving", "l"),
        "pod-2": Withheld("Quarantined", "q"),
    }
    world.happens(events.PodsReloaded(withheld))
    for pod in ("pod-0", "pod-1", "pod-2"):
        world.pod_joins(pod, hosts=2)
    states = [state_of(world, pod) for pod in ("pod-0", "pod-1", "pod-2")]
    assert states == [PodState.DRAINED, PodState.READY, PodState.QUARANTINED]
