from __future__ import annotations

import dataclasses
import random

import pytest

from controller.core.choosing import (
    WINDOW_STEPS,
    Candidate,
    Choice,
    ChoicePolicy,
    Conditions,
    Departure,
    Sent,
    SlotLayout,
    chosen,
    exposed_seconds,
    judge,
)
from controller.core.exchange import ExchangeRule
from controller.core.record import StepRecord

GRADIENT_BYTES = 2_000_000
COMPUTE_SECONDS = 0.4
FRACTIONS = (0.5, 2 / 3, 5 / 6, 1.0)
"""A third of a step forward, four segments backward."""

MBIT = 1e6 / 8

TWO_PODS = SlotLayout(2, 1)


def candidate(dtype: str, share: float, *, overlap: bool = True) -> Candidate:
    part = GRADIENT_BYTES * share / len(FRACTIONS)
    departures = tuple(
        Departure(ready, part * (len(FRACTIONS) - index)) for index, ready in enumerate(FRACTIONS)
    )
    return Candidate(ExchangeRule(dtype=dtype, overlap=overlap), departures)


POLICY = ChoicePolicy(
    (candidate("float32", 1.0), candidate("bfloat16", 0.5), candidate("int8", 0.254))
)


def record(step: int, seconds: float, exposed: float = 0.0, pause: float = 0.0) -> StepRecord:
    return StepRecord(
        step=step,
        time=float(step),
        loss=1.0,
        grad_norm=None,
        learning_rate=0.0,
        seconds=seconds,
        compute_seconds=seconds - exposed - pause,
        exchange_seconds=exposed,
        exposed_seconds=exposed,
        data_wait_seconds=0.0,
        pause_seconds=pause,
        link_bytes=0,
    )


@dataclasses.dataclass
class Job:
    """A job on two pods whose link has the rate it is given."""

    policy: ChoicePolicy = POLICY
    noise: float = 0.0
    layout: SlotLayout = TWO_PODS

    def __post_init__(self) -> None:
        self.chance = random.Random(7)
        self.choice = Choice()
        self.step = 0
        self.sent = {"pod-0 to pod-1": Sent(), "pod-1 to pod-0": Sent()}
        self.records: list[StepRecord] = []
        self.history: list[str] = []
        self.reasons: list[str] = []

    @property
    def dtype(self) -> str:
        return self.policy.candidates[self.choice.index].rule.dtype

    def run(self, steps: int, bytes_per_second: float, rtt_seconds: float = 0.0) -> None:
        for _ in range(steps):
            self.step += 1
            rule = self.policy.candidates[self.choice.index]
            rate = bytes_per_second * self._wobble()
            seen = Conditions(rate, rtt_seconds, COMPUTE_SECONDS * self._wobble())
            exposed = exposed_seconds(rule, seen, self.layout)
            num_bytes = round(rule.departures[0].remaining_bytes)
            self.sent = {
                direction: Sent(
                    sent.num_bytes + num_bytes, sent.seconds + num_bytes / rate, rtt_seconds
                )
                for direction, sent in self.sent.items()
            }
            self.records.append(record(self.step, seen.compute_seconds + exposed, exposed))
            self.choice, decision = judge(
                self.policy, self.choice, self.records[-32:], self.sent, self.layout
            )
            if decision is not None:
                self.choice = chosen(self.choice, decision, self.step + 4)
                self.history.append(self.dtype)
                self.reasons.append(decision.reason)

    def _wobble(self) -> float:
        return 1 + self.chance.uniform(-self.noise, self.noise)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.25])
def test_a_script_of_link_changes_gives_one_choice_for_each(noise: float) -> None:
    job = Job(noise=noise)
    for rate in (1000, 100, 10, 100, 1000):
        job.run(200, rate * MBIT)
    # 2 MB take 160 ms at 100 Mbit/s, of which the last quarter stays exposed, 10% of a step; in
    # int8 2.5%, at 10 Mbit/s far more, but nothing else leaves less.
    assert job.history == ["int8", "float32"]


def test_the_nearest_way_that_is_good_enough_is_taken() -> None:
    job = Job()
    # A last quarter of 1 MB takes 10 ms, 2.4% of a step; of 2 MB twice that.
    job.run(20, 25e6)
    assert job.history == ["bfloat16"]
    assert "25 MB/s" in job.reasons[0] and "float32" in job.reasons[0]
    assert "the budget is 3.0%" in job.reasons[0]


def test_where_none_is_good_enough_the_least_exposed_is_taken() -> None:
    job = Job()
    job.run(200, 1 * MBIT)
    assert job.history == ["int8"]


@pytest.mark.parametrize("rate", [15e6, 20e6, 30e6, 37e6, 50e6])
def test_noise_at_any_rate_makes_nothing_flap(rate: float) -> None:
    job = Job(noise=0.2)
    job.run(2000, rate)
    assert len(job.history) <= 2


def test_a_return_waits_for_two_good_windows() -> None:
    job = Job()
    job.run(20, 5e6)
    assert job.dtype == "int8"
    before = job.choice.first_step
    job.run(before - job.step + WINDOW_STEPS, 1e9)
    # The first window began on the slow link.
    job.run(WINDOW_STEPS, 1e9)
    assert job.dtype == "int8" and job.choice.windows == 1
    job.run(WINDOW_STEPS, 1e9)
    assert job.dtype == "float32" and job.history == ["int8", "float32"]


def test_a_bad_window_in_between_starts_the_count_anew() -> None:
    job = Job()
    job.run(20, 5e6)
    job.run(3 * WINDOW_STEPS, 5e6)
    job.run(WINDOW_STEPS, 1e9)
    windows = job.choice.windows
    job.run(2 * WINDOW_STEPS, 6e6)
    assert windows <= 1 and job.choice.windows == 0 and job.dtype == "int8"


def test_nothing_is_judged_without_a_window_or_without_traffic() -> None:
    records = [record(step, 1.0, 0.9) for step in range(1, 40)]
    few, decision = judge(POLICY, Choice(), records[:WINDOW_STEPS], {"a": Sent(10, 1.0)}, TWO_PODS)
    assert decision is None and few == Choice()
    for sent in ({}, {"a": Sent()}, {"a": Sent(10, 0.0)}):
        assert judge(POLICY, Choice(), records, sent, TWO_PODS) == (Choice(), None)


def test_pauses_are_no_computing() -> None:
    records = [record(step, 1.5, 0.25, pause=0.25) for step in range(1, 20)]
    choice, _ = judge(POLICY, Choice(), records, {"a": Sent(10**9, 1.0, 0.02)}, TWO_PODS)
    assert choice.conditions == Conditions(1e9, 0.02, 1.0)


def test_exposed_time_is_what_the_link_still_has_to_carry() -> None:
    full, late = candidate("float32", 1.0), candidate("float32", 1.0, overlap=False)
    slow, fast = Conditions(2e6, 0.0, 0.4), Conditions(5e8, 0.01, 0.4)
    # One second of transfer that begins at half of 0.4 s.
    assert exposed_seconds(full, slow, TWO_PODS) == pytest.approx(0.8)
    assert exposed_seconds(late, slow, TWO_PODS) == pytest.approx(1.0)
    # A quarter of 4 ms is left.
    assert exposed_seconds(full, fast, TWO_PODS) == pytest.approx(0.001)
    assert exposed_seconds(late, fast, TWO_PODS) == pytest.approx(0.004)
    # With four slots, the last one begins at three quarters.
    assert exposed_seconds(full, slow, SlotLayout(2, 4)) == pytest.approx(0.95)


def test_more_pods_send_each_other_less_and_several_sums_more() -> None:
    full, less = (candidate(dtype, 1.0, overlap=False) for dtype in ("float32", "int8"))
    free = dataclasses.replace(full, rule=dataclasses.replace(full.rule, reproducible=False))
    link = Conditions(2e6, 0.0, 0.4)

    def seconds(way: Candidate, num_pods: int, num_sums: int) -> float:
        return exposed_seconds(way, link, SlotLayout(num_pods, 1, num_sums))

    # A quarter of a second for the part that each of four adds up, and as long for its total.
    assert seconds(full, 4, 1) == pytest.approx(0.5)
    assert seconds(full, 4, 2) == pytest.approx(0.75)
    assert seconds(full, 2, 3) == pytest.approx(3.0)
    assert [seconds(way, 2, 3) for way in (less, free)] == pytest.approx([1.0, 1.0])


def test_a_round_trip_that_nothing_shortens_changes_nothing() -> None:
    """200 ms are more than any budget, on a link that carries everything in time."""
    job = Job()
    job.run(100, 1e9, rtt_seconds=0.2)
    assert job.history == [] and job.choice.conditions is not None
    assert job.choice.conditions.rtt_seconds == 0.2


def test_a_step_of_no_time_has_no_share_of_anything() -> None:
    records = [record(step, 0.0) for step in range(1, 20)]
    instant = ChoicePolicy((Candidate(ExchangeRule(), (Departure(1.0, 0.0),)),))
    choice, decision = judge(instant, Choice(), records, {"a": Sent(10, 1.0)}, TWO_PODS)
    assert (choice.shares, decision) == ((0.0,), None)
