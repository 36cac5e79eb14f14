"""The emulated link is arithmetic on time: tested without waiting."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import Flow, LinkEmulator
from workers.exchange.stalls import Stalls

SLOW = LinkConditions(bandwidth_bytes_per_second=1000.0)


class Script(random.Random):
    """Random numbers as told: shares from 0 to 1 and then, for stalls, seconds."""

    def __init__(self, *numbers: float, gaps: Sequence[float] = ()) -> None:
        super().__init__(0)
        self._numbers = list(numbers)
        self._gaps = list(gaps)

    def random(self) -> float:
        return self._numbers.pop(0)

    def expovariate(self, lambd: float = 1.0) -> float:
        return self._gaps.pop(0) if self._gaps else math.inf


def link(
    conditions: LinkConditions, chance: random.Random | None = None
) -> tuple[LinkEmulator, Flow]:
    emulator = LinkEmulator(conditions, chance)
    return emulator, emulator.flow(lambda: None)


def test_back_to_back_keeps_the_bandwidth_whatever_the_latency() -> None:
    _, flow = link(replace(SLOW, latency_seconds=0.5))
    now = 100.0
    for count in range(1, 11):
        now = flow.offer(100, 100.0, now).arrival()
        assert now == pytest.approx(100.0 + 0.1 * count + 0.5)


def test_two_flows_share_the_bandwidth() -> None:
    emulator, one = link(SLOW)
    other = emulator.flow(lambda: None)
    arrivals = [flow.offer(100, 0.0, 0.0).arrival() for _ in range(5) for flow in (one, other)]
    assert arrivals == pytest.approx([0.1 * count for count in range(1, 11)])


def test_idling_gives_no_credit() -> None:
    _, flow = link(SLOW)
    flow.offer(100, 0.0, 0.0)
    assert flow.offer(100, 0.0, 50.0).arrival() == pytest.approx(50.0 - 0.05 + 0.1)


def test_without_bandwidth_a_frame_takes_the_latency() -> None:
    _, flow = link(LinkConditions(latency_seconds=0.25))
    assert flow.offer(10**9, 3.0, 3.0).arrival() == 3.25


def test_jitter_adds_its_share_and_keeps_order_and_bandwidth() -> None:
    conditions = replace(SLOW, latency_seconds=0.5, jitter_seconds=2.0)
    _, flow = link(conditions, Script(0.9, 0.75, 0.9, 0.0, 0.9, 1.0))
    first = flow.offer(100, 0.0, 0.0).arrival()
    assert first == pytest.approx(0.1 + 0.5 + 1.5)
    # Its own time would be 0.7, but it may not overtake.
    second = flow.offer(100, 0.0, first).arrival()
    assert second == first
    assert flow.offer(100, 0.0, second).arrival() == pytest.approx(0.3 + 0.5 + 2.0)


def test_a_lost_frame_costs_its_bytes_again_and_a_round_trip_and_is_counted() -> None:
    conditions = replace(SLOW, latency_seconds=0.25, drop_probability=0.1)
    _, flow = link(conditions, Script(0.05, 0.05, 0.5, 0.0, 0.5, 0.0))
    lost = flow.offer(100, 0.0, 0.0)
    assert lost.losses == 2
    assert lost.arrival() == pytest.approx(3 * 0.1 + 0.25 + 2 * 2 * 0.25)
    whole = flow.offer(100, 0.0, lost.arrival())
    assert whole.losses == 0
    # On the wire right behind the other, and not before it at the other end.
    assert whole.arrival() == lost.arrival()


def test_a_stall_holds_what_is_on_the_wire_and_what_comes_meanwhile() -> None:
    conditions = replace(SLOW, stall_every_seconds=10.0, stall_seconds=5.0)
    _, flow = link(conditions, Script(*[0.5] * 10, gaps=[1.0, 2.0]))
    # The wire stands still in [1, 6) and [8, 13).
    assert flow.offer(1000, 0.0, 0.0).arrival() == pytest.approx(1.0)
    assert flow.offer(500, 1.0, 1.0).arrival() == pytest.approx(6.5)
    assert flow.offer(2000, 6.5, 6.5).arrival() == pytest.approx(13.5)
    assert flow.offer(100, 20.0, 20.0).arrival() == pytest.approx(20.1)


def test_a_stall_holds_a_wire_of_any_speed() -> None:
    conditions = LinkConditions(stall_every_seconds=10.0, stall_seconds=5.0)
    _, flow = link(conditions, Script(*[0.5] * 10, gaps=[1.0]))
    assert flow.offer(10**9, 0.0, 0.0).arrival() == 0.0
    assert flow.offer(10**9, 1.0, 1.0).arrival() == 6.0
    assert flow.offer(10**9, 3.0, 3.0).arrival() == 6.0


def test_stalls_come_as_often_as_they_should_and_last_as_long() -> None:
    stalls = Stalls(10.0, 2.0, random.Random(1), since=0.0)
    moving = stalls.moving(0.0, 120_000.0)
    assert moving == pytest.approx(100_000.0, rel=0.02)
    assert stalls.after(0.0, moving) == pytest.approx(120_000.0, abs=2.0)


def test_during_a_partition_nothing_arrives_and_afterwards_what_waits_goes_on() -> None:
    emulator, flow = link(replace(SLOW, latency_seconds=0.5))
    half_sent = flow.offer(1000, 0.0, 0.0)
    emulator.change(replace(emulator.conditions, is_partitioned=True), 0.4)
    assert half_sent.arrival() == math.inf
    emulator.change(replace(emulator.conditions, is_partitioned=False), 60.0)
    assert half_sent.arrival() == pytest.approx(60.0 + 0.6 + 0.5)
    # Nobody catches up on the time of the partition.
    then = half_sent.arrival()
    assert flow.offer(1000, 0.0, then).arrival() == pytest.approx(60.0 + 1.6 + 0.5)


def test_a_frame_in_flight_arrives_when_the_partition_is_lifted() -> None:
    emulator, flow = link(replace(SLOW, latency_seconds=2.0))
    flying = flow.offer(1000, 0.0, 0.0)
    emulator.change(replace(emulator.conditions, is_partitioned=True), 1.5)
    emulator.change(replace(emulator.conditions, is_partitioned=True, drop_probability=0.5), 2.0)
    assert flying.arrival() == math.inf
    emulator.change(replace(emulator.conditions, is_partitioned=False), 2.5)
    assert flying.arrival() == pytest.approx(3.0)
    emulator.change(replace(emulator.conditions, is_partitioned=True), 2.75)
    emulator.change(replace(emulator.conditions, is_partitioned=False), 60.0)
    assert flying.arrival() == 60.0


def test_a_frame_offered_during_a_partition_starts_when_it_is_lifted() -> None:
    emulator, flow = link(replace(SLOW, is_partitioned=True))
    waiting = flow.offer(1000, 0.0, 0.0)
    assert waiting.arrival() == math.inf
    emulator.change(SLOW, 5.0)
    assert waiting.arrival() == pytest.approx(6.0)
    empty = flow.offer(0, 6.0, 6.0)
    assert empty.arrival() == pytest.approx(6.0)


def test_another_bandwidth_holds_for_the_rest_of_what_is_under_way() -> None:
    emulator, one = link(SLOW)
    other = emulator.flow(lambda: None)
    first, second = one.offer(1000, 0.0, 0.0), other.offer(1000, 0.0, 0.0)
    emulator.change(LinkConditions(4000.0, latency_seconds=1.0), 0.5)
    assert first.arrival() == pytest.approx(0.5 + 0.125 + 1.0)
    assert second.arrival() == pytest.approx(0.5 + 0.125 + 0.25 + 1.0)
    emulator.change(LinkConditions(), 0.55)
    assert first.arrival() == second.arrival() == 0.55


def test_a_change_in_a_stall_counts_what_was_sent_before_it() -> None:
    conditions = replace(SLOW, stall_every_seconds=10.0, stall_seconds=5.0)
    emulator, flow = link(conditions, Script(*[0.5] * 10, gaps=[0.5]))
    passage = flow.offer(1000, 0.0, 0.0)
    assert passage.arrival() == pytest.approx(6.0)
    emulator.change(replace(conditions, bandwidth_bytes_per_second=100.0), 3.0)
    assert passage.arrival() == pytest.approx(5.5 + 5.0)
    emulator.change(LinkConditions(100.0), 4.0)
    assert passage.arrival() == pytest.approx(4.0 + 5.0)


def test_a_change_wakes_those_that_wait_and_nobody_else() -> None:
    emulator, woken = LinkEmulator(SLOW), list[str]()
    waiting, done = emulator.flow(lambda: woken.append("waiting")), emulator.flow(woken.clear)
    done.offer(100, 0.0, 0.0)
    waiting.offer(1000, 0.0, 0.0)
    emulator.change(LinkConditions(), 0.5)
    assert woken == ["waiting"]


def test_all_conditions_at_once() -> None:
    conditions = LinkConditions(1000.0, 0.25, 1.0, 10.0, 2.0, 0.1)
    _, flow = link(conditions, Script(0.0, 0.5, 0.5, gaps=[1.5]))
    # Twice a second on the wire, 2 s of it a stall, then latency, half the jitter, a round trip.
    arrival = flow.offer(1000, 0.0, 0.0).arrival()
    assert arrival == pytest.approx(2.0 + 2.0 + 0.25 + 0.5 + 0.5)


@given(
    seed=st.integers(0, 2**32),
    conditions=st.builds(
        LinkConditions,
        bandwidth_bytes_per_second=st.floats(10, 1e6),
        latency_seconds=st.floats(0, 1),
        jitter_seconds=st.floats(0, 1),
        drop_probability=st.floats(0, 0.6),
        stall_every_seconds=st.just(1.0),
        stall_seconds=st.floats(0.01, 1),
    ),
    offers=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 5000), st.floats(0, 1)), min_size=1, max_size=40
    ),
)
def test_any_offers_keep_rate_order_and_latency(
    seed: int, conditions: LinkConditions, offers: list[tuple[int, int, float]]
) -> None:
    emulator = LinkEmulator(conditions, random.Random(seed))
    flows = [emulator.flow(lambda: None) for _ in range(3)]
    ready = [0.0, 0.0, 0.0]
    arrived: list[tuple[float, int]] = []
    slack = 0.05 + conditions.latency_seconds + conditions.jitter_seconds
    for which, num_bytes, idle in offers:
        offered_at = now = ready[which] + idle
        passage = flows[which].offer(num_bytes, offered_at, now)
        late = 2 * conditions.latency_seconds * passage.losses
        assert passage.arrival() >= offered_at + conditions.latency_seconds - 1e-9
        assert passage.arrival() >= ready[which]
        ready[which] = passage.arrival()
        arrived.append((passage.arrival(), num_bytes))
        slack = max(slack, 0.05 + conditions.latency_seconds + conditions.jitter_seconds + late)
    rate = conditions.bandwidth_bytes_per_second
    assert rate is not None
    arrived.sort()
    for first in range(len(arrived)):
        for last in range(first + 1, len(arrived)):
            sent = sum(num_bytes for _, num_bytes in arrived[first : last + 1])
            took = arrived[last][0] - arrived[first][0]
            # One frame may have begun before the interval does.
            assert sent <= rate * (took + slack) * (1 + 1e-9) + 5000


@given(
    changes=st.lists(
        st.tuples(st.floats(0.01, 3), st.one_of(st.none(), st.floats(100, 1e4)), st.booleans()),
        max_size=8,
    )
)
def test_any_changes_of_bandwidth_send_every_byte_at_the_rate_of_its_time(
    changes: list[tuple[float, float | None, bool]],
) -> None:
    emulator, flow = link(SLOW)
    passage, now, rate, left = flow.offer(5000, 0.0, 0.0), 0.0, 1000.0, 5000.0
    for seconds, bandwidth, is_partitioned in changes:
        left -= rate * seconds if math.isfinite(rate) else left
        now += seconds
        if left <= 1e-6:
            return
        emulator.change(LinkConditions(bandwidth, is_partitioned=is_partitioned), now)
        rate = 0.0 if is_partitioned else bandwidth or math.inf
        expected = math.inf if rate == 0 else now + left / rate
        assert passage.arrival() == pytest.approx(expected)
