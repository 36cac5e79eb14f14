"""Lost pods, as the core decides about them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment, PodState
from controller.core.commands import Resume
from controller.core.exchange import ExchangeRule
from controller.core.healing import MOST_SETBACKS_IN_A_ROW
from controller.core.job import JobState
from controller.core.spikes import SpikePolicy
from tests.controller.core.world import PROGRAM, World, ref

DIGEST = "d" * 64


def running(pods: int = 2, steps: int = 100, hosts: int = 1, **fields: Any) -> World:
    """A job on so many pods that have applied nothing yet."""
    world = World()
    for index in range(pods):
        world.pod_joins(f"pod-{index}", hosts)
    counted = {"min_pods": pods, "max_pods": pods, "devices_per_pod": hosts}
    world.start(steps=steps, **{**counted, "on_pod_loss": "wait", **fields})
    assert world.job().state is JobState.RUNNING
    return world


def resumes(world: World) -> dict[str, Resume | None]:
    """By pod, what the hosts were told to go on with."""
    return {order.host.pod: order.resume for order in world.ordered(commands.PrepareHost)}


def goes_on(world: World) -> None:
    for host in world.hosts():
        world.ready(host)


def test_others_are_told_to_stand_still_and_nothing_else() -> None:
    world = running(3)
    world.loses("pod-1")
    assert world.job().state is JobState.RECOVERING
    assert world.job().reason.code == "PodLost"
    held = world.ordered(commands.HoldHost)
    assert [order.host.pod for order in held] == ["pod-0", "pod-2"]
    assert {order.assignment for order in held} == {Assignment("job-1", 1)}
    assert not world.ordered(commands.StopHost) and not world.ordered(commands.PrepareHost)
    assert world.state.pods["pod-1"].assignment is None


def test_shrink_goes_on_at_once_with_those_that_stand() -> None:
    world = running(3, on_pod_loss="shrink")
    for pod in ("pod-0", "pod-1", "pod-2"):
        world.apply(ref(pod), range(1, 8))
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    assert not world.ordered(commands.PrepareHost)
    world.hold(ref("pod-2"), 7)
    assert world.job().gang == ("pod-0", "pod-2") and world.job().generation == 2
    assert resumes(world) == dict.fromkeys(
        ("pod-0", "pod-2"), Resume(7, DIGEST, (), is_save_due=False, is_evaluation_due=False)
    )
    assert all(order.restore is None for order in world.ordered(commands.PrepareHost))
    world.ready(ref("pod-0"))
    assert not world.ordered(commands.GrantWindow)
    world.now += 1.5
    world.ready(ref("pod-2"))
    assert world.job().state is JobState.RUNNING
    assert {order.last_step for order in world.ordered(commands.GrantWindow)} == {7 + 64}
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.recovered"]
    assert entry.data["step"] == 7 and entry.data["seconds"] == 1.5


def test_wait_goes_on_when_another_pod_is_there_and_heals_it() -> None:
    world = running()
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 8))
    world.loses("pod-0")
    world.hold(ref("pod-1"), 7)
    assert world.job().reason.code == "WaitingForPod"
    assert "pod-1 of 2 stand still" in world.job().reason.message
    world.passes(60.0)
    assert world.job().state is JobState.RECOVERING
    world.pod_joins("pod-0", incarnation="b")
    assert world.job().gang == ("pod-0", "pod-1")
    told = Resume(7, DIGEST, (0,), is_save_due=False, is_evaluation_due=False)
    assert resumes(world) == {"pod-0": told, "pod-1": told}
    goes_on(world)
    assert world.job().state is JobState.RUNNING and world.job().progress.merged == 7


def test_spare_pod_takes_the_place_of_the_lost_one_at_once() -> None:
    world = running(2)
    world.pod_joins("pod-9")
    world.loses("pod-0")
    world.hold(ref("pod-1"), 0)
    assert world.job().gang == ("pod-9", "pod-1")
    assert world.state.pods["pod-9"].state is PodState.BUSY


def test_one_spare_is_warmed_for_a_job() -> None:
    world = running(2)
    world.pod_joins("pod-8")
    assert [order.host.pod for order in world.ordered(commands.WarmHost)] == ["pod-8"]
    world.pod_joins("pod-9")
    assert not world.ordered(commands.WarmHost)
    world.loses("pod-8")
    assert [order.host.pod for order in world.ordered(commands.WarmHost)] == ["pod-9"]
    assert world.ordered(commands.WarmHost)[0].bundle_digest == PROGRAM.digest


def test_spare_is_warm_when_all_of_its_hosts_are_and_strangers_have_no_say() -> None:
    world = running(2, hosts=2)
    world.pod_joins("pod-8", 2)
    for host in (ref("pod-8", incarnation="z"), ref("pod-8", 0)):
        world.happens(events.HostWarmed(host, PROGRAM.digest))
        assert "pod.warm" not in world.noted()
    world.happens(events.HostWarmed(ref("pod-8", 1), PROGRAM.digest))
    assert world.noted() == ["pod.warm"]


def test_time_to_wait_is_over_only_once_all_have_answered() -> None:
    world = running(3, wait_timeout=0.5)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 0)
    world.passes(1.0)
    assert world.job().state is JobState.RECOVERING
    world.hold(ref("pod-2"), 0)
    world.passes(1.0)
    assert world.job().state is JobState.FAILED


def test_job_that_crash_loops_while_a_pod_is_late_has_ended() -> None:
    world = running(3)
    job = world.job()
    setbacks = dataclasses.replace(job.setbacks, in_a_row=MOST_SETBACKS_IN_A_ROW - 1)
    jobs = {job.id: dataclasses.replace(job, setbacks=setbacks)}
    world.state = dataclasses.replace(world.state, jobs=jobs)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 0)
    world.passes(world.policy.release_grace + 1.0)
    assert world.job().state is JobState.FAILED and world.job().reason.code == "CrashLoop"


def test_half_written_checkpoint_is_left_where_its_keeper_is_lost() -> None:
    world = running(2, checkpoint_every=5)
    world.pod_joins("pod-9")
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 6))
    for pod in ("pod-0", "pod-1"):
        written = events.CheckpointWritten(
            ref(pod), world.assignment(), 5, DIGEST, 10, 1.0, 0.1, 20, ""
        )
        world.happens(written)
    assert world.ordered(commands.PublishCheckpoint)
    world.loses("pod-0")
    world.hold(ref("pod-1"), 5)
    assert world.job().gang == ("pod-9", "pod-1")
    removed = [order.host for order in world.ordered(commands.RemoveCheckpoint)]
    assert removed == [ref("pod-9")]


def test_spare_that_was_there_before_the_job_is_warmed_when_it_starts() -> None:
    world = World()
    for index in range(3):
        world.pod_joins(f"pod-{index}")
    world.start(on_pod_loss="wait")
    assert [order.host.pod for order in world.ordered(commands.WarmHost)] == ["pod-2"]


def test_nothing_is_warmed_for_a_job_that_ends_with_its_pod() -> None:
    world = World()
    for index in range(3):
        world.pod_joins(f"pod-{index}")
    world.start()
    assert not world.ordered(commands.WarmHost)


def test_pod_that_is_built_otherwise_is_no_spare() -> None:
    world = running(2)
    world.pod_joins("pod-8", kind="gpu")
    world.pod_joins("pod-9", devices=2)
    world.loses("pod-0")
    world.hold(ref("pod-1"), 0)
    assert world.job().reason.code == "WaitingForPod"


def test_pod_a_step_behind_is_healed_like_a_new_one() -> None:
    world = running(3, on_pod_loss="shrink")
    for pod, last in (("pod-0", 6), ("pod-1", 6), ("pod-2", 7)):
        world.apply(ref(pod), range(1, last + 1))
    world.loses("pod-0")
    world.hold(ref("pod-1"), 6, digest="c")
    world.hold(ref("pod-2"), 7)
    told = Resume(7, DIGEST, (0,), is_save_due=False, is_evaluation_due=False)
    assert resumes(world) == {"pod-1": told, "pod-2": told}
    assert world.job().progress.merged == 7


def test_step_that_only_a_survivor_told_of_counts_and_has_its_record() -> None:
    world = running()
    world.apply(ref("pod-0"), range(1, 8), loss=2.0)
    world.apply(ref("pod-1"), range(1, 7), loss=2.0)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7)
    world.pod_joins("pod-1", incarnation="b")
    goes_on(world)
    world.apply(ref("pod-0"), [8], loss=2.0)
    world.apply(ref("pod-1", incarnation="b"), [8], loss=2.0)
    (job, merged), *_ = world.outcome.steps
    assert [step.record.step for step in merged] == [8] and job.generation == 2


def test_step_that_only_the_lost_pod_told_of_is_run_again() -> None:
    world = running()
    world.apply(ref("pod-0"), range(1, 7))
    world.apply(ref("pod-1"), range(1, 8))
    world.loses("pod-1")
    world.hold(ref("pod-0"), 6)
    world.pod_joins("pod-1", incarnation="b")
    assert {resume.step for resume in resumes(world).values() if resume} == {6}
    goes_on(world)
    assert world.job().progress.merged == 6


def test_time_between_two_generations_is_no_steps() -> None:
    world = running(on_pod_loss="shrink")
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 5))
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.now += 30.0
    goes_on(world)
    before = world.job().progress.totals
    world.apply(ref("pod-0"), [5], time=2000.0)
    assert world.job().progress.totals.timeline.seconds == before.timeline.seconds + 0.5


def test_several_hosts_of_a_pod_stand_together_or_not_at_all() -> None:
    world = running(2, hosts=2, on_pod_loss="shrink")
    world.loses("pod-1", index=1)
    assert {(o.host.pod, o.host.index) for o in world.ordered(commands.HoldHost)} == {
        ("pod-0", 0),
        ("pod-0", 1),
    }
    assert world.ordered(commands.RestartPod)
    world.hold(ref("pod-0", 0), 3)
    assert world.job().generation == 1
    world.hold(ref("pod-0", 1), 3)
    assert world.job().generation == 2 and world.job().gang == ("pod-0",)


def test_pod_whose_hosts_stand_after_different_steps_holds_nothing() -> None:
    world = running(2, hosts=2, on_pod_loss="shrink")
    world.loses("pod-1", index=1)
    world.hold(ref("pod-0", 0), 3)
    world.hold(ref("pod-0", 1), 4)
    assert world.job().state is JobState.PENDING and world.job().attempt == 2
    assert len(world.ordered(commands.StopHost)) >= 2


def test_all_pods_lost_starts_over_from_the_newest_checkpoint() -> None:
    world = running(checkpoint_every=2)
    world.loses("pod-0")
    world.loses("pod-1")
    assert world.job().state is JobState.PENDING and world.job().attempt == 2
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.requeued"]
    assert "starts over" in entry.message
    assert all(pod.assignment is None for pod in world.state.pods.values())


def test_second_loss_while_the_first_is_healed() -> None:
    world = running(3)
    world.loses("pod-0")
    for pod in ("pod-1", "pod-2"):
        world.hold(ref(pod), 4)
    world.pod_joins("pod-0", incarnation="b")
    assert world.job().generation == 2
    world.loses("pod-2")
    held = {order.host for order in world.ordered(commands.HoldHost)}
    assert held == {ref("pod-0", incarnation="b"), ref("pod-1")}
    world.hold(ref("pod-1"), 4)
    # The newcomer has not got the state yet, and lets go.
    world.release(ref("pod-0", incarnation="b"), world.assignment())
    assert world.job().state is JobState.RECOVERING
    world.pod_joins("pod-2", incarnation="b")
    assert world.job().gang == ("pod-0", "pod-1", "pod-2") and world.job().generation == 3
    told = set(resumes(world).values())
    assert told == {Resume(4, DIGEST, (0, 2), is_save_due=False, is_evaluation_due=False)}


def test_wait_has_an_end() -> None:
    world = running(wait_timeout=30.0)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.passes(29.0)
    assert world.job().state is JobState.RECOVERING
    world.passes(2.0)
    assert world.job().state is JobState.FAILED and world.job().reason.code == "PodLost"
    assert "no other pod came within 30 s" in world.job().reason.message
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-0"]


def test_wait_ends_with_those_that_are_left_where_they_may_be_fewer() -> None:
    world = running(wait_timeout=30.0, min_pods=1)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.passes(31.0)
    assert world.job().gang == ("pod-0",) and world.job().generation == 2


def test_pod_that_does_not_stand_still_is_lost_too() -> None:
    world = running(3, on_pod_loss="shrink")
    for pod in ("pod-0", "pod-1", "pod-2"):
        world.apply(ref(pod), range(1, 5))
    world.loses("pod-0")
    world.hold(ref("pod-1"), 4)
    # A step of half a second may be under way.
    world.passes(world.policy.release_grace + 1.0)
    assert world.job().generation == 1
    world.passes(2.0)
    assert world.job().generation == 2 and world.job().gang == ("pod-1",)
    assert world.state.pods["pod-2"].assignment is None


def test_link_that_fails_between_pods_that_are_there_is_tried_again() -> None:
    world = running()
    fault = events.JobFaulted(ref("pod-0"), world.assignment(), "exchange", 3, "gone", "pod-1")
    world.happens(fault)
    world.hold(ref("pod-0"), 2)
    assert world.job().state is JobState.RUNNING
    world.passes(world.policy.suspicion_grace + 1.0)
    assert world.job().state is JobState.RECOVERING and world.job().reason.code == "LinkDown"
    world.hold(ref("pod-1"), 2)
    assert world.job().gang == ("pod-0", "pod-1") and world.job().generation == 2
    assert {resume.lacking for resume in resumes(world).values() if resume} == {()}


def test_fault_of_its_own_ends_the_job_whatever_the_policy() -> None:
    world = running()
    fault = events.JobFaulted(ref("pod-0"), world.assignment(), "compute", 3, "no memory", "")
    world.happens(fault)
    assert world.job().state is JobState.FAILED and world.job().reason.code == "ComputeFailed"


def test_state_that_arrives_damaged_ends_the_job() -> None:
    world = running()
    fault = events.JobFaulted(ref("pod-0"), world.assignment(), "heal", 0, "other bits", "")
    world.happens(fault)
    assert world.job().reason.code == "HealFailed"


def test_losses_without_a_step_between_them_end() -> None:
    world = running()
    incarnation = "a"
    for number in range(MOST_SETBACKS_IN_A_ROW):
        world.loses("pod-1", incarnation=incarnation)
        world.hold(ref("pod-0"), 0)
        incarnation = "bcdefgh"[number]
        world.pod_joins("pod-1", incarnation=incarnation)
        goes_on(world)
        assert world.job().state is JobState.RUNNING
    world.loses("pod-1", incarnation=incarnation)
    assert world.job().state is JobState.FAILED and world.job().reason.code == "CrashLoop"


def test_step_in_between_makes_losses_count_anew() -> None:
    world = running()
    incarnation = "a"
    for number in range(2 * MOST_SETBACKS_IN_A_ROW):
        world.loses("pod-1", incarnation=incarnation)
        world.hold(ref("pod-0"), number)
        incarnation = "bcdefghijklmn"[number]
        world.pod_joins("pod-1", incarnation=incarnation)
        goes_on(world)
        for host in world.hosts():
            world.apply(host, [number + 1])
    assert world.job().state is JobState.RUNNING
    assert world.job().setbacks.total == 2 * MOST_SETBACKS_IN_A_ROW


def test_shrunk_job_takes_in_a_pod_that_comes_back() -> None:
    world = running(on_pod_loss="shrink", min_pods=2)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    goes_on(world)
    assert world.job().gang == ("pod-0",)
    world.apply(ref("pod-0"), [5, 6])
    (back,) = world.pod_joins("pod-1", incarnation="b")
    assert [order.host for order in world.ordered(commands.WarmHost)] == [back]
    assert world.job().state is JobState.RUNNING
    world.happens(events.HostWarmed(back, PROGRAM.digest))
    assert world.job().state is JobState.RECOVERING and world.job().reason.code == "Growing"
    world.hold(ref("pod-0"), 7)
    assert world.job().gang == ("pod-0", "pod-1")
    assert {resume.lacking for resume in resumes(world).values() if resume} == {(1,)}
    goes_on(world)
    assert world.job().state is JobState.RUNNING and world.job().setbacks.total == 1


def test_pod_lost_while_growing_leaves_the_job_as_it_was() -> None:
    world = running(on_pod_loss="shrink", min_pods=2)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    goes_on(world)
    (back,) = world.pod_joins("pod-1", incarnation="b")
    world.happens(events.HostWarmed(back, PROGRAM.digest))
    world.loses("pod-1", incarnation="b")
    world.hold(ref("pod-0"), 4)
    assert world.job().gang == ("pod-0",)
    goes_on(world)
    assert world.job().state is JobState.RUNNING


@pytest.mark.parametrize("stage", ["admitted", "starting"])
def test_loss_before_there_is_a_state_waits_for_pods_again(stage: str) -> None:
    world = World()
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    world.submit(on_pod_loss="wait")
    if stage == "starting":
        world.lower()
    world.loses("pod-1")
    assert world.job().state is JobState.PENDING and world.job().attempt == 2
    for host in world.hosts():
        world.release(host, Assignment("job-1", 1))
    world.pod_joins("pod-1", incarnation="b")
    assert world.job().state is JobState.ADMITTED


def test_pods_that_train_on_their_own_go_back_to_a_checkpoint() -> None:
    world = running(exchange=ExchangeRule(mode="diloco"))
    world.loses("pod-1")
    assert world.job().state is JobState.PENDING
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-0"]


def test_loss_of_a_pod_that_lets_go_already_changes_nothing() -> None:
    world = running(exchange=ExchangeRule(mode="diloco"))
    world.loses("pod-1")
    world.loses("pod-0")
    assert world.job().state is JobState.PENDING and world.job().attempt == 2


def test_cancel_while_pods_stand_still() -> None:
    world = running()
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.happens(events.CancelRequested("job-1", "ada"))
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-0"]
    world.release(ref("pod-0"), Assignment("job-1", 1), 4)
    assert world.job().state is JobState.CANCELLED


def test_checkpoint_and_evaluation_that_were_under_way_are_made_anew() -> None:
    world = running(checkpoint_every=4, evaluate_every=4)
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 5))
    written = (4, "ab" * 32, 10, 1.0, 0.1, 16, "")
    world.happens(events.CheckpointWritten(ref("pod-0"), world.assignment(), *written))
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.pod_joins("pod-1", incarnation="b")
    told = [resume for resume in resumes(world).values() if resume]
    assert all(resume.is_save_due and resume.is_evaluation_due for resume in told)
    goes_on(world)
    for host in world.hosts():
        world.happens(events.CheckpointWritten(host, world.assignment(), *written))
    (order,) = world.ordered(commands.PublishCheckpoint)
    world.happens(events.CheckpointPublished(order.host, world.assignment(), 4, ""))
    assert [saved.step for saved in world.job().checkpoints.saved] == [4]


def test_checkpoint_published_while_a_pod_is_lost_counts() -> None:
    world = running(checkpoint_every=4)
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 5))
    written = (4, "ab" * 32, 10, 1.0, 0.1, 16, "")
    for pod in ("pod-0", "pod-1"):
        world.happens(events.CheckpointWritten(ref(pod), world.assignment(), *written))
    world.loses("pod-1")
    world.happens(events.CheckpointPublished(ref("pod-0"), world.assignment(), 4, ""))
    assert [saved.step for saved in world.job().checkpoints.saved] == [4]
    world.hold(ref("pod-0"), 4)
    world.pod_joins("pod-1", incarnation="b")
    assert not any(resume.is_save_due for resume in resumes(world).values() if resume)
    assert not world.ordered(commands.RemoveCheckpoint)


def test_checkpoint_of_which_nobody_will_hear_is_deleted() -> None:
    world = running(checkpoint_every=4)
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 5))
    written = (4, "ab" * 32, 10, 1.0, 0.1, 16, "")
    for pod in ("pod-0", "pod-1"):
        world.happens(events.CheckpointWritten(ref(pod), world.assignment(), *written))
    world.loses("pod-0")
    world.hold(ref("pod-1"), 4)
    world.pod_joins("pod-0", incarnation="b")
    (removal,) = world.ordered(commands.RemoveCheckpoint)
    assert removal.checkpoint == commands.CheckpointId(4, 1)
    assert all(resume.is_save_due for resume in resumes(world).values() if resume)


def test_end_waits_for_what_is_due_after_the_last_step() -> None:
    world = running(steps=4, checkpoint_every=4)
    for pod in ("pod-0", "pod-1"):
        world.apply(ref(pod), range(1, 5))
    world.hold(ref("pod-0"), 4)
    world.loses("pod-1")
    world.pod_joins("pod-1", incarnation="b")
    goes_on(world)
    assert world.job().state is JobState.RUNNING
    assert {order.last_step for order in world.ordered(commands.GrantWindow)} == {4}
    written = (4, "ab" * 32, 10, 1.0, 0.1, 16, "")
    for host in world.hosts():
        world.happens(events.CheckpointWritten(host, world.assignment(), *written))
    (order,) = world.ordered(commands.PublishCheckpoint)
    world.happens(events.CheckpointPublished(order.host, world.assignment(), 4, ""))
    assert world.job().state is JobState.SUCCEEDED


def test_last_step_that_one_pod_applied_ends_the_job() -> None:
    world = running(steps=4, on_pod_loss="shrink")
    world.apply(ref("pod-0"), range(1, 5))
    world.apply(ref("pod-1"), range(1, 4))
    world.hold(ref("pod-0"), 4)
    world.loses("pod-1")
    goes_on(world)
    assert world.job().state is JobState.SUCCEEDED
    assert world.ordered(commands.StopHost)


def test_wish_for_a_checkpoint_is_passed_on() -> None:
    world = running(checkpoint_every=1000)
    world.happens(events.CheckpointRequested("job-1", "ada"))
    (wanted,) = {order.step for order in world.ordered(commands.SaveCheckpoint)}
    world.loses("pod-1")
    world.hold(ref("pod-0"), 4)
    world.pod_joins("pod-1", incarnation="b")
    goes_on(world)
    assert {order.step for order in world.ordered(commands.SaveCheckpoint)} == {wanted}


def test_spike_in_a_step_that_only_a_survivor_told_of_is_met_from_a_checkpoint() -> None:
    world = running(checkpoint_every=2, spikes=SpikePolicy(4.0, 4, 1, 2, 2))
    world.apply(ref("pod-0"), range(1, 8), loss=1.0)
    world.apply(ref("pod-1"), range(1, 8), loss=1.0)
    world.apply(ref("pod-0"), [8], loss=math.inf)
    world.loses("pod-1")
    world.hold(ref("pod-0"), 8)
    world.pod_joins("pod-1", incarnation="b")
    assert world.job().attempt == 2 and world.job().reason.code != "Recovering"


def test_faults_that_echo_the_loss_are_not_looked_into() -> None:
    world = running(3)
    world.loses("pod-0")
    fault = events.JobFaulted(ref("pod-1"), world.assignment(), "exchange", 3, "gone", "pod-0")
    world.happens(fault)
    assert world.job().suspicion is None
