"""Hosts that are alive and do not get on, as the core decides about them."""

from __future__ import annotations

import pytest

from controller.core import commands, events
from controller.core.cluster import Activity, Assignment, HostRef
from controller.core.hanging import allowed_seconds
from controller.core.job import JobState
from controller.core.liveness import LivenessPolicy
from tests.controller.core.world import World, record, ref

POLICY = LivenessPolicy()
STEPS = 10


def running(pods: int = 2, hosts: int = 1, **fields: object) -> World:
    """A job of which every pod has applied ten steps of half a second."""
    world = World(POLICY)
    for index in range(pods):
        world.pod_joins(f"pod-{index}", hosts)
    counted = {"min_pods": pods, "max_pods": pods, "devices_per_pod": hosts}
    world.start(steps=100, **{**counted, "on_pod_loss": "wait", **fields})
    for index in range(pods):
        world.apply(ref(f"pod-{index}"), range(1, STEPS + 1))
    return world


def does(world: World, host: HostRef, phase: str, seconds: float, step: int = STEPS + 1) -> None:
    """The host says what it does, and time is looked at."""
    doing = events.Doing(world.assignment(), phase, step, seconds)
    world.happens(events.HostHeard(host, {}, doing))


def ticks(world: World, seconds: float = 0.0) -> None:
    world.now += seconds
    world.happens(events.Ticked())


def tells(world: World, host: HostRef) -> None:
    world.happens(events.StacksTold(host, world.assignment(), f"frames of {host}"))


def hung(world: World) -> None:
    """pod-1 computes for a minute, and pod-0 waits for it."""
    does(world, ref("pod-0"), "exchange", 60.0)
    does(world, ref("pod-1"), "compute", 60.5)
    ticks(world)


@pytest.mark.parametrize(
    ("seconds", "allowed"),
    [
        # Far less than the floor.
        ([0.5] * 10, 20.0),
        # Five times the median.
        ([17.0] * 10, 85.0),
        # Twenty deviations, where steps differ by more than a fifth.
        ([10.0, 14.0, 18.0, 10.0, 14.0, 18.0, 14.0], 14.0 + 20 * 4.0),
        # Two say nothing.
        ([0.5, 0.5], 900.0),
    ],
)
def test_how_long_a_step_may_take_follows_from_those_before(
    seconds: list[float], allowed: float
) -> None:
    world = World(POLICY)
    world.pod_joins("pod-0")
    world.start(steps=100, min_pods=1, max_pods=1)
    records = tuple(record(n, seconds=s) for n, s in enumerate(seconds, start=1))
    world.happens(events.StepsApplied(ref("pod-0"), world.assignment(), records))
    for phase in ("compute", "exchange"):
        doing = Activity(world.assignment(), phase, len(seconds) + 1, 0.0)
        assert allowed_seconds(world.job(), doing, POLICY) == allowed


def test_first_step_of_a_generation_may_take_long_whatever_came_before() -> None:
    job = running().job()
    doing = Activity(Assignment("job-1", 1), "compute", 1, 0.0)
    assert allowed_seconds(job, doing, POLICY) == POLICY.first_step_limit


def test_what_is_done_rarely_has_its_own_limit_and_a_shorter_one_once_it_is_known() -> None:
    world = running()
    doing = {p: Activity(world.assignment(), p, 1, 0.0) for p in (*POLICY.phase_limits, "rest")}
    job = world.job()
    for phase, limit in POLICY.phase_limits.items():
        assert allowed_seconds(job, doing[phase], POLICY) == limit
    assert allowed_seconds(job, doing["rest"], POLICY) is None
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), [11], time=1405.0, seconds=400.0, pause_seconds=399.0)
    assert allowed_seconds(world.job(), doing["evaluate"], POLICY) == 5 * 399.0
    assert allowed_seconds(world.job(), doing["compile"], POLICY) == POLICY.phase_limits["compile"]


def test_stacks_of_all_hosts_are_asked_for_before_anything_is_done() -> None:
    world = running()
    hung(world)
    assert world.noted() == ["job.hung"]
    (entry,) = world.outcome.entries
    assert entry.pod == "pod-1" and entry.data == {"pods": ["pod-1"], "step": STEPS}
    assert "host 0 of pod-1 has computed step 11 for 60 s, 20 s are allowed" in entry.message
    assert [order.host for order in world.ordered(commands.DumpStacks)] == world.hosts()
    assert world.job().state is JobState.RUNNING
    ticks(world)
    assert not world.outcome.commands and not world.outcome.entries


def test_pod_that_holds_the_gang_up_is_given_up_once_all_have_told() -> None:
    world = running()
    hung(world)
    for host in world.hosts():
        tells(world, host)
        assert world.noted() == ["host.stacks"]
        assert world.outcome.entries[0].data["stacks"] == f"frames of {host}"
    ticks(world)
    assert world.job().state is JobState.RECOVERING and world.job().hang is None
    assert "pod-1 was lost at step 10: host 0 of pod-1 has computed" in world.job().reason.message
    assert [order.pod for order in world.ordered(commands.RestartPod)] == ["pod-1"]
    assert [order.host.pod for order in world.ordered(commands.HoldHost)] == ["pod-0"]


def test_host_that_cannot_even_tell_its_stacks_is_given_up_without() -> None:
    world = running()
    hung(world)
    tells(world, ref("pod-0"))
    ticks(world, POLICY.stacks_grace)
    assert world.job().state is JobState.RUNNING
    ticks(world, 0.1)
    assert world.job().state is JobState.RECOVERING


def test_job_that_moved_on_meanwhile_is_left_alone() -> None:
    world = running()
    hung(world)
    does(world, ref("pod-1"), "compute", 0.1, step=12)
    ticks(world)
    assert world.noted() == ["job.moved_on"] and world.job().hang is None
    tells(world, ref("pod-0"))
    assert not world.outcome.entries


def test_who_waits_is_not_judged_while_another_may_still_take_its_time() -> None:
    world = running()
    for phase in ("evaluate", "save", "compute"):
        does(world, ref("pod-0"), "exchange", 500.0)
        does(world, ref("pod-1"), phase, 15.0)
        ticks(world)
        assert not world.outcome.entries and world.job().hang is None


def test_hosts_of_which_nothing_is_known_may_get_on() -> None:
    world = running(3)
    does(world, ref("pod-0"), "exchange", 500.0)
    does(world, ref("pod-1"), "exchange", 500.0)
    ticks(world)
    earlier = events.Doing(Assignment("job-1", 0), "compute", 1, 500.0)
    world.happens(events.HostHeard(ref("pod-2"), {}, earlier))
    ticks(world)
    assert world.job().hang is None


def test_host_that_rests_holds_nobody_up() -> None:
    world = running()
    for host in world.hosts():
        does(world, host, "rest", 10_000.0)
    ticks(world)
    assert world.job().hang is None


@pytest.mark.parametrize(
    ("on_pod_loss", "state"), [("wait", JobState.RECOVERING), ("fail", JobState.FAILED)]
)
def test_gang_whose_pods_all_wait_is_held_up_by_the_link(on_pod_loss: str, state: JobState) -> None:
    world = running(on_pod_loss=on_pod_loss)
    for host, seconds in zip(world.hosts(), (121.0, 119.0), strict=True):
        does(world, host, "exchange", seconds)
    ticks(world)
    assert world.job().hang is None
    ticks(world, 1.5)
    assert world.noted() == ["job.hung"] and world.outcome.entries[0].pod is None
    for host in world.hosts():
        tells(world, host)
    ticks(world)
    assert world.job().state is state and world.job().reason.code == "LinkDown"
    assert not world.ordered(commands.RestartPod)


def test_pod_of_two_hosts_is_given_up_for_the_one_that_hangs() -> None:
    world = running(hosts=2)
    for host in world.hosts():
        phase = "compute" if host == ref("pod-1", 1) else "exchange"
        does(world, host, phase, 60.0)
    ticks(world)
    for host in world.hosts():
        tells(world, host)
    ticks(world)
    assert [order.pod for order in world.ordered(commands.RestartPod)] == ["pod-1"]
    assert [order.host.pod for order in world.ordered(commands.HoldHost)] == ["pod-0"] * 2


def test_hang_while_getting_ready_costs_the_attempt() -> None:
    world = World(POLICY)
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    world.submit(steps=100, on_pod_loss="wait")
    world.lower()
    world.ready(ref("pod-0"))
    does(world, ref("pod-0"), "rest", 4000.0, step=0)
    does(world, ref("pod-1"), "compile", 4000.0, step=0)
    ticks(world)
    ticks(world, POLICY.stacks_grace + 0.1)
    assert world.job().state is JobState.PENDING
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.requeued"]
    assert "host 0 of pod-1 has compiled for 4003 s, 3600 s are allowed" in entry.message


def test_gang_that_stands_still_and_one_with_a_suspect_are_not_judged() -> None:
    world = running(3)
    world.loses("pod-2")
    hung(world)
    assert world.job().is_gathering and world.job().hang is None
    world = running()
    fault = events.JobFaulted(ref("pod-0"), world.assignment(), "exchange", 11, "gone", "pod-1")
    world.happens(fault)
    hung(world)
    assert world.job().suspicion is not None and world.job().hang is None


def test_stacks_that_nobody_asked_for_or_of_a_stranger_are_dropped() -> None:
    world = running()
    tells(world, ref("pod-0"))
    assert not world.outcome.entries
    hung(world)
    tells(world, ref("pod-0", incarnation="z"))
    assert not world.outcome.entries


def test_absence_of_the_controller_is_nobodys_hang() -> None:
    world = running()
    ticks(world)
    does(world, ref("pod-0"), "exchange", 1.0)
    does(world, ref("pod-1"), "compute", 1.0)
    ticks(world, 60.0)
    assert "controller.absent" in world.noted()
    ticks(world, 0.25)
    assert world.job().hang is None
