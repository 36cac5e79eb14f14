from __future__ import annotations

import dataclasses

import pytest

from controller.core import goodput, step
from controller.core.goodput import StepSeconds
from controller.core.job import Job, JobState, Reason
from controller.core.step import Progress
from tests.controller.core.world import record, spec

JOB = Job("job-1", spec(), JobState.RUNNING, Reason("", ""), created_at=0.0)


def _progress(*seconds: float) -> Progress:
    records = [
        record(
            number,
            seconds=duration,
            exposed_seconds=0.1,
            data_wait_seconds=0.05,
            pause_seconds=0.15,
        )
        for number, duration in enumerate(seconds, start=1)
    ]
    return step.report(step.begin(len(seconds), ["pod-0"]), "pod-0", records)[0]


def _job(*seconds: float, **fields: object) -> Job:
    return dataclasses.replace(JOB, progress=_progress(*seconds), **fields)


def test_rate_is_tokens_over_the_recent_steps() -> None:
    assert goodput.tokens_per_second(_job(0.5, 1.5)) == 1024 * 2 / 2.0


@pytest.mark.parametrize(
    "job", [JOB, dataclasses.replace(JOB, progress=step.begin(4, ["pod-0"])), _job(0.0)]
)
def test_rate_is_absent_when_no_time_was_measured(job: Job) -> None:
    assert goodput.tokens_per_second(job) is None


@pytest.mark.parametrize(
    ("rate", "flops", "peak", "share"),
    [
        (100.0, 10.0, 4000.0, 0.25),
        (None, 10.0, 4000.0, None),
        (100.0, 0.0, 4000.0, None),
        (100.0, 10.0, None, None),
        (100.0, 10.0, 0.0, None),
    ],
)
def test_utilisation_is_absent_when_a_part_of_it_is_unknown(
    rate: float | None, flops: float, peak: float | None, share: float | None
) -> None:
    assert goodput.utilisation(rate, flops, peak) == share


def test_step_seconds_are_ranks_of_the_recent_steps() -> None:
    job = _job(*(float(number) for number in range(1, 21)))
    assert goodput.step_seconds(job) == StepSeconds(p50=10.5, p95=19.0, max=20.0)
    assert goodput.step_seconds(_job(2.0)) == StepSeconds(2.0, 2.0, 2.0)


def test_step_seconds_are_absent_before_the_first_step() -> None:
    assert goodput.step_seconds(JOB) is None
    started = dataclasses.replace(JOB, progress=step.begin(4, ["pod-0"]))
    assert goodput.step_seconds(started) is None


def test_time_is_nowhere_before_admission() -> None:
    assert goodput.time_seconds(JOB, 100.0) == {}
    assert goodput.goodput(JOB, 100.0) is None


def test_time_before_the_first_window_is_startup() -> None:
    job = dataclasses.replace(JOB, admitted_at=10.0)
    spent = goodput.time_seconds(job, 14.0)
    assert spent["startup"] == 4.0 and sum(spent.values()) == 4.0
    assert goodput.goodput(job, 14.0) == 0.0
    assert goodput.goodput(job, 10.0) is None


def test_categories_sum_to_the_wall_time() -> None:
    job = _job(1.0, 2.0, admitted_at=10.0, started_at=12.0)
    spent = goodput.time_seconds(job, 20.0)
    expected = {
        "startup": 2.0,
        "compute": 2.4,
        "exposed_exchange": 0.2,
        "data_wait": 0.1,
        "evaluation_and_checkpoint": 0.3,
        "rework": 0.0,
        "recovery": 0.0,
        "idle": 5.0,
    }
    assert spent == pytest.approx(expected)
    assert sum(spent.values()) == pytest.approx(10.0)
    assert goodput.goodput(job, 20.0) == pytest.approx(0.24)


def test_time_of_an_ended_job_stands_still() -> None:
    job = _job(1.0, admitted_at=10.0, started_at=10.0, finished_at=12.0)
    assert goodput.time_seconds(job, 12.0) == goodput.time_seconds(job, 99.0)
    never_ran = dataclasses.replace(JOB, admitted_at=10.0, finished_at=12.0)
    assert goodput.time_seconds(never_ran, 99.0)["startup"] == 2.0


@pytest.mark.parametrize("now", [9.0, 10.0, 12.9, 13.0])
def test_no_time_is_negative_when_hosts_measured_more_than_passed_here(now: float) -> None:
    job = _job(1.0, 2.0, admitted_at=10.0, started_at=10.1)
    spent = goodput.time_seconds(job, now)
    assert min(spent.values()) == spent["idle"] == 0.0
    share = goodput.goodput(job, now)
    assert share is not None and 0.0 < share <= 1.0
