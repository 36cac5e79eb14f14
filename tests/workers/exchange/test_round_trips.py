"""Round trips are measured on the way of the gradients, emulated conditions and all."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.contracts.exchange_gang import eventually
from workers.exchange.base import Membership, StepKey
from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange
from workers.exchange.round_trips import Crossing, RoundTrips

SLOW = LinkConditions(latency_seconds=0.04)


@contextlib.contextmanager
def served(emulator: LinkEmulator | None = None, token: str = "") -> Iterator[str]:
    exchange = GrpcExchange("127.0.0.1:0", emulator, join_token=token)
    try:
        yield f"127.0.0.1:{exchange.port}"
    finally:
        exchange.close()


@contextlib.contextmanager
def measuring(
    address: str, emulator: LinkEmulator | None = None, token: str = ""
) -> Iterator[Callable[[], float | None]]:
    trips = RoundTrips(emulator, token, every_seconds=0.01)
    trips.watch({"pod-1": address})
    try:
        yield lambda: trips.seconds().get("pod-1")
    finally:
        trips.close()


def test_a_round_trip_on_this_machine_takes_little() -> None:
    with served() as address, measuring(address) as seconds:
        assert eventually(lambda: (seconds() or 1.0) < 0.03)


@pytest.mark.parametrize(
    ("here", "there", "least"), [(SLOW, None, 0.04), (None, SLOW, 0.04), (SLOW, SLOW, 0.08)]
)
def test_both_ways_lead_over_the_emulated_link_of_who_sends(
    here: LinkConditions | None, there: LinkConditions | None, least: float
) -> None:
    emulators = [LinkEmulator(each) if each else None for each in (here, there)]
    with served(emulators[1]) as address, measuring(address, emulators[0]) as seconds:
        assert eventually(lambda: seconds() is not None)
        assert least <= (seconds() or 0.0)
        assert eventually(lambda: (seconds() or 1.0) < least + 0.03)


def test_a_link_that_changes_shows_in_the_next_round_trips() -> None:
    emulator = LinkEmulator(LinkConditions())
    with served() as address, measuring(address, emulator) as seconds:
        assert eventually(lambda: (seconds() or 1.0) < 0.03)
        emulator.change(SLOW, time.monotonic())
        assert eventually(lambda: (seconds() or 0.0) >= 0.04)


def test_a_partition_is_waited_out_and_ends_with_who_asks() -> None:
    emulator = LinkEmulator(LinkConditions(is_partitioned=True))
    crossing = Crossing(emulator)
    started = time.monotonic()
    assert not crossing.wait(lambda: True, timeout=0.05)
    assert time.monotonic() - started >= 0.05
    assert not crossing.wait(lambda: False)
    with served() as address, measuring(address, emulator) as seconds:
        assert seconds() is None
        emulator.change(LinkConditions(), time.monotonic())
        assert eventually(lambda: seconds() is not None)


def test_peer_that_is_away_or_refuses_has_no_round_trip() -> None:
    asked = RoundTrips(every_seconds=0.01)
    with served(token="secret") as address:
        asked.watch({"pod-1": address, "pod-2": "127.0.0.1:1", "pod-3": address})
        with measuring(address, token="secret") as seconds:
            assert eventually(lambda: seconds() is not None)
        assert asked.seconds() == {}
        asked.close()


def test_traffic_tells_the_round_trip_to_the_peers_of_a_generation() -> None:
    one, other = GrpcExchange("127.0.0.1:0"), GrpcExchange("127.0.0.1:0")
    one.join(Membership("job", 1, 0, {1: f"127.0.0.1:{other.port}"}, {1: "pod-1"}, 1000))
    other.join(Membership("job", 1, 1, {0: f"127.0.0.1:{one.port}"}, {0: "pod-0"}, 1000))
    one.send(StepKey("job", 1, 1), [memoryview(bytes(10))], [1])
    other.receive(StepKey("job", 1, 1), {0: 10})
    assert eventually(
        lambda: "pod-1" in one.traffic() and one.traffic()["pod-1"].rtt_seconds is not None
    )
    one.leave("job", 1)
    assert one.traffic()["pod-1"].rtt_seconds is None
    other.abort("job", 1, "the test is over")
    for exchange in (one, other):
        exchange.close()
