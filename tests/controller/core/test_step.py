from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import step
from controller.core.step import MAX_WINDOW_STEPS, RECENT_STEPS, WINDOW_STEPS, Progress
from tests.controller.core.world import record


def _report(progress: Progress, pod: str, *steps: int, **fields: object) -> Progress:
    return step.report(progress, pod, [record(number, **fields) for number in steps])[0]


def test_progress_before_the_first_step_knows_nothing() -> None:
    progress = step.begin(10, ["pod-0", "pod-1"])
    assert progress.merged == 0 and not progress.is_complete
    assert progress.last is None and progress.step_seconds is None


def test_steps_of_one_pod_count_at_once() -> None:
    progress, merged = step.report(step.begin(2, ["pod-0"]), "pod-0", [record(1), record(2)])
    assert [m.record.step for m in merged] == [1, 2]
    assert progress.merged == 2 and progress.is_complete
    assert progress.step_seconds == 0.5


def test_step_counts_when_the_last_pod_has_applied_it() -> None:
    progress = step.begin(9, ["pod-0", "pod-1"])
    progress = _report(progress, "pod-0", 1, 2, 3)
    assert progress.merged == 0 and progress.applied == {"pod-0": 3, "pod-1": 0}
    progress, merged = step.report(progress, "pod-1", [record(1), record(2)])
    assert [m.record.step for m in merged] == [1, 2]
    assert progress.merged == 2
    assert [r.step for r in progress.held["pod-0"]] == [3]


def test_records_reported_before_change_nothing() -> None:
    progress = _report(step.begin(9, ["pod-0"]), "pod-0", 1, 2)
    assert step.report(progress, "pod-0", [record(1), record(2)]) == (progress, [])
    again, merged = step.report(progress, "pod-0", [record(2), record(3)])
    assert [m.record.step for m in merged] == [3] and again.merged == 3


def test_digests_of_one_step_are_kept_by_pod_and_compared() -> None:
    progress = _report(step.begin(9, ["pod-0", "pod-1"]), "pod-0", 1, digest="a")
    same, (agreed,) = step.report(progress, "pod-1", [record(1, digest="a")])
    _, (differs,) = step.report(progress, "pod-1", [record(1, digest="b")])
    assert not agreed.diverged and differs.diverged
    assert same.digests == {"pod-0": (1, "a"), "pod-1": (1, "a")}
    assert agreed.digests == {"pod-0": "a", "pod-1": "a"} and agreed.record.digest == ""


def test_newest_digest_stays_while_steps_without_one_pass() -> None:
    progress = _report(step.begin(9, ["pod-0"]), "pod-0", 1, digest="a")
    assert _report(progress, "pod-0", 2).digests == {"pod-0": (1, "a")}


def test_merged_step_lasts_from_the_last_end_to_the_last_end() -> None:
    fast = [
        record(1, time=100.0, seconds=1.0, exposed_seconds=0.75),
        record(2, time=101.0, seconds=1.0, exposed_seconds=0.75),
    ]
    slow = [
        record(1, time=100.5, seconds=1.5),
        record(2, time=102.0, seconds=1.5, exposed_seconds=0.25, data_wait_seconds=0.5),
    ]
    progress, _ = step.report(step.begin(9, ["a", "b"]), "a", fast)
    progress, (first, second) = step.report(progress, "b", slow)
    assert (first.record.time, first.record.seconds) == (100.5, 1.5)
    merged = second.record
    assert (merged.time, merged.seconds) == (102.0, 1.5)
    assert (merged.exposed_seconds, merged.data_wait_seconds) == (0.25, 0.5)
    assert merged.compute_seconds == 0.75
    assert merged.link_bytes == 200
    assert progress.totals.timeline.seconds == 3.0 and progress.totals.link_bytes == 400


def test_waiting_for_a_slower_pod_is_not_waiting_for_the_link() -> None:
    """The slow one is never waited for at its own end; what it waits is the link's."""
    progress = _report(
        step.begin(9, ["a", "b"]), "a", 1, exposed_seconds=0.4, exchange_seconds=0.45
    )
    progress, (merged,) = step.report(
        progress, "b", [record(1, exposed_seconds=0.1, exchange_seconds=0.3)]
    )
    assert (merged.record.exposed_seconds, merged.record.exchange_seconds) == (0.1, 0.3)
    assert merged.record.compute_seconds == pytest.approx(0.4)
    assert progress.totals.timeline.hidden_seconds == pytest.approx(0.2)


def test_an_exchange_that_is_all_exposed_hides_nothing() -> None:
    progress = _report(step.begin(9, ["a"]), "a", 1, exposed_seconds=0.3, exchange_seconds=0.2)
    assert progress.totals.timeline.hidden_seconds == 0.0


def test_compression_is_what_float32_takes_over_what_was_sent() -> None:
    assert step.begin(9, ["a"]).totals.compression_ratio is None
    progress = _report(step.begin(9, ["a"]), "a", 1, 2, link_bytes=50, float32_bytes=200)
    assert progress.totals.compression_ratio == 4.0
    unknown = _report(step.begin(9, ["a"]), "a", 1, link_bytes=50, float32_bytes=0)
    assert unknown.totals.compression_ratio is None


def test_the_newest_residual_norm_of_the_pod_with_the_largest_stays() -> None:
    progress = step.begin(9, ["a", "b"])
    progress = _report(progress, "a", 1, residual_norm=1.0)
    progress = _report(progress, "b", 1, residual_norm=2.0)
    assert progress.residual_norm == 2.0
    progress = _report(_report(progress, "a", 2), "b", 2)
    assert progress.residual_norm == 2.0


def test_merged_step_waits_no_longer_than_it_lasts() -> None:
    """The pod whose word counts may have been slow because it began early."""
    early = [record(1, time=100.0), record(2, time=100.6, seconds=9.0, exposed_seconds=5.0)]
    waits = {"exposed_seconds": 6.0, "data_wait_seconds": 3.0}
    other = [record(1, time=100.5), record(2, time=100.5, **waits)]
    progress, _ = step.report(step.begin(9, ["a", "b"]), "a", early)
    _, (_, second) = step.report(progress, "b", other)
    merged = second.record
    assert merged.seconds == pytest.approx(0.1)
    assert merged.exposed_seconds == merged.seconds
    assert merged.data_wait_seconds == merged.compute_seconds == 0.0


def test_merged_step_lasts_nothing_when_clocks_run_back() -> None:
    progress = step.begin(9, ["a", "b"])
    progress = _report(progress, "a", 1, time=100.0)
    progress = _report(progress, "b", 1, time=100.0)
    progress = _report(progress, "a", 2, time=99.0)
    _, (merged,) = step.report(progress, "b", [record(2, time=99.0)])
    assert merged.record.seconds == 0.0


def test_recent_steps_are_bounded() -> None:
    progress = _report(step.begin(999, ["a"]), "a", *range(1, 3 * RECENT_STEPS))
    assert [r.step for r in progress.recent] == list(range(2 * RECENT_STEPS, 3 * RECENT_STEPS))


@pytest.mark.parametrize(
    ("target", "granted", "applied", "longer"),
    [
        (1000, 0, 0, WINDOW_STEPS),
        (10, 0, 0, 10),
        (1000, 64, 31, None),
        (1000, 64, 32, 96),
        (1000, 64, 64, 128),
        (100, 96, 64, 100),
        (100, 100, 100, None),
    ],
)
def test_window_grows_when_half_of_it_is_used(
    target: int, granted: int, applied: int, longer: int | None
) -> None:
    progress = Progress(target, granted, applied={"a": applied, "b": applied + 1})
    extended = step.extend(progress)
    assert (extended.granted if extended else None) == longer


@pytest.mark.parametrize(
    ("seconds", "window"),
    [(10.0, WINDOW_STEPS), (1e-3, 250), (1e-9, MAX_WINDOW_STEPS), (0.0, WINDOW_STEPS)],
)
def test_window_of_fast_steps_lasts_a_quarter_of_a_second(seconds: float, window: int) -> None:
    recent = (record(1, seconds=seconds),)
    extended = step.extend(Progress(10**6, 0, applied={"a": 0}, recent=recent))
    assert extended is not None
    assert extended.granted == window


@given(st.integers(1, 150), st.integers(0, 2**32))
def test_any_order_of_reports_merges_the_same_curve(target: int, seed: int) -> None:
    """Batches, repeats and the order of pods do not matter; windows never shrink."""
    choice, pods = random.Random(seed), ["a", "b", "c"]
    progress = step.extend(step.begin(target, pods))
    assert progress is not None
    curve: list[int] = []
    while not progress.is_complete:
        pod = choice.choice(pods)
        first = max(1, progress.applied[pod] + 1 - choice.randint(0, 2))
        last = min(first + choice.randint(1, 40), progress.granted)
        records = [record(number) for number in range(first, last + 1)]
        progress, merged = step.report(progress, pod, records)
        curve += [m.record.step for m in merged]
        longer = step.extend(progress)
        if longer is not None:
            assert progress.granted < longer.granted <= target
            progress = longer
    assert curve == list(range(1, target + 1))
    assert set(progress.applied.values()) == {target}
    assert all(not queue for queue in progress.held.values())
    assert progress.totals.link_bytes == 300 * target


def test_losses_that_differ_are_averaged_by_what_pods_count_for() -> None:
    progress = step.begin(9, ["pod-0", "pod-1"])
    first = record(1, loss=2.0, grad_norm=1.0, learning_rate=0.5)
    second = record(1, loss=5.0, grad_norm=4.0, learning_rate=0.5)
    progress, _ = step.report(progress, "pod-0", [first])
    by_slots = step.report(progress, "pod-1", [second], (), lambda _: {"pod-0": 1, "pod-1": 2})
    [merged] = by_slots[1]
    assert (merged.record.loss, merged.record.grad_norm) == (4.0, 3.0)
    assert merged.record.learning_rate == 0.5
    [merged] = step.report(progress, "pod-1", [second])[1]
    assert (merged.record.loss, merged.record.grad_norm) == (3.5, 2.5)


def test_losses_that_agree_keep_their_bits() -> None:
    loss = 0.1 + 0.2
    progress = step.begin(9, ["pod-0", "pod-1", "pod-2"])
    for pod in ("pod-0", "pod-1"):
        progress = _report(progress, pod, 1, loss=loss, grad_norm=None)
    slots = {"pod-0": 1, "pod-1": 1, "pod-2": 5}
    last = [record(1, loss=loss, grad_norm=None)]
    [merged] = step.report(progress, "pod-2", last, (), lambda _: slots)[1]
    assert merged.record.loss == loss and merged.record.grad_norm is None


def test_step_that_one_pod_told_of_counts_when_it_has_to() -> None:
    progress = step.begin(9, ["pod-0", "pod-1"])
    progress = _report(progress, "pod-0", 1, 2, 3, 4, digest="a")
    progress = _report(progress, "pod-1", 1, 2)
    completed, merged = step.completed(progress, 3)
    assert [m.record.step for m in merged] == [3] and completed.merged == 3
    assert merged[0].digests == {"pod-0": "a"}
    assert completed.totals.timeline.seconds == progress.totals.timeline.seconds + 0.5
    # Step 4 is run again.
    assert completed.held == {}


def test_step_that_nobody_told_of_has_no_record_and_counts() -> None:
    completed, merged = step.completed(step.begin(9, ["pod-0"]), 2)
    assert (completed.merged, merged, completed.last) == (2, [], None)


def test_next_generation_goes_on_with_other_pods_and_the_same_sums() -> None:
    progress = _report(step.begin(9, ["pod-0", "pod-1"]), "pod-0", 1, 2, digest="a")
    progress = _report(progress, "pod-1", 1, 2, digest="a")
    resumed = step.resumed(progress, ["pod-1", "pod-2"])
    assert resumed.applied == {"pod-1": 2, "pod-2": 2} and resumed.granted == 2
    assert resumed.totals == progress.totals and resumed.digests == {"pod-1": (2, "a")}
    assert resumed.last == progress.last
    # What passed between the generations is no step's time.
    after = _report(resumed, "pod-1", 3, time=9000.0)
    after = _report(after, "pod-2", 3, time=9000.0)
    assert after.totals.timeline.seconds == progress.totals.timeline.seconds + 0.5
    assert (
        _report(_report(after, "pod-1", 4, time=9002.0), "pod-2", 4, time=9002.0).last.seconds
        == 2.0
    )


def _exposed(waits: list[tuple[float, float]], seconds: float = 2.0) -> list[float]:
    """Of every step, when two pods wait so long in each."""
    progress = step.begin(99, ["pod-0", "pod-1"])
    found: list[float] = []
    for number, (first, second) in enumerate(waits, 1):
        time = 1000.0 + seconds * number
        progress = _report(progress, "pod-0", number, exposed_seconds=first, time=time)
        records = [record(number, exposed_seconds=second, time=time)]
        progress, merged = step.report(progress, "pod-1", records)
        found += [each.record.exposed_seconds for each in merged]
    return found


def test_pods_that_wait_for_the_link_in_turn_wait_for_it_on_average() -> None:
    assert sum(_exposed([(1.0, 0.0), (0.0, 1.0)] * 10)) == pytest.approx(10.0, abs=1.0)


def test_pod_that_is_faster_waits_for_the_other_and_not_for_the_link() -> None:
    assert _exposed([(0.6, 0.0)] * 10) == [0.0] * 10


def test_pod_that_becomes_the_slow_one_is_charged_a_step_at_most() -> None:
    exposed = _exposed([(0.6, 0.0)] * 10 + [(0.0, 0.6)] * 10)
    assert sum(exposed) == pytest.approx(2.0)
    assert exposed[-5:] == [0.0] * 5


def test_pods_that_wait_equally_long_are_charged_that() -> None:
    assert _exposed([(0.5, 0.5)] * 4) == [0.5] * 4


def _stragglers(waits: list[tuple[float, float]], **fields: list[float]) -> list[float]:
    """Of every step of two seconds, when two pods wait so long in each and `fields` is the slow
    one's own."""
    progress = step.begin(99, ["pod-0", "pod-1"])
    found: list[float] = []
    for number, (first, second) in enumerate(waits, 1):
        told = {"time": 1000.0 + 2.0 * number, "seconds": 2.0}
        progress = _report(progress, "pod-0", number, exposed_seconds=first, **told)
        slow = record(number, exposed_seconds=second, **told, **fields)
        progress, merged = step.report(progress, "pod-1", [slow])
        for each in merged:
            one = each.record
            found.append(one.straggler_seconds)
            assert one.straggler_seconds <= one.compute_seconds
    return found


def test_pod_that_is_always_faster_waits_for_the_slowest() -> None:
    """All that it waits, but for the step's length that it may be owed."""
    found = _stragglers([(0.5, 0.0)] * 20)
    assert found[:4] == [0.0] * 4 and found[4:] == pytest.approx([0.5] * 16)


def test_what_all_pods_wait_is_the_links_and_the_rest_the_slowest_pods() -> None:
    waits = [(0.75, 0.25)] * 20
    assert sum(_stragglers(waits)) == pytest.approx(20 * 0.5 - 2.0)
    assert sum(_exposed(waits)) == pytest.approx(20 * 0.25)


def test_pods_that_wait_in_turn_have_no_straggler() -> None:
    assert _stragglers([(1.0, 0.0), (0.0, 1.0)] * 10) == [0.0] * 20


def test_waiting_for_a_pod_that_reads_or_saves_is_not_charged_twice() -> None:
    reads = {"data_wait_seconds": 0.25, "pause_seconds": 0.25}
    assert _stragglers([(0.5, 0.0)] * 20, **reads) == [0.0] * 20


def test_pod_alone_waits_for_nobody() -> None:
    progress = _report(step.begin(99, ["a"]), "a", *range(1, 20), exposed_seconds=0.4)
    assert progress.totals.timeline.straggler_seconds == 0.0
