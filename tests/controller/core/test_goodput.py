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
