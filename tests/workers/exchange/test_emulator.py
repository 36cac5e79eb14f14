"""The emulated link is arithmetic on time: tested without waiting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.exchange.emulator import LinkEmulator, parse_bandwidth, parse_latency


def test_arrival_back_to_back_keeps_the_bandwidth_whatever_the_latency() -> None:
    link = LinkEmulator(1000.0, 0.5)
    now = 100.0
    for count in range(1, 11):
        now = link.arrival(100, 100.0, now)
        assert now == pytest.approx(100.0 + 0.1 * count + 0.5)


def test_arrival_of_two_senders_shares_the_bandwidth() -> None:
    link = LinkEmulator(1000.0)
    arrivals = [link.arrival(100, 0.0, 0.0) for _ in range(10)]
    assert arrivals[-1] == pytest.approx(1.0)


def test_arrival_after_idling_gets_no_credit_for_it() -> None:
    link = LinkEmulator(1000.0, 0.0)
    link.arrival(100, 0.0, 0.0)
    assert link.arrival(100, 0.0, 50.0) >= 50.0


def test_arrival_without_bandwidth_is_the_latency() -> None:
    assert LinkEmulator(None, 0.25).arrival(10**9, 3.0, 3.0) == 3.25


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1)), min_size=1))
def test_arrival_any_offers_never_beat_the_bandwidth(offers: list[tuple[int, float]]) -> None:
    link, now, total, last = LinkEmulator(1000.0), 10.0, 0, 0.0
    for num_bytes, idle in offers:
        now += idle
        total += num_bytes
        last = link.arrival(num_bytes, now, now)
        assert last >= now
    assert last - 10.0 >= total / 1000.0 - 1e-6


@pytest.mark.parametrize(
    ("text", "value"),
    [("200Mbit", 25e6), ("1Gbit", 125e6), ("800 kbit", 1e5), ("8bit", 1.0), ("2.5Gbit", 312.5e6)],
)
def test_parse_bandwidth(text: str, value: float) -> None:
    assert parse_bandwidth(text) == value


@pytest.mark.parametrize(("text", "value"), [("5ms", 0.005), ("250us", 0.00025), ("1s", 1.0)])
def test_parse_latency(text: str, value: float) -> None:
    assert parse_latency(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "200", "fast", "-1Mbit", "5ms", "1 Mbit/s"])
def test_parse_bandwidth_of_something_else_names_it_and_the_units(text: str) -> None:
    with pytest.raises(ValueError, match=r"link bandwidth .* units bit, kbit, mbit, gbit"):
        parse_bandwidth(text)


def test_impossible_links_are_value_errors() -> None:
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        LinkEmulator(0.0)
    with pytest.raises(ValueError, match="latency must not be negative"):
        LinkEmulator(1.0, -1.0)
