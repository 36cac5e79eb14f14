"""What every GradientExchange does, whatever it is made of."""

import time
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.exchange_gang import KINDS, WAIT, eventually, gang_of
from workers.exchange.base import (
    ContributionMismatch,
    ExchangeAborted,
    PeerUnreachable,
    StepKey,
)


def numbers(seed: int, count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).standard_normal(count).astype(np.float32)]


pytestmark = pytest.mark.parametrize("kind", KINDS)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    num_members=st.integers(1, 5),
    counts=st.lists(st.integers(0, 400_000), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_swap_any_shapes_and_pod_counts_delivers_the_exact_bytes(
    kind: str, num_members: int, counts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with gang_of(kind, num_members) as gang:
        gang.join_all()
        for step in (1, 2):
            contributions = [
                [rng.integers(0, 255, max(0, count - member), np.uint8) for count in counts]
                for member in range(num_members)
            ]
            gang.swap_all(StepKey("job", 1, step), contributions)


def test_swap_of_multidimensional_and_scalar_arrays_sends_them_in_order(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        arrays = [np.ones((2, 3, 4), np.float32), np.zeros((0, 5)), np.array(7.0), np.arange(3)]
        gang.swap_all(StepKey("job", 1, 1), [arrays, arrays])


def test_swap_segments_of_one_step_in_any_order_keeps_them_apart(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        first = [gang.swap(0, StepKey("job", 1, 1, s), numbers(s, 100), [400, 400]) for s in (0, 1)]
        second = {
            s: gang.swap(1, StepKey("job", 1, 1, s), numbers(10 + s, 100), [400, 400])
            for s in (1, 0)
        }
        for segment in (0, 1):
            assert first[segment].result(WAIT)[1] == numbers(10 + segment, 100)[0].tobytes()
            assert second[segment].result(WAIT)[0] == numbers(segment, 100)[0].tobytes()


def test_swap_before_the_peer_joins_waits_for_it(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join(0)
        early = gang.swap(0, StepKey("job", 1, 1), numbers(0, 500_000), [2_000_000, 2_000_000])
        assert not early.done()
        gang.join(1)
        late = gang.swap(1, StepKey("job", 1, 1), numbers(1, 500_000), [2_000_000, 2_000_000])
        assert early.result(WAIT)[1] == numbers(1, 500_000)[0].tobytes()
        assert late.result(WAIT)[0] == numbers(0, 500_000)[0].tobytes()


def test_next_step_of_a_faster_peer_is_kept_until_wanted(kind: str) -> None:
    with gang_of(kind, 3) as gang:
        gang.join_all()
        sizes = [40, 40, 40]

        def swap(member: int, step: int) -> "Future[dict[int, bytes]]":
            return gang.swap(
                member, StepKey("job", 1, step), numbers(member + 10 * step, 10), sizes
            )

        slow_step_1 = [swap(1, 1), swap(2, 1)]
        assert swap(0, 1).result(WAIT)
        fast_step_2 = swap(0, 2)
        for waiting in slow_step_1:
            waiting.result(WAIT)
        received = [swap(1, 2), swap(2, 2)]
        for waiting in received:
            assert waiting.result(WAIT)[0] == numbers(20, 10)[0].tobytes()
        assert fast_step_2.result(WAIT)[2] == numbers(22, 10)[0].tobytes()


def test_outgoing_memory_may_be_overwritten_after_swap(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        scratch = numbers(0, 100_000)
        for step in range(1, 6):
            scratch[0][:] = step
            sent = scratch[0].tobytes()
            mine = gang.swap(0, StepKey("job", 1, step), scratch, [len(sent)] * 2)
            theirs = gang.swap(1, StepKey("job", 1, step), numbers(1, 100_000), [len(sent)] * 2)
            mine.result(WAIT)
            scratch[0][:] = -1
            assert theirs.result(WAIT)[0] == sent


def test_abort_wakes_a_waiting_swap_within_100_ms(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        waiting = gang.swap(0, StepKey("job", 1, 1), numbers(0, 10), [40, 40])
        assert eventually(lambda: "pod-1" in gang.exchanges[0].traffic())
        started = time.monotonic()
        gang.exchanges[0].abort("job", 1, "a new generation is coming")
        with pytest.raises(ExchangeAborted, match="a new generation is coming"):
            waiting.result(WAIT)
        assert time.monotonic() - started < 0.1
        with pytest.raises(ExchangeAborted, match="a new generation is coming"):
            gang.swap(0, StepKey("job", 1, 2), numbers(0, 10), [40, 40]).result(WAIT)


def test_abort_before_join_holds_for_the_generation_and_not_for_the_next(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.exchanges[0].abort("job", 1, "stopped early")
        gang.join_all()
        with pytest.raises(ExchangeAborted, match="stopped early"):
            gang.swap(0, StepKey("job", 1, 1), numbers(0, 10), [40, 40]).result(WAIT)
        gang.join_all(generation=2)
        gang.swap_all(StepKey("job", 2, 1), [numbers(0, 10), numbers(1, 10)])


def test_stale_generation_is_never_delivered_to_the_next(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        waiting = gang.swap(0, StepKey("job", 1, 7), numbers(0, 100), [400, 400])
        assert eventually(lambda: "pod-1" in gang.exchanges[0].traffic())
        gang.join(1, generation=2)
        gang.join(0, generation=2)
        with pytest.raises(ExchangeAborted):
            waiting.result(WAIT)
        gang.swap_all(StepKey("job", 2, 7), [numbers(2, 100), numbers(3, 100)])


def test_two_jobs_at_once_do_not_mix(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all("a")
        gang.join_all("b", generation=4)
        for step in (1, 2, 3):
            swaps = [
                gang.swap(m, StepKey(job, g, step), numbers(m + shift, n), [4 * n] * 2)
                for job, g, n, shift in (("a", 1, 1000, 0), ("b", 4, 3000, 5))
                for m in (0, 1)
            ]
            assert swaps[0].result(WAIT)[1] == numbers(1, 1000)[0].tobytes()
            assert swaps[2].result(WAIT)[1] == numbers(6, 3000)[0].tobytes()
            assert swaps[3].result(WAIT)[0] == numbers(5, 3000)[0].tobytes()
        gang.exchanges[0].abort("a", 1, "only this one")
        gang.swap_all(StepKey("b", 4, 4), [numbers(0, 10), numbers(1, 10)])


def test_peer_that_closes_makes_a_waiting_swap_unreachable_and_names_the_pod(kind: str) -> None:
    with gang_of(kind, 3) as gang:
        gang.join_all()
        gang.swap_all(StepKey("job", 1, 1), [numbers(m, 10) for m in range(3)])
        waiting = gang.swap(0, StepKey("job", 1, 2), numbers(0, 10), [40] * 3)
        gang.exchanges[2].close()
        with pytest.raises(PeerUnreachable, match="pod-2") as raised:
            waiting.result(WAIT)
        assert raised.value.member_index == 2


def test_peer_that_finished_and_left_does_not_spoil_the_last_swap(kind: str) -> None:
    with gang_of(kind, 3) as gang:
        gang.join_all()
        key, sizes = StepKey("job", 1, 1), [40] * 3
        slow = gang.swap(0, key, numbers(0, 10), sizes)
        finishing = gang.swap(1, key, numbers(1, 10), sizes)
        assert not finishing.done()
        last = gang.swap(2, key, numbers(2, 10), sizes)
        finishing.result(WAIT)
        gang.exchanges[1].leave("job", 1)
        gang.exchanges[1].close()
        assert last.result(WAIT)[1] == numbers(1, 10)[0].tobytes()
        assert slow.result(WAIT)[1] == numbers(1, 10)[0].tobytes()


def test_leave_after_the_last_swap_delivers_what_a_slower_peer_still_lacks(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        count = 1_000_000
        first = gang.swap(0, StepKey("job", 1, 1), numbers(0, count), [4 * count, 40])
        second = gang.swap(1, StepKey("job", 1, 1), numbers(1, 10), [4 * count, 40])
        first.result(WAIT)
        gang.exchanges[0].leave("job", 1)
        gang.exchanges[0].close()
        assert second.result(WAIT)[0] == numbers(0, count)[0].tobytes()


def test_leave_frees_every_buffer(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        gang.swap_all(StepKey("job", 1, 1), [numbers(m, 300_000) for m in (0, 1)])
        unanswered = gang.swap(0, StepKey("job", 1, 2), numbers(0, 300_000), [1_200_000] * 2)
        assert eventually(lambda: gang.exchanges[1].held_bytes() >= 1_200_000)
        gang.exchanges[0].abort("job", 1, "enough")
        with pytest.raises(ExchangeAborted):
            unanswered.result(WAIT)
        for exchange in gang.exchanges:
            exchange.leave("job", 1)
        for exchange in gang.exchanges:
            assert eventually(lambda exchange=exchange: exchange.held_bytes() == 0)
        with pytest.raises(ExchangeAborted, match="over"):
            gang.swap(0, StepKey("job", 1, 2), numbers(0, 10), [40, 40]).result(WAIT)


def test_memory_held_stays_within_two_steps_each_way(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        size = 400_000
        for step in range(1, 8):
            gang.swap_all(StepKey("job", 1, step), [numbers(m, size // 4) for m in (0, 1)])
            for exchange in gang.exchanges:
                assert exchange.held_bytes() <= 4 * size


def test_close_aborts_a_waiting_swap(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        waiting = gang.swap(0, StepKey("job", 1, 1), numbers(0, 10), [40, 40])
        assert eventually(lambda: "pod-1" in gang.exchanges[0].traffic())
        gang.exchanges[0].close()
        with pytest.raises(ExchangeAborted, match="closed"):
            waiting.result(WAIT)


def test_contribution_of_another_size_is_an_error_that_names_both_sizes(kind: str) -> None:
    with gang_of(kind, 2) as gang:
        gang.join_all()
        swap = gang.swap(0, StepKey("job", 1, 1), numbers(0, 10), [40, 44])
        gang.swap(1, StepKey("job", 1, 1), numbers(1, 10), [40, 40]).result(WAIT)
        with pytest.raises(ContributionMismatch, match=r"40 bytes.*says 44"):
            swap.result(WAIT)


def test_misuse_is_a_value_error(kind: str) -> None:
    key = StepKey("job", 1, 1)
    with gang_of(kind, 2) as gang:
        exchange = gang.exchanges[0]
        with pytest.raises(ValueError, match="join"):
            exchange.receive(key, {1: 0})
        with pytest.raises(ValueError, match="join"):
            exchange.send(key, [], [1])
        gang.join_all()
        with pytest.raises(ValueError, match="peers are"):
            exchange.receive(key, {})
        with pytest.raises(ValueError, match="peers"):
            exchange.send(key, [], [0])
        gang.swap_all(key, [numbers(0, 1), numbers(1, 1)])
        with pytest.raises(ValueError, match="received before"):
            exchange.receive(key, {1: 0})


def test_parts_sent_to_single_peers_and_rounds_of_one_segment_stay_apart(kind: str) -> None:
    with gang_of(kind, 3) as gang:
        gang.join_all()
        keys = [StepKey("job", 1, 1, segment=2, round=turn) for turn in (0, 1)]
        parts = {(m, to): numbers(10 * m + to, 5 + m)[0] for m in range(3) for to in range(3)}
        for member, exchange in enumerate(gang.exchanges):
            for to in {0, 1, 2} - {member}:
                exchange.send(keys[0], [parts[member, to].data], [to])
            exchange.send(keys[1], [numbers(member, 7)[0].data], {0, 1, 2} - {member})
        for member, exchange in enumerate(gang.exchanges):
            others = {0, 1, 2} - {member}
            second = exchange.receive(keys[1], dict.fromkeys(others, 28))
            first = exchange.receive(keys[0], {m: 4 * (5 + m) for m in others})
            assert {m: bytes(view) for m, view in first.items()} == {
                m: parts[m, member].tobytes() for m in others
            }
            assert {m: bytes(view) for m, view in second.items()} == {
                m: numbers(m, 7)[0].tobytes() for m in others
            }


def test_traffic_counts_payload_by_pod(kind: str) -> None:
    with gang_of(kind, 3) as gang:
        gang.join_all()
        gang.swap_all(StepKey("job", 1, 1), [numbers(m, 1000) for m in range(3)])
        gang.swap_all(StepKey("job", 1, 2), [numbers(m, 1000) for m in range(3)])
        assert eventually(
            lambda: (
                {p: t.sent_bytes for p, t in gang.exchanges[0].traffic().items()}
                == {"pod-1": 8000, "pod-2": 8000}
            )
        )
        assert all(t.retries == 0 for t in gang.exchanges[0].traffic().values())
