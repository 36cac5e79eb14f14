"""`exchange.mode: auto` through the machine: links change, hosts report, and decisions come."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core import commands, events, view
from controller.core.batch import BatchPhase
from controller.core.choosing import ChoicePolicy
from controller.core.cluster import Traffic
from controller.core.job import JobState
from controller.core.spikes import SpikePolicy
from tests.controller.core.linked_pods import (
    COMPUTE_SECONDS,
    FLOAT32,
    INT8,
    MBIT,
    POLICY,
    LinkedPods,
)
from tests.controller.core.test_saving import saves
from tests.controller.core.world import World, ref

SLOW, FAST = 10 * MBIT, 1000 * MBIT


def document(world: World) -> dict[str, Any]:
    return view.job_document(world.job(), world.state, world.now)["exchange"]


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_links_that_change_are_followed_and_every_decision_says_why(num_hosts: int) -> None:
    pods = LinkedPods(World(), num_hosts)
    for rate in (1000, 200, 100, 10, 100, 500, 1000):
        pods.run(120, rate * MBIT)
    # At 200 Mbit/s the last quarter of 2 MB takes 20 ms of 420, and in bfloat16 half; at 100 in
    # int8 2.5%; at 10 int8 is the least. The way back takes half of that: 500, and 1000.
    assert pods.history == ["float32", "bfloat16", "int8", "bfloat16", "float32"]
    starts, halved, least, nearer, back = pods.entries
    assert starts.message.startswith("float32 from step 1 on; bfloat16 and int8 may take over")
    assert halved.message.startswith(f"bfloat16 from step {halved.data['step']} on: at 25 MB/s")
    assert "float32 leaves 4.8% of a step exposed and bfloat16 2.4%; the budget is 3.0%" in (
        halved.message
    )
    assert "12.5 MB/s" in least.message and "int8 2.5%" in least.message
    assert "bfloat16 leaves 1.0% of a step exposed" in nearer.message
    assert "float32 leaves 1.0% of a step exposed" in back.message
    assert halved.data["bytes_per_second"] == pytest.approx(200 * MBIT)
    assert halved.data["compute_seconds"] == pytest.approx(COMPUTE_SECONDS)
    assert (halved.data["from"], halved.data["to"]) == ("float32", "bfloat16")
    assert halved.data["shares"] == pytest.approx([0.0476, 0.0244, 0.0126], abs=1e-4)


def test_all_hosts_change_at_the_first_step_that_none_was_granted() -> None:
    pods = LinkedPods(World(), 2)
    pods.run(30, SLOW)
    first = pods.entries[-1].data["step"]
    assert [pods.dtype(step) for step in (first - 1, first)] == ["float32", "int8"]
    # Windows are short, so that it comes soon: a window to judge, and one that was granted.
    assert first <= 2 * 8 + 4


def test_a_job_that_may_choose_nothing_else_reports() -> None:
    pods = LinkedPods(World(), choice=ChoicePolicy((FLOAT32,)))
    assert document(pods.world)["choice"]["shares"] is None
    pods.run(40, SLOW)
    assert pods.history == ["float32"]
    assert pods.entries[0].message == ("float32 from step 1 on; nothing else is allowed")
    told = document(pods.world)
    assert (told["mode"], told["dtype"], told["overlap"]) == ("auto", "float32", True)
    assert told["choice"]["candidates"] == ["float32"]
    assert told["choice"]["since_step"] == 1
    assert told["choice"]["conditions"]["bytes_per_second"] == pytest.approx(SLOW)
    assert told["choice"]["shares"] == pytest.approx([1.4 / 1.8])


def test_what_holds_is_in_the_document() -> None:
    pods = LinkedPods(World())
    pods.run(30, SLOW)
    told = document(pods.world)
    assert (told["mode"], told["dtype"]) == ("auto", "int8")
    assert told["choice"]["since_step"] == pods.entries[-1].data["step"]
    assert told["choice"]["candidates"] == ["float32", "bfloat16", "int8"]


def test_a_job_whose_exchange_is_fixed_chooses_nothing() -> None:
    world = World()
    pods = LinkedPods(world, choice=None)
    pods.run(64, SLOW)
    assert pods.entries == [] and world.ordered(commands.ChangeExchange) == []
    told = document(world)
    assert (told["mode"], told["dtype"], told["choice"]) == ("full", "float32", None)


def test_one_pod_has_nothing_to_choose() -> None:
    world = World()
    world.pod_joins("pod-0")
    world.start(min_pods=1, max_pods=1, steps=100, choice=POLICY)
    for first in range(1, 33, 4):
        world.apply(ref("pod-0"), range(first, first + 4))
        assert "exchange.chosen" not in world.noted()
    choice = world.job().choosing
    assert choice is not None and (choice.index, choice.conditions) == (0, None)


def test_nothing_changes_for_steps_that_never_come() -> None:
    pods = LinkedPods(World(), steps=13)
    pods.run(13, SLOW)
    assert pods.history == ["float32"]
    assert pods.world.job().state is JobState.SUCCEEDED


def test_what_other_jobs_sent_before_does_not_count() -> None:
    world = World()
    pods = LinkedPods(world, steps=20)
    assignment = world.assignment()
    pods.run(20, 1 * MBIT)
    for host in (ref("pod-0"), ref("pod-1")):
        world.release(host, assignment, 20)
    world.submit("job-2", steps=1000, choice=POLICY, phases=(BatchPhase(1, 2),))
    world.lower("job-2")
    for host in world.hosts("job-2"):
        world.ready(host, "job-2")
    choice = world.job("job-2").choosing
    assert choice is not None
    assert {d: s.num_bytes > 0 for d, s in choice.sent_before.items()} == {
        "pod-0 to pod-1": True,
        "pod-1 to pod-0": True,
    }


def test_a_third_pod_outside_of_the_gang_is_no_link_of_it() -> None:
    world = World()
    pods = LinkedPods(world)
    world.pod_joins("pod-2")
    elsewhere = {"pod-2": Traffic(10, 1000.0, 0), "pod-1": Traffic(10**9, 1.0, 0)}
    pods.run(3, FAST)
    world.happens(events.HostHeard(ref("pod-0"), elsewhere))
    pods.run(20, FAST)
    assert pods.history == ["float32"]


def test_a_rewind_goes_on_in_what_was_in_force() -> None:
    spikes = SpikePolicy(threshold=8, window=16, rewind_steps=4, skip_steps=5, max_rewinds=2)
    pods = LinkedPods(World(), checkpoint_every=10, spikes=spikes)
    world = pods.world
    for saved in (10, 20):
        pods.run(10, SLOW)
        saves(world, saved)
    pods.run(8, SLOW)
    assert pods.history == ["float32", "int8"]
    for host in world.hosts():
        world.apply(host, [29], loss=100.0)
    assert world.job().state is JobState.STARTING
    assert {order.exchange for order in world.ordered(commands.PrepareHost)} == {INT8.rule}
    for host in world.hosts():
        world.ready(host)
    entry = pods.entries[-1]
    assert (entry.data["from"], entry.data["to"], entry.data["step"]) == (None, "int8", 21)
    assert entry.message.startswith("int8 from step 21 on; float32 and bfloat16 may take over")
    choice = world.job().choosing
    assert choice is not None and (choice.first_step, choice.conditions) == (21, None)


def test_a_restarted_controller_goes_on_in_what_was_in_force() -> None:
    pods = LinkedPods(World())
    world = pods.world
    pods.run(30, SLOW)
    before = world.job()
    world.restart([before])
    for pod in ("pod-0", "pod-1"):
        world.pod_joins(pod, incarnation="b")
    world.lower()
    assert {order.exchange for order in world.ordered(commands.PrepareHost)} == {INT8.rule}
    for host in world.hosts():
        world.ready(host)
    assert pods.history == ["float32", "int8", "int8"]
