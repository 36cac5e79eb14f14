from __future__ import annotations

import pytest

from controller.core import step
from controller.core.cluster import Assignment, Host, Pod
from controller.core.liveness import (
    LivenessPolicy,
    gathering_grace,
    is_not_coming,
    is_silent,
    is_stuck,
    was_absent,
)
from tests.controller.core.world import inventory, record, ref

POLICY = LivenessPolicy(silence_grace=15.0, release_grace=3.0, return_grace=120.0, absence=5.0)


@pytest.mark.parametrize(
    ("last_heard", "now", "silent"),
    [(100.0, 100.0, False), (100.0, 115.0, False), (100.0, 115.01, True), (100.0, 90.0, False)],
)
def test_host_is_silent_after_the_grace(last_heard: float, now: float, silent: bool) -> None:
    host = Host(ref("pod-1"), "l", "c", 1, last_heard)
    assert is_silent(host, now, POLICY).holds is silent


def test_silence_is_told_in_seconds() -> None:
    host = Host(ref("pod-1"), "l", "c", 1, last_heard=100.0)
    verdict = is_silent(host, 141.0, POLICY)
    assert verdict.reason == "host 0 of pod-1 was silent for 41 s, 15 s are allowed"


@pytest.mark.parametrize(
    ("since", "now", "stuck"),
    [(None, 1000.0, False), (100.0, 103.0, False), (100.0, 103.1, True)],
)
def test_pod_is_stuck_when_it_holds_on_beyond_the_grace(
    since: float | None, now: float, stuck: bool
) -> None:
    pod = Pod("pod-0", 1, assignment=Assignment("job-1", 1), releasing_since=since)
    verdict = is_stuck(pod, now, POLICY)
    assert verdict.holds is stuck
    assert verdict.reason == "pod-0 did not let go of its job within 3 s"


@pytest.mark.parametrize(
    ("ticked_at", "now", "absent"),
    [(None, 100.0, False), (100.0, 100.25, False), (100.0, 105.0, False), (100.0, 160.0, True)],
)
def test_controller_was_absent_when_ticks_are_missing(
    ticked_at: float | None, now: float, absent: bool
) -> None:
    assert was_absent(ticked_at, now, POLICY).holds is absent


@pytest.mark.parametrize(
    ("now", "not_coming"), [(100.0, False), (220.0, False), (220.1, True), (90.0, False)]
)
def test_pod_that_forms_is_not_coming_when_nothing_stirred_for_the_grace(
    now: float, not_coming: bool
) -> None:
    assert is_not_coming(Pod("pod-0", 1, stirred_at=100.0), now, POLICY).holds is not_coming


@pytest.mark.parametrize(
    "pod",
    [
        Pod("pod-0", 1, {0: Host(ref("pod-0"), "l", "c", 1, 0.0, inventory())}),
        Pod("pod-0", 1, assignment=Assignment("job-1", 1)),
        Pod("pod-0", 1, is_given_up=True),
    ],
)
def test_pod_that_does_not_form_is_waited_for_by_nobody(pod: Pod) -> None:
    assert not is_not_coming(pod, 1e9, POLICY).holds


def test_pod_that_is_not_coming_is_told_with_both_numbers() -> None:
    verdict = is_not_coming(Pod("pod-0", 1, stirred_at=100.0), 250.0, POLICY)
    assert verdict.reason == (
        "pod-0 has not formed and no host came for 150 s, 120 s are allowed; "
        "no job waits for it until one does"
    )


def test_pod_may_finish_the_step_it_is_at_before_it_stands_still() -> None:
    progress = step.begin(9, ["pod-0"])
    assert gathering_grace(None, POLICY) == gathering_grace(progress, POLICY) == 3.0
    progress, _ = step.report(progress, "pod-0", [record(1), record(2, seconds=4.0)])
    assert gathering_grace(progress, POLICY) == 15.0
