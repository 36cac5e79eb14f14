"""Where the time of a job goes, in courses whose hosts' clocks agree with the controller's."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import events, goodput
from controller.core.account import Account, Category, Phase
from controller.core.job import JobState
from controller.core.totals import Durations, Totals
from tests.controller.core.test_saving import saves
from tests.controller.core.test_training import POLICY
from tests.controller.core.world import ref, two_pods

BEGAN = {"startup": 4.5, "compile": 0.5}


class Course:
    """A job on two pods, five seconds after it was admitted; steps take half a second of the clock
    that everybody has."""

    def __init__(self, **fields: Any) -> None:
        self.world = two_pods()
        self.world.submit(**{"steps": 100, **fields})
        self.gets_ready()

    def gets_ready(self) -> None:
        self.world.now += 2.0
        self.world.lower()
        self.world.now += 3.0
        self.goes_on()

    def goes_on(self) -> None:
        for host in self.world.hosts():
            self.world.ready(host)

    def steps(self, first: int, last: int, *, seconds: float = 0.5, **fields: Any) -> None:
        for number in range(first, last + 1):
            self.world.now += seconds
            told = {"time": self.world.now, "seconds": seconds, "exposed_seconds": 0.0, **fields}
            for host in self.world.hosts():
                if self.world.job().state is JobState.RUNNING:
                    self.world.apply(host, [number], **told)

    def step_of(self, pod: str, number: int, seconds: float = 0.5) -> None:
        """One pod tells of a step that the others have not told of."""
        self.world.now += seconds
        told = {"time": self.world.now, "seconds": seconds, "exposed_seconds": 0.0}
        self.world.apply(ref(pod), [number], **told)

    def passes(self, seconds: float) -> None:
        self.world.now += seconds

    def spent(self, now: float | None = None) -> dict[str, float]:
        """What is not nothing, and that it all is what passed."""
        job, now = self.world.job(), self.world.now if now is None else now
        spent = goodput.time_seconds(job, now)
        assert set(spent) == {str(category) for category in Category}
        assert job.admitted_at is not None
        end = now if job.finished_at is None else job.finished_at
        assert sum(spent.values()) == pytest.approx(end - job.admitted_at)
        return {name: round(seconds, 6) for name, seconds in spent.items() if seconds > 1e-6}


def test_time_before_the_first_step_is_startup_and_what_all_waited_for_to_compile() -> None:
    world = two_pods()
    world.submit(steps=100)
    assert goodput.goodput(world.job(), world.now) is None
    world.now += 2.0
    assert goodput.time_seconds(world.job(), world.now)["startup"] == 2.0
    assert goodput.goodput(world.job(), world.now) == 0.0
    course = Course()
    assert course.spent() == BEGAN


def test_compiling_takes_no_longer_than_the_start() -> None:
    world = two_pods()
    world.start()
    assert sum(goodput.time_seconds(world.job(), world.now).values()) == 0.0


def test_time_of_steps_is_what_their_hosts_say() -> None:
    course = Course()
    waits = {"exposed_seconds": 0.1, "data_wait_seconds": 0.05, "pause_seconds": 0.15}
    course.steps(1, 10, **waits)
    parts = {"exposed_exchange": 1.0, "data_wait": 0.5, "checkpoint": 1.5}
    assert course.spent() == {**BEGAN, "productive": 2.0, **parts}
    assert goodput.goodput(course.world.job(), course.world.now) == pytest.approx(0.2)
    course.passes(0.3)
    assert course.spent() == {**BEGAN, "productive": 2.0, **parts, "idle": 0.3}


def test_time_after_the_last_step_is_its_checkpoints() -> None:
    course = Course(steps=4, checkpoint_every=4)
    course.steps(1, 4)
    course.passes(3.0)
    assert course.spent() == {**BEGAN, "productive": 2.0, "checkpoint": 3.0}
    saves(course.world, 4)
    assert course.world.job().state is JobState.SUCCEEDED
    course.passes(99.0)
    assert course.spent() == {**BEGAN, "productive": 2.0, "checkpoint": 3.0}


def test_time_from_the_last_step_before_a_loss_until_steps_run_again_is_recovery() -> None:
    course = Course(on_pod_loss="wait")
    course.steps(1, 4)
    course.passes(15.0)
    assert course.spent() == {**BEGAN, "productive": 2.0, "idle": 15.0}
    course.world.loses("pod-1")
    course.world.hold(ref("pod-0"), 4)
    course.passes(40.0)
    expected = {**BEGAN, "productive": 2.0, "recovery": 55.0}
    assert course.spent() == expected
    course.world.pod_joins("pod-1", incarnation="b")
    course.passes(2.0)
    course.goes_on()
    assert course.spent() == {**expected, "recovery": 57.0}
    course.steps(5, 8)
    assert course.spent() == {**BEGAN, "productive": 4.0, "recovery": 57.0}
    job = course.world.job()
    assert (job.account.recoveries, job.totals.rerun_steps) == ({"PodLost": 1}, 0)


def test_step_that_a_survivor_applied_counts_when_its_peer_is_lost() -> None:
    course = Course(on_pod_loss="wait")
    course.steps(1, 4)
    course.step_of("pod-0", 5)
    course.world.loses("pod-1")
    course.world.hold(ref("pod-0"), 5)
    course.passes(9.5)
    course.world.pod_joins("pod-1", incarnation="b")
    assert course.spent() == {**BEGAN, "productive": 2.5, "recovery": 9.5}
    course.goes_on()
    assert course.spent() == {**BEGAN, "productive": 2.5, "recovery": 9.5}


def test_step_that_only_the_lost_pod_applied_is_rework_and_counted_when_run_again() -> None:
    course = Course(on_pod_loss="wait")
    course.steps(1, 4)
    course.step_of("pod-1", 5)
    course.world.loses("pod-1")
    course.world.hold(ref("pod-0"), 4)
    course.passes(9.5)
    course.world.pod_joins("pod-1", incarnation="b")
    course.goes_on()
    expected = {**BEGAN, "productive": 2.0, "rework": 0.5, "recovery": 9.5}
    assert course.spent() == expected and course.world.job().totals.rerun_steps == 0
    course.steps(5, 6)
    assert course.spent() == {**expected, "productive": 3.0}
    assert course.world.job().totals.rerun_steps == 1


def test_one_more_pod_is_taken_in_during_recovery() -> None:
    course = Course(on_pod_loss="shrink")
    course.steps(1, 2)
    course.world.loses("pod-1")
    course.world.hold(ref("pod-0"), 2)
    course.goes_on()
    course.steps(3, 4)
    (back,) = course.world.pod_joins("pod-1", incarnation="b")
    assert course.world.job().program is not None
    course.world.happens(events.HostWarmed(back, course.world.job().program.digest))
    course.passes(1.0)
    course.world.hold(ref("pod-0"), 4)
    course.passes(1.0)
    course.goes_on()
    assert course.spent() == {**BEGAN, "productive": 2.0, "recovery": 2.0}
    assert course.world.job().account.recoveries == {"PodLost": 1, "Growing": 1}


def lost_as_a_whole() -> Course:
    """At step 6, two steps after its checkpoint, and started again on two other pods."""
    course = Course(on_pod_loss="wait", checkpoint_every=4)
    course.steps(1, 4)
    saves(course.world, 4)
    course.steps(5, 6)
    course.passes(1.0)
    for pod in ("pod-0", "pod-1"):
        course.world.loses(pod)
    course.passes(10.0)
    for pod in ("pod-0", "pod-1"):
        course.world.pod_joins(pod, incarnation="b")
    return course


def test_start_from_a_checkpoint_undoes_the_steps_after_it() -> None:
    course = lost_as_a_whole()
    assert course.world.job().state is JobState.ADMITTED and course.world.job().attempt == 2
    assert course.spent() == {**BEGAN, "productive": 2.0, "rework": 1.0, "recovery": 11.0}
    course.gets_ready()
    # What starting costs the second time, something that went wrong costs.
    expected = {**BEGAN, "productive": 2.0, "rework": 1.0, "recovery": 16.0}
    assert course.spent() == expected and course.world.job().totals.rerun_steps == 0
    course.steps(5, 5)
    assert course.world.job().totals.rerun_steps == 1
    course.steps(6, 9)
    assert course.world.job().totals.rerun_steps == 2
    assert course.spent() == {**expected, "productive": 4.5}


def test_job_that_waits_for_pods_anew_recovers() -> None:
    course = Course(on_pod_loss="wait")
    course.steps(1, 4)
    for pod in ("pod-0", "pod-1"):
        course.world.loses(pod)
    course.passes(10.0)
    assert course.world.job().state is JobState.PENDING
    assert course.spent() == {**BEGAN, "productive": 2.0, "recovery": 10.0}


def test_pod_that_is_lost_during_the_start_is_recovered_from() -> None:
    world = two_pods()
    world.pod_joins("pod-2")
    world.submit(on_pod_loss="wait")
    world.lower()
    world.now += 3.0
    world.loses("pod-1")
    for host in (ref("pod-0"),):
        world.release(host, world.state.pods["pod-0"].assignment)  # type: ignore[arg-type]
    assert world.job().state is JobState.ADMITTED
    world.now += 4.0
    spent = goodput.time_seconds(world.job(), world.now)
    assert (spent["startup"], spent["recovery"]) == (3.0, 4.0)
    assert world.job().account.recoveries == {"PodLost": 1}


def test_rewind_undoes_steps_and_the_way_back_is_recovery() -> None:
    course = Course(checkpoint_every=4, spikes=POLICY)
    for first in range(1, 17, 4):
        course.steps(first, first + 3, loss=2.0)
        saves(course.world, first + 3)
    course.steps(17, 17, loss=9.0)
    assert course.world.job().state is JobState.STARTING
    course.passes(3.0)
    expected = {**BEGAN, "productive": 6.0, "rework": 2.5, "recovery": 3.0}
    assert course.spent() == expected
    course.goes_on()
    assert course.spent() == expected
    course.steps(13, 20, loss=2.0)
    assert course.spent() == {**expected, "productive": 10.0}
    assert course.world.job().totals.rerun_steps == 5
    assert course.world.job().account.recoveries == {"Spike": 1}


def test_rewind_past_what_one_pod_had_told_of_already_loses_that_too() -> None:
    course = Course(spikes=POLICY, checkpoint_every=4)
    course.steps(1, 16, loss=2.0)
    saves(course.world, 16)
    course.world.apply(ref("pod-0"), [17, 18], loss=9.0, time=course.world.now, seconds=0.5)
    course.passes(1.0)
    course.world.apply(ref("pod-1"), [17], loss=9.0, time=course.world.now, seconds=0.5)
    assert course.world.job().state is JobState.STARTING
    totals = course.world.job().totals
    assert totals.furthest == 18
    assert totals.undone.seconds == pytest.approx(1.0 + 0.5)


def test_job_that_is_tried_again_was_suspended_in_between() -> None:
    course = Course(on_pod_loss="fail")
    course.steps(1, 4)
    course.passes(1.0)
    course.world.loses("pod-1")
    ended = course.world.job()
    assert ended.state is JobState.FAILED
    assert course.spent() == {**BEGAN, "productive": 2.0, "idle": 1.0}
    course.world.release(ref("pod-0"), course.world.state.pods["pod-0"].assignment)  # type: ignore[arg-type]
    course.passes(100.0)
    # As the store has it.
    kept = dataclasses.replace(ended.account, totals=ended.totals)
    ended = dataclasses.replace(ended, account=kept, progress=None, finished_at=None)
    course.world.happens(events.RetryRequested(ended, "ada"))
    course.passes(20.0)
    course.world.pod_joins("pod-1", incarnation="b")
    assert course.world.job().state is JobState.ADMITTED
    course.gets_ready()
    again = {"startup": 9.0, "compile": 1.0, "rework": 2.0, "idle": 1.0, "suspended": 120.0}
    assert course.spent() == again
    course.steps(1, 4)
    assert course.spent() == {**again, "productive": 2.0}
    assert course.world.job().totals.rerun_steps == 4


def test_time_of_a_cancelled_job_stands_still() -> None:
    course = Course()
    course.steps(1, 4)
    course.world.happens(events.CancelRequested("job-1", "ada"))
    assignment = course.world.assignment()
    course.step_of("pod-0", 5)
    course.step_of("pod-1", 5, seconds=0.0)
    for pod in ("pod-0", "pod-1"):
        course.world.release(ref(pod), assignment)
    assert course.world.job().state is JobState.CANCELLED
    expected = {**BEGAN, "productive": 2.5}
    assert course.spent() == course.spent(course.world.now + 99.0) == expected


def test_time_of_a_start_that_is_cancelled_is_startup_and_then_nothing() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    world.now += 3.0
    world.happens(events.CancelRequested("job-1", "ada"))
    world.now += 1.0
    spent = goodput.time_seconds(world.job(), world.now)
    assert (spent["startup"], spent["idle"], sum(spent.values())) == (3.0, 1.0, 4.0)


def test_restarted_controller_counts_on() -> None:
    course = Course(on_pod_loss="wait")
    course.steps(1, 4)
    course.passes(1.0)
    before = course.spent()
    course.world.restart(list(course.world.state.jobs.values()))
    assert course.spent() == before
    course.passes(1.0)
    for pod in ("pod-0", "pod-1"):
        course.world.comes_back(ref(pod), granted=68)
    told = {"seconds": 0.5, "exposed_seconds": 0.0}
    for pod in ("pod-0", "pod-1"):
        for number in range(5, 9):
            time = course.world.now - 2.0 + (number - 4) * 0.5
            course.world.apply(ref(pod), [number], time=time, **told)
    assert course.spent() == {**BEGAN, "productive": 4.0}
    course.world.restart(list(course.world.state.jobs.values()))
    course.world.comes_back(ref("pod-0"))
    course.world.passes(25.0)
    assert course.world.job().state is JobState.RECOVERING
    spent = course.spent()
    assert spent["recovery"] >= 20.0 and spent["productive"] == 4.0 and "idle" not in spent


def test_figures_of_hosts_that_measured_more_than_passed_are_scaled_to_what_passed() -> None:
    course = Course()
    course.world.now += 2.0
    for host in course.world.hosts():
        course.world.apply(host, range(1, 9), exposed_seconds=0.1)
    spent = course.spent()
    assert spent == {**BEGAN, "productive": 1.6, "exposed_exchange": 0.4}


def test_clock_that_goes_back_stands_still() -> None:
    course = Course()
    course.steps(1, 4)
    spent = course.spent()
    passed = goodput.time_seconds(course.world.job(), course.world.now - 90.0)
    assert sum(passed.values()) == sum(BEGAN.values()) and min(passed.values()) == 0.0
    assert goodput.time_seconds(course.world.job(), course.world.now) == pytest.approx(
        {**dict.fromkeys(map(str, Category), 0.0), **spent}
    )


def test_counters_take_nothing_back_and_count_rework_when_it_is_done() -> None:
    course = lost_as_a_whole()
    seen = [passed(course)]
    assert seen[-1]["productive"] == 3.0 and seen[-1]["rework"] == 0.0
    course.gets_ready()
    seen.append(passed(course))
    course.steps(5, 5, seconds=0.75)
    seen.append(passed(course))
    course.steps(6, 9)
    seen.append(passed(course))
    assert (seen[-1]["productive"], seen[-1]["rework"]) == (4.5, 1.25)
    assert seen[-1]["recovery"] == 16.0
    for before, after in itertools.pairwise(seen):
        assert all(after[name] >= seconds for name, seconds in before.items())
    assert sum(seen[-1].values()) == pytest.approx(sum(course.spent().values()))


def passed(course: Course) -> Mapping[str, float]:
    return goodput.passed_seconds(course.world.job(), course.world.now)


def test_counters_leave_out_what_is_not_told_apart_yet() -> None:
    world = two_pods()
    world.submit()
    world.now += 2.0
    assert set(goodput.passed_seconds(world.job(), world.now).values()) == {0.0}
    course = Course()
    course.steps(1, 2)
    course.passes(5.0)
    assert {name: s for name, s in passed(course).items() if s} == {**BEGAN, "productive": 1.0}


_MOVES = st.sampled_from(("step", "wait", "loss of one", "loss of all", "restart", "save"))


@given(st.lists(st.tuples(_MOVES, st.floats(0.01, 5.0)), max_size=25))
def test_every_second_of_any_course_has_one_category(moves: list[tuple[str, float]]) -> None:
    """Hosts' clocks agree with the controller's, so nothing is scaled: productive and rework are
    exactly the steps that count and those that do not."""
    course = Course(on_pod_loss="wait", checkpoint_every=1, steps=1000)
    on_disk, counted, undone, incarnation = 0, [0.0], 0.0, "a"
    # Since the last step of this generation, which the next one's time is counted from.
    waited: float | None = None
    before = passed(course)
    for move, seconds in moves:
        number = course.world.job().progress.merged  # type: ignore[union-attr]
        if move == "wait":
            course.passes(seconds)
            waited = None if waited is None else waited + seconds
        elif move == "save" and number > on_disk:
            saves(course.world, number)
            on_disk = number
        elif move == "restart" and waited is not None:
            restart_controller(course)
        elif move.startswith("loss"):
            course.passes(seconds)
            waited = None
            course.world.loses("pod-1", incarnation=incarnation)
            if move == "loss of all":
                course.world.loses("pod-0", incarnation=incarnation)
                undone += sum(counted[on_disk + 1 :])
                counted = counted[: on_disk + 1]
                incarnation = chr(ord(incarnation) + 1)
                course.world.pod_joins("pod-0", incarnation=incarnation)
                course.world.pod_joins("pod-1", incarnation=incarnation)
                course.gets_ready()
            else:
                course.world.hold(ref("pod-0", incarnation=incarnation), number)
                course.passes(seconds)
                course.world.pod_joins("pod-1", incarnation=incarnation)
                course.goes_on()
        if move == "step" or move.startswith("loss"):
            # Losses without a step in between would fail the job.
            number = course.world.job().progress.merged + 1  # type: ignore[union-attr]
            course.steps(number, number, seconds=seconds)
            counted.append(seconds + (waited or 0.0))
            waited = 0.0
        spent = course.spent()
        assert spent.get("productive", 0.0) == pytest.approx(sum(counted), abs=1e-5)
        assert spent.get("rework", 0.0) == pytest.approx(undone, abs=1e-5)
        now = passed(course)
        assert all(now[name] >= before[name] - 1e-9 for name in before)
        before = now


def restart_controller(course: Course) -> None:
    hosts = course.world.hosts()
    course.world.restart(list(course.world.state.jobs.values()))
    for host in hosts:
        course.world.comes_back(host)


def test_account_without_a_phase_has_no_open_end() -> None:
    spent = Account().seconds(0.0, 10.0, Totals(), Category.IDLE)
    assert set(spent.values()) == {0.0}


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_some_category(phase: Phase) -> None:
    account = Account(phase=phase, until=0.0)
    assert sum(account.seconds(0.0, 10.0, Totals(), Category.IDLE).values()) == 10.0
    moved = account.moved(None, 0.0, 10.0, Totals(), Category.IDLE)
    assert sum(moved.booked.values()) == 10.0


def test_no_step_is_productive_for_less_than_no_time() -> None:
    totals = Totals(timeline=Durations(seconds=1.0, exposed_seconds=0.75, pause_seconds=0.5))
    account = Account(phase=Phase.RUNNING, until=0.0)
    spent = account.seconds(0.0, 10.0, totals, Category.IDLE)
    assert spent["productive"] == 0.0 and math.isclose(spent["exposed_exchange"], 0.75)
