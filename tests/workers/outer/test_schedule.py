import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.outer.schedule import OuterStep, Schedule


@st.composite
def schedules(draw):
    every = draw(st.integers(1, 12))
    fragments = draw(st.integers(1, every))
    delay = draw(st.integers(0, every // fragments))
    return Schedule(every, delay, fragments, draw(st.integers(1, 40)))


def sent(schedule: Schedule) -> list[OuterStep]:
    steps = range(1, schedule.last_step + 1)
    return [outer for step in steps if (outer := schedule.sent_after(step)) is not None]


def test_diloco_exchanges_everything_every_so_many_steps():
    outer_steps = sent(Schedule(every=4, delay=0, num_fragments=1, last_step=10))
    assert outer_steps == [
        OuterStep(1, (0,), 4, 4, False),
        OuterStep(2, (0,), 8, 8, False),
        OuterStep(3, (0,), 10, 10, True),
    ]


def test_fragments_take_turns_and_are_applied_later():
    schedule = Schedule(every=9, delay=2, num_fragments=2, last_step=20)
    assert [(o.sent_after, o.fragments, o.applied_after) for o in sent(schedule)] == [
        (4, (1,), 6),
        (9, (0,), 11),
        (13, (1,), 15),
        (18, (0,), 20),
        (20, (0, 1), 20),
    ]


def test_the_last_exchange_comes_after_what_still_travelled():
    schedule = Schedule(every=9, delay=2, num_fragments=2, last_step=20)
    assert [outer.sent_after for outer in schedule.applied_after(20)] == [18, 20]


def test_what_would_travel_at_the_end_is_not_sent():
    assert Schedule(every=9, delay=2, num_fragments=2, last_step=19).sent_after(18) is None


def test_a_job_shorter_than_a_round_is_exchanged_once():
    assert sent(Schedule(every=100, delay=0, num_fragments=1, last_step=3)) == [
        OuterStep(1, (0,), 3, 3, True)
    ]


def test_a_fragment_must_be_there_before_the_next_is_sent():
    Schedule(every=9, delay=4, num_fragments=2, last_step=20)
    with pytest.raises(ValueError, match="no room for a delay of 5"):
        Schedule(every=9, delay=5, num_fragments=2, last_step=20)


@given(schedules())
def test_what_is_sent_is_applied_once_and_before_the_next_is_sent(schedule):
    under_way: list[OuterStep] = []
    numbers = []
    assert schedule.in_flight_after(0) is None
    for step in range(1, schedule.last_step + 1):
        due, outer = schedule.applied_after(step), schedule.sent_after(step)
        for applied in due:
            if applied != outer:
                assert under_way.pop() == applied
        if outer is not None:
            assert under_way == []
            numbers.append(outer.number)
            assert outer.is_last == (step == schedule.last_step)
            if outer not in due:
                under_way.append(outer)
        assert [schedule.in_flight_after(step)] == (under_way or [None])
    assert under_way == []
    assert numbers == list(range(1, len(numbers) + 1))


@given(schedules())
def test_every_fragment_is_sent_once_in_every_so_many_steps(schedule):
    regular = [outer for outer in sent(schedule) if not outer.is_last]
    for fragment in range(schedule.num_fragments):
        steps = [outer.sent_after for outer in regular if outer.fragments == (fragment,)]
        assert all(b - a == schedule.every for a, b in itertools.pairwise(steps))
        if schedule.last_step - schedule.delay > schedule.every:
            assert steps and steps[0] <= schedule.every
