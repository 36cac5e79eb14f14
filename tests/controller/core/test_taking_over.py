"""A controller that is killed and started again, as the core decides about its jobs."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment
from controller.core.errors import CannotSave
from controller.core.evaluation import Part
from controller.core.job import JobState
from tests.controller.core.linked_pods import POLICY
from tests.controller.core.world import PROGRAM, World, attached, inventory, ref

DIGEST = "d" * 64


def running(pods: int = 2, hosts: int = 1, **fields: Any) -> World:
    """Seven steps applied on every pod."""
    world = World()
    for index in range(pods):
        world.pod_joins(f"pod-{index}", hosts)
    counted = {"min_pods": pods, "max_pods": pods, "devices_per_pod": hosts, "steps": 100}
    world.start(**{**counted, "on_pod_loss": "wait", **fields})
    for pod in range(pods):
        world.apply(ref(f"pod-{pod}"), range(1, 8))
    return world


def restarted(world: World) -> World:
    world.now += 5.0
    world.restart(list(world.state.jobs.values()))
    return world


def told_again(world: World) -> dict[str, int]:
    return {order.host.pod: order.after_step for order in world.ordered(commands.TellAgain)}


def test_job_waits_for_its_hosts_and_goes_on_when_all_are_back() -> None:
    world = running()
    before = world.job()
    restarted(world)
    assert world.job().state is JobState.RUNNING and world.job().generation == 1
    assert world.job().reason.code == "ControllerRestarted"
    world.comes_back(ref("pod-0"), granted=71)
    assert not world.ordered(commands.TellAgain)
    world.comes_back(ref("pod-1"), granted=71)
    assert told_again(world) == {"pod-0": 7, "pod-1": 7}
    assert world.noted()[-1] == "job.taken_over"
    assert not world.ordered(commands.AssembleHost) and not world.ordered(commands.PrepareHost)
    assert world.job().reason.code == "Training" and world.job().attempt == 1
    after, was = world.job().progress, before.progress
    assert after is not None and was is not None
    assert (after.merged, after.granted, after.totals) == (7, 71, was.totals)
    for host in world.hosts():
        world.apply(host, range(5, 41))
    assert world.job().progress.merged == 40
    # All the time since the last step on record is a step's: nobody was away.
    assert world.job().progress.totals.timeline.seconds == was.totals.timeline.seconds + 33 * 0.5
    assert {order.last_step for order in world.ordered(commands.GrantWindow)} == {100}


def test_job_that_had_applied_its_last_step_is_granted_nothing() -> None:
    world = running(steps=9, checkpoint_every=9)
    for host in world.hosts():
        world.apply(host, [8, 9])
    assert world.job().state is JobState.RUNNING
    restarted(world)
    for pod in ("pod-0", "pod-1"):
        world.comes_back(ref(pod))
    assert world.noted()[-1] == "job.taken_over"
    assert not world.ordered(commands.GrantWindow)


def test_what_hosts_say_before_they_are_asked_changes_nothing() -> None:
    world = restarted(running())
    world.comes_back(ref("pod-0"))
    world.apply(ref("pod-0"), [20])
    assert world.job().progress.applied == {"pod-0": 7, "pod-1": 7}


def test_pods_that_start_anew_let_the_job_start_over_at_once() -> None:
    world = restarted(running(on_pod_loss="fail"))
    world.pod_joins("pod-0", incarnation="b")
    assert world.job().state is JobState.RUNNING
    world.pod_joins("pod-1", incarnation="b")
    assert world.job().attempt == 2 and world.job().generation == 2
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.requeued"]
    assert "the controller restarted" in entry.message


def test_pod_that_started_anew_is_healed_by_the_one_that_went_on() -> None:
    world = restarted(running())
    world.comes_back(ref("pod-0"))
    world.pod_joins("pod-1", incarnation="b")
    assert told_again(world) == {"pod-0": 7}
    assert world.job().state is JobState.RECOVERING
    assert [order.host.pod for order in world.ordered(commands.HoldHost)] == ["pod-0"]
    world.apply(ref("pod-0"), range(8, 10))
    world.hold(ref("pod-0"), 9)
    (resume,) = {order.resume for order in world.ordered(commands.PrepareHost)}
    assert resume is not None and (resume.step, resume.lacking) == (9, (1,))
    assert world.job().generation == 2 and world.job().attempt == 1


def test_pod_that_does_not_come_back_is_lost_after_the_grace() -> None:
    world = restarted(running(on_pod_loss="shrink"))
    world.comes_back(ref("pod-0"))
    world.passes(world.policy.takeover_grace)
    assert world.job().state is JobState.RUNNING
    world.passes(1.0)
    assert world.job().state is JobState.RECOVERING
    world.hold(ref("pod-0"), 7)
    assert world.job().gang == ("pod-0",) and world.job().generation == 2


def test_no_pod_comes_back_and_the_job_starts_over() -> None:
    world = restarted(running())
    world.passes(world.policy.takeover_grace + 2.0)
    assert world.job().state is JobState.PENDING and world.job().attempt == 2


def test_host_of_a_job_that_is_over_is_told_to_stop() -> None:
    world = running()
    world.restart([])
    world.happens(attached(ref("pod-0"), held=Assignment("job-1", 1), assembled_with="a"))
    (order,) = world.ordered(commands.StopHost)
    assert order.assignment == Assignment("job-1", 1)
    world.happens(events.HostInventoried(ref("pod-0"), inventory()))
    assert world.state.pods["pod-0"].assignment == Assignment("job-1", 1)
    world.release(ref("pod-0"), Assignment("job-1", 1), 7)
    assert world.state.pods["pod-0"].assignment is None


def test_host_of_an_older_generation_can_change_nothing() -> None:
    world = running()
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    world.pod_joins("pod-1", incarnation="b")
    for host in world.hosts():
        world.ready(host)
    assert world.job().generation == 2
    # The process that was taken for lost was only cut off.
    late = attached(ref("pod-1"), held=Assignment("job-1", 1), assembled_with="a")
    world.happens(late)
    assert [order.assignment.generation for order in world.ordered(commands.StopHost)] == [1]


def test_hosts_that_stood_still_go_on_waiting() -> None:
    world = running()
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    assert world.job().reason.code == "WaitingForPod"
    restarted(world)
    world.comes_back(ref("pod-0"))
    world.pod_joins("pod-1", incarnation="b")
    world.hold(ref("pod-0"), 7)
    assert world.job().generation == 2 and world.job().gang == ("pod-0", "pod-1")


def test_gang_that_was_getting_ready_gets_ready() -> None:
    world = running()
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    world.pod_joins("pod-1", incarnation="b")
    assert world.job().generation == 2
    restarted(world)
    for host in (ref("pod-0"), ref("pod-1", incarnation="b")):
        world.comes_back(host)
    assert told_again(world) == {"pod-0": 7, "pod-1": 7}
    assert not world.ordered(commands.HoldHost)
    for host in world.hosts():
        world.ready(host)
    assert world.job().state is JobState.RUNNING and world.job().progress.merged == 7


def test_gang_of_which_one_had_not_heard_of_the_new_generation_regroups() -> None:
    world = running()
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    world.pod_joins("pod-1", incarnation="b")
    world.left = {ref("pod-0"): Assignment("job-1", 1)}
    jobs = list(world.state.jobs.values())
    back = ref("pod-1", incarnation="b")
    world.state = type(world.state)()
    world.left[back] = Assignment("job-1", 2)
    world.restart(jobs)
    world.comes_back(ref("pod-0"))
    world.comes_back(back)
    assert {order.assignment.generation for order in world.ordered(commands.HoldHost)} == {1, 2}
    held = events.JobHeld(ref("pod-0"), Assignment("job-1", 1), 7, DIGEST)
    world.happens(held)
    world.release(back, Assignment("job-1", 2))
    assert world.job().generation == 3
    (resume,) = {order.resume for order in world.ordered(commands.PrepareHost)}
    assert resume is not None and (resume.step, resume.lacking) == (7, (1,))


def test_job_that_was_being_prepared_starts_over() -> None:
    world = World()
    for index in (0, 1):
        world.pod_joins(f"pod-{index}")
    world.submit(on_pod_loss="wait")
    world.lower()
    restarted(world)
    for index in (0, 1):
        world.comes_back(ref(f"pod-{index}"))
    assert len(world.ordered(commands.StopHost)) == 2
    assert world.job().state is JobState.PENDING and world.job().attempt == 2


@pytest.mark.parametrize("back", [(), ("pod-0",)])
def test_cancel_while_hosts_are_awaited(back: tuple[str, ...]) -> None:
    world = restarted(running())
    for pod in back:
        world.comes_back(ref(pod))
    world.happens(events.CancelRequested("job-1", "ada"))
    assert world.job().state is JobState.CANCELLED
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == list(back)
    world.comes_back(ref("pod-1"))
    assert world.state.pods["pod-1"].assignment is not None
    world.release(ref("pod-1"), Assignment("job-1", 1), 9)
    assert world.state.pods["pod-1"].assignment is None


def test_checkpoint_cannot_be_asked_for_while_hosts_are_awaited() -> None:
    world = restarted(running(checkpoint_every=50))
    with pytest.raises(CannotSave, match="waiting for its hosts"):
        world.happens(events.CheckpointRequested("job-1", "ada"))


def test_checkpoint_that_was_being_written_is_published() -> None:
    world = running(checkpoint_every=4)
    restarted(world)
    for pod in ("pod-0", "pod-1"):
        world.comes_back(ref(pod))
    written = (4, "ab" * 32, 10, 1.0, 0.1, 16, "")
    for host in world.hosts():
        world.happens(events.CheckpointWritten(host, world.assignment(), *written))
    (order,) = world.ordered(commands.PublishCheckpoint)
    world.happens(events.CheckpointPublished(order.host, world.assignment(), 4, ""))
    assert [saved.step for saved in world.job().checkpoints.saved] == [4]


def test_evaluation_that_is_told_again_is_not_noted_again() -> None:
    world = running(evaluate_every=4)
    part = Part((2.0,), 8, 8)
    for host in world.hosts():
        world.happens(events.Evaluated(host, world.assignment(), 4, part))
    restarted(world)
    for pod in ("pod-0", "pod-1"):
        world.comes_back(ref(pod))
    for host in world.hosts():
        world.happens(events.Evaluated(host, world.assignment(), 4, part))
        assert not world.noted()


def test_way_to_exchange_is_said_again_to_who_may_not_have_heard() -> None:
    world = running(choice=POLICY)
    world.job()
    restarted(world)
    world.comes_back(ref("pod-0"), granted=0)
    world.comes_back(ref("pod-1"), granted=8)
    orders = world.ordered(commands.ChangeExchange)
    assert [(order.host.pod, order.first_step) for order in orders] == [("pod-0", 1)]


def test_host_lost_while_others_are_awaited_is_missed_in_the_end() -> None:
    world = restarted(running(3, on_pod_loss="shrink"))
    world.comes_back(ref("pod-0"))
    world.loses("pod-0")
    assert world.job().state is JobState.RUNNING
    world.comes_back(ref("pod-1"))
    world.comes_back(ref("pod-2"))
    world.passes(world.policy.takeover_grace + 2.0)
    assert world.job().state is JobState.RECOVERING
    assert world.state.pods["pod-0"].assignment is None


def test_pod_of_several_hosts_comes_back_as_it_was() -> None:
    world = restarted(running(2, hosts=2))
    for pod in ("pod-0", "pod-1"):
        for index in (0, 1):
            world.comes_back(ref(pod, index), num_hosts=2)
    assert len(told_again(world)) == 2
    assert world.noted()[-1] == "job.taken_over"


def test_pod_of_which_one_process_is_new_is_started_again() -> None:
    world = restarted(running(2, hosts=2))
    world.comes_back(ref("pod-0", 0), num_hosts=2)
    world.happens(attached(ref("pod-0", 1, "b"), 2))
    (order,) = world.ordered(commands.RestartPod)
    assert order.pod == "pod-0"
    assert len(world.ordered(commands.DismissHost)) == 2


def test_pod_that_comes_back_in_part_lets_go_of_the_rest() -> None:
    world = restarted(running(2, hosts=2, on_pod_loss="shrink"))
    for index in (0, 1):
        world.comes_back(ref("pod-0", index), num_hosts=2)
    world.left.pop(ref("pod-1", 1))
    for index in (0, 1):
        world.comes_back(ref("pod-1", index), num_hosts=2)
    assert [order.host for order in world.ordered(commands.StopHost)] == [ref("pod-1", 0)]
    assert world.job().state is JobState.RECOVERING


def test_program_that_was_warm_is_not_known_any_more() -> None:
    world = running(on_pod_loss="wait")
    world.pod_joins("pod-9")
    world.happens(events.HostWarmed(ref("pod-9"), PROGRAM.digest))
    restarted(world)
    for pod in ("pod-0", "pod-1"):
        world.comes_back(ref(pod))
    world.happens(attached(ref("pod-9"), assembled_with="a"))
    world.happens(events.HostInventoried(ref("pod-9"), inventory()))
    assert [order.host.pod for order in world.ordered(commands.WarmHost)] == ["pod-9"]
