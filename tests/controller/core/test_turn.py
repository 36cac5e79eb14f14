from __future__ import annotations

import dataclasses

import pytest

from controller.core.cluster import Assignment
from controller.core.errors import UnknownJob
from controller.core.job import Job, JobState, Reason
from controller.core.turn import Entry, State, Turn
from tests.controller.core.world import ref, spec, two_pods

JOB = Job("job-1", spec(), JobState.RUNNING, Reason("", ""), created_at=0.0, generation=3)


def test_turn_leaves_the_state_it_started_from_alone() -> None:
    before = State()
    turn = Turn(before, now=1.0)
    turn.put_job(JOB, Entry("job.tested", "tested", JOB.id))
    assert before.jobs == {}
    assert turn.outcome().state.jobs == {"job-1": JOB}
    assert [entry.kind for entry in turn.outcome().entries] == ["job.tested"]


def test_job_that_has_ended_leaves_the_state_and_is_reported() -> None:
    turn = Turn(State(jobs={"job-1": JOB}), now=1.0)
    ended = dataclasses.replace(JOB, state=JobState.FAILED)
    turn.put_job(ended)
    assert turn.outcome().state.jobs == {}
    assert turn.outcome().changed_jobs == (ended,)


def test_measurements_are_kept_and_are_no_decisions() -> None:
    turn = Turn(State(), now=1.0)
    turn.measure(JOB, ())
    assert turn.jobs == {"job-1": JOB}
    assert turn.outcome().changed_jobs == () and turn.outcome().steps == ()


def test_job_that_is_not_live_is_unknown() -> None:
    with pytest.raises(UnknownJob):
        Turn(State(), now=1.0).job("job-1")


@pytest.mark.parametrize(
    ("assignment", "current"),
    [
        (Assignment("job-1", 3), True),
        (Assignment("job-1", 2), False),
        (Assignment("job-1", 4), False),
        (Assignment("job-2", 3), False),
    ],
)
def test_job_is_current_for_its_present_generation_only(
    assignment: Assignment, current: bool
) -> None:
    turn = Turn(State(jobs={"job-1": JOB}), now=1.0)
    assert (turn.current_job(assignment) is JOB) is current


def test_host_is_known_by_pod_index_and_incarnation() -> None:
    turn = Turn(two_pods().state, now=1.0)
    host = turn.host(ref("pod-0"))
    assert host is not None and host.ref == ref("pod-0")
    for stranger in (ref("pod-0", incarnation="b"), ref("pod-0", 1), ref("pod-9")):
        assert turn.host(stranger) is None


def test_job_is_held_by_hosts_that_were_told_to_prepare_it() -> None:
    world = two_pods()
    world.pod_joins("pod-2")
    world.submit()
    assignment = world.assignment()
    assert Turn(world.state, 1.0).job_held(ref("pod-0"), assignment) is None
    world.lower()
    turn = Turn(world.state, 1.0)
    assert turn.job_held(ref("pod-0"), assignment) is world.job()
    assert turn.job_held(ref("pod-0"), Assignment("job-1", 2)) is None
    assert turn.job_held(ref("pod-2"), assignment) is None
    assert turn.job_held(ref("pod-0", incarnation="b"), assignment) is None
    assert [host.ref for host in turn.holders(assignment)] == [ref("pod-0"), ref("pod-1")]
