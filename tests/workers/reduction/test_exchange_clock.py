"""The time of a step's exchange, with others under way beside it."""

from workers.reduction.base import ExchangeClock


def test_steps_under_way_at_once_have_times_of_their_own() -> None:
    times = iter([0.0, 1.0, 10.0, 30.0])
    clock = ExchangeClock(lambda: next(times))
    clock.begin(1)
    clock.begin(2)
    clock.end(1)
    assert clock.take(1) == 10.0
    clock.end(2)
    assert clock.take(2) == 29.0


def test_what_nothing_was_sent_of_takes_no_time() -> None:
    clock = ExchangeClock()
    clock.end(1)
    assert clock.take(1) == 0.0
    assert clock.take(2) == 0.0
