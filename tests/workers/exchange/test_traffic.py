"""What the meter of a host's traffic says, on a clock of the test's."""

import pytest

from workers.exchange.traffic import TrafficMeter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> TrafficMeter:
    return TrafficMeter(clock)


def send(meter: TrafficMeter, clock: Clock, size: int, seconds: float, sender: int = 0) -> None:
    meter.begin("pod-1", sender)
    clock.now += seconds
    meter.end("pod-1", sender, size)


def test_a_pod_that_nothing_went_to_is_not_told_of(meter: TrafficMeter, clock: Clock) -> None:
    meter.begin("pod-1", 0)
    meter.end("pod-1", 0, None)
    assert meter.snapshot() == {}


def test_the_rate_is_taken_over_the_time_of_sending_only(meter: TrafficMeter, clock: Clock) -> None:
    for _ in range(3):
        send(meter, clock, 1000, 0.5)
        clock.now += 60.0
    traffic = meter.snapshot()["pod-1"]
    assert (traffic.sent_bytes, traffic.sending_seconds) == (3000, 1.5)
    assert traffic.rate_bytes_per_second == 2000.0


def test_frames_that_are_under_way_together_take_their_time_once(
    meter: TrafficMeter, clock: Clock
) -> None:
    meter.begin("pod-1", "one")
    send(meter, clock, 1000, 1.0, sender=2)
    meter.end("pod-1", "one", 1000)
    traffic = meter.snapshot()["pod-1"]
    assert traffic.sending_seconds == 1.0 and traffic.rate_bytes_per_second == 2000.0


def test_the_rate_follows_a_link_that_slows_down_at_the_next_frame(
    meter: TrafficMeter, clock: Clock
) -> None:
    for _ in range(100):
        send(meter, clock, 1000, 0.01)
    assert meter.snapshot()["pod-1"].rate_bytes_per_second == pytest.approx(100_000)
    send(meter, clock, 1000, 10.0)
    assert meter.snapshot()["pod-1"].rate_bytes_per_second == pytest.approx(100.0)


def test_the_rate_falls_while_a_frame_does_not_arrive(meter: TrafficMeter, clock: Clock) -> None:
    send(meter, clock, 1000, 1.0)
    meter.begin("pod-1", 0)
    rates = []
    for _ in range(3):
        rates.append(meter.snapshot()["pod-1"].rate_bytes_per_second)
        clock.now += 2.0
    assert rates == [1000.0, 500.0, 250.0]


def test_a_frame_that_is_given_up_counts_no_bytes_and_stops_the_clock(
    meter: TrafficMeter, clock: Clock
) -> None:
    send(meter, clock, 1000, 1.0)
    meter.begin("pod-1", 0)
    clock.now += 1.0
    meter.end("pod-1", 0, None)
    meter.add_retries("pod-1", 2)
    clock.now += 50.0
    traffic = meter.snapshot()["pod-1"]
    assert (traffic.sent_bytes, traffic.sending_seconds, traffic.retries) == (1000, 2.0, 2)


def test_a_frame_that_took_no_time_has_no_rate(meter: TrafficMeter, clock: Clock) -> None:
    send(meter, clock, 1000, 0.0)
    assert meter.snapshot()["pod-1"].rate_bytes_per_second is None
