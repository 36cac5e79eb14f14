"""Pods that come to different bits, as the core finds out which of them is wrong."""

from __future__ import annotations

import pytest

from controller.core import commands
from controller.core.cluster import PodState
from controller.core.divergence import MOST_ATTEMPTS
from controller.core.job import JobState
from tests.controller.core.test_healing import running
from tests.controller.core.world import World, ref


def applies(world: World, step: int, digests: dict[str, str]) -> None:
    """Every pod applies the steps up to this one, and tells its digest of it."""
    for pod in world.job().gang:
        begun = world.job().progress
        assert begun is not None
        host = next(h for h in world.hosts() if h.pod == pod)
        world.apply(host, range(begun.applied[pod] + 1, step))
    for pod in world.job().gang:
        if world.state.jobs["job-1"].state is not JobState.RUNNING:
            return
        host = next(h for h in world.hosts() if h.pod == pod)
        world.apply(host, [step], digest=digests[pod] * 64)


def again(world: World) -> None:
    """Pods let go, and the job starts over on those that there are."""
    for pod in list(world.state.pods.values()):
        for host in pod.hosts.values():
            if host.holds is not None and pod.releasing_since is not None:
                world.release(host.ref, host.holds)
    world.lower()
    for host in world.hosts():
        world.ready(host)
    assert world.job().state is JobState.RUNNING


def quarantined(world: World) -> list[str]:
    return [p.name for p in world.state.pods.values() if p.withheld is not None]


def test_steps_are_run_again_and_the_pod_that_was_wrong_is_done_without() -> None:
    world = running(2)
    world.pod_joins("pod-2")
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    assert world.job().state is JobState.PENDING and world.job().attempt == 2
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.diverged"]
    assert entry.data == {"step": 8, "digests": {"pod-0": "a" * 64, "pod-1": "b" * 64}}
    (entry,) = [e for e in world.outcome.entries if e.kind == "job.requeued"]
    assert entry.data == {"code": "Diverged", "rerun": 8}
    assert not quarantined(world) and world.job().setbacks.total == 0
    again(world)
    gang = world.job().gang
    applies(world, 7, dict.fromkeys(gang, ""))
    assert not quarantined(world)
    applies(world, 8, dict.fromkeys(gang, "a"))
    assert quarantined(world) == ["pod-1"]
    withheld = world.state.pods["pod-1"].withheld
    assert withheld is not None and withheld.code == "Quarantined"
    assert (
        "pod-1 came to state bbbbbbbbbbbb after step 8, which is aaaaaaaaaaaa" in withheld.message
    )
    assert world.job().divergence is None
    if "pod-1" in gang:
        assert world.job().state is JobState.RECOVERING
        assert world.ordered(commands.HoldHost)


def test_pod_that_is_idle_by_then_is_quarantined_too() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "b", "pod-1": "a"})
    world.loses("pod-0")
    world.pod_joins("pod-2")
    again(world)
    assert world.job().gang == ("pod-1", "pod-2")
    world.pod_joins("pod-0", incarnation="b")
    applies(world, 8, {"pod-1": "a", "pod-2": "a"})
    assert world.state.pods["pod-0"].state is PodState.QUARANTINED
    assert world.job().state is JobState.RUNNING


def test_pod_that_never_came_back_needs_no_quarantine() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    world.restart(list(world.state.jobs.values()))
    for pod in ("pod-2", "pod-3"):
        world.pod_joins(pod)
    again(world)
    applies(world, 8, {"pod-2": "a", "pod-3": "a"})
    assert not quarantined(world) and world.job().divergence is None


def test_all_were_wrong_where_the_truth_is_a_third() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    again(world)
    applies(world, 8, {"pod-0": "c", "pod-1": "c"})
    assert quarantined(world) == ["pod-0", "pod-1"]


def test_pod_that_contradicts_itself_is_found_where_they_differ_again() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    again(world)
    applies(world, 8, {"pod-0": "a", "pod-1": "c"})
    assert quarantined(world) == ["pod-1"] and world.job().divergence is None
    assert world.job().state is JobState.PENDING and world.job().attempt == 3
    withheld = world.state.pods["pod-1"].withheld
    assert withheld is not None
    assert "pod-1 came to two different states after step 8" in withheld.message


def test_pods_that_differ_and_repeat_themselves_end_the_job() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    again(world)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    assert world.job().state is JobState.FAILED and world.job().reason.code == "Diverged"
    assert "the same again when run again" in world.job().reason.message
    assert not quarantined(world)


def test_pods_of_which_none_repeats_itself_end_the_job_after_some_attempts() -> None:
    world = running(2)
    for attempt in range(MOST_ATTEMPTS):
        applies(world, 8, {"pod-0": "ace"[attempt], "pod-1": "bdf"[attempt]})
        assert world.job().state is JobState.PENDING
        again(world)
    applies(world, 8, {"pod-0": "1", "pod-1": "2"})
    assert world.job().state is JobState.FAILED
    assert "for the 4th time" in world.job().reason.message


def test_pods_that_differ_earlier_than_before_are_judged_by_that() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    again(world)
    applies(world, 6, {"pod-0": "a", "pod-1": "b"})
    assert world.job().divergence is not None
    assert (world.job().divergence.step, world.job().divergence.attempts) == (6, 2)
    again(world)
    applies(world, 6, {"pod-0": "a", "pod-1": "a"})
    assert quarantined(world) == ["pod-1"]


def test_nothing_is_found_out_where_no_digest_comes_of_that_step() -> None:
    world = running(2)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    again(world)
    applies(world, 10, {"pod-0": "a", "pod-1": "a"})
    assert world.job().divergence is None and not quarantined(world)


def test_states_that_differ_when_pods_stand_still_are_met_alike() -> None:
    world = running(3, on_pod_loss="shrink")
    applies(world, 7, dict.fromkeys(("pod-0", "pod-1", "pod-2"), ""))
    world.loses("pod-1")
    world.hold(ref("pod-0"), 7, digest="a")
    world.hold(ref("pod-2"), 7, digest="b")
    assert world.job().state is JobState.PENDING
    assert world.job().divergence is not None and world.job().divergence.step == 7


@pytest.mark.parametrize("on_pod_loss", ["fail"])
def test_job_that_may_lose_no_pod_ends_at_once(on_pod_loss: str) -> None:
    world = running(2, on_pod_loss=on_pod_loss)
    applies(world, 8, {"pod-0": "a", "pod-1": "b"})
    assert world.job().state is JobState.FAILED and world.job().reason.code == "Diverged"
    assert "job.diverged" in world.noted()
