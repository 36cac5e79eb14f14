"""A link whose conditions change while two exchanges use it."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from workers.exchange.base import ExchangeAborted, Membership, StepKey
from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange

WAIT = 20.0
CUT = LinkConditions(is_partitioned=True)


class Pair:
    """Two exchanges; what the first sends goes through the emulator."""

    def __init__(self, emulator: LinkEmulator) -> None:
        self.exchanges = [GrpcExchange("127.0.0.1:0", emulator), GrpcExchange("127.0.0.1:0")]
        for member, exchange in enumerate(self.exchanges):
            peer = 1 - member
            address = f"127.0.0.1:{self.exchanges[peer].port}"
            exchange.join(
                Membership("job", 1, member, {peer: address}, {peer: f"pod-{peer}"}, 1 << 30)
            )
        self._threads = ThreadPoolExecutor(4)

    def sums(self, step: int, numbers: list[np.ndarray]) -> list["Future[np.ndarray]"]:
        """What each has of both, once it has it."""

        def run(member: int) -> np.ndarray:
            mine, theirs = numbers[member], numbers[1 - member]
            key, peer = StepKey("job", 1, step), 1 - member
            self.exchanges[member].send(key, [mine.data], [peer])
            views = self.exchanges[member].receive(key, {peer: theirs.nbytes})
            return mine + np.frombuffer(views[1 - member], theirs.dtype)

        return [self._threads.submit(run, member) for member in (0, 1)]

    def abort(self, reason: str) -> None:
        for exchange in self.exchanges:
            exchange.abort("job", 1, reason)

    def close(self) -> None:
        self.abort("the test is over")
        for exchange in self.exchanges:
            exchange.close()
        self._threads.shutdown()


@contextmanager
def pair(emulator: LinkEmulator) -> Iterator[Pair]:
    made = Pair(emulator)
    try:
        yield made
    finally:
        made.close()


def numbers(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal(count) for _ in range(2)]


def test_sums_arrive_once_a_partition_is_lifted_and_not_before() -> None:
    emulator = LinkEmulator(CUT)
    with pair(emulator) as both:
        given = numbers(500_000)
        first, second = both.sums(1, given)
        # The other direction is not cut.
        assert np.array_equal(first.result(WAIT), given[0] + given[1])
        assert not second.done()
        emulator.change(LinkConditions(), time.monotonic())
        assert np.array_equal(second.result(WAIT), given[0] + given[1])
        emulator.change(CUT, time.monotonic())
        first, second = both.sums(2, given)
        first.result(WAIT)
        assert not second.done()
        emulator.change(LinkConditions(latency_seconds=0.01), time.monotonic())
        assert np.array_equal(second.result(WAIT), given[0] + given[1])


def test_more_bandwidth_is_of_use_to_what_waits_already() -> None:
    emulator = LinkEmulator(LinkConditions(bandwidth_bytes_per_second=1.0))
    with pair(emulator) as both:
        given = numbers(100_000)
        first, second = both.sums(1, given)
        first.result(WAIT)
        emulator.change(LinkConditions(bandwidth_bytes_per_second=1e9), time.monotonic())
        assert np.array_equal(second.result(WAIT), given[0] + given[1])


def test_a_cancelled_generation_does_not_wait_for_the_partition() -> None:
    with pair(LinkEmulator(CUT)) as both:
        first, second = both.sums(1, numbers(1000))
        first.result(WAIT)
        both.abort("cancelled")
        with pytest.raises(ExchangeAborted, match="cancelled"):
            second.result(WAIT)


def test_lost_frames_are_counted_as_sent_again() -> None:
    with pair(LinkEmulator(LinkConditions(drop_probability=0.9))) as both:
        given = numbers(500_000)
        for total in both.sums(1, given):
            assert np.array_equal(total.result(WAIT), given[0] + given[1])
        assert both.exchanges[0].traffic()["pod-1"].retries > 0
