from __future__ import annotations

import itertools

import pytest

from controller.core.errors import InvalidTransition
from controller.core.job import FINAL_STATES, TRANSITIONS, Job, JobState, Move, Reason, diagram
from tests.controller.core.world import spec

WHY = Reason("Because", "a test says so")


def _job(state: JobState) -> Job:
    return Job("job-1", spec(), state, WHY, created_at=0.0)


@pytest.mark.parametrize(("state", "move"), list(itertools.product(JobState, Move)))
def test_job_moves_only_as_the_table_says(state: JobState, move: Move) -> None:
    target = TRANSITIONS.get((state, move))
    if target is None:
        with pytest.raises(InvalidTransition, match=f"job job-1 is {state}.*'{move}'"):
            _job(state).moved(move, WHY)
    else:
        moved = _job(state).moved(move, Reason("New", "reason"))
        assert (moved.state, moved.reason.code) == (target, "New")


def test_only_a_retry_leads_out_of_an_end_and_never_out_of_success() -> None:
    ways_out = {(state, move) for state, move in TRANSITIONS if state in FINAL_STATES}
    assert ways_out == {(JobState.FAILED, Move.RETRY), (JobState.CANCELLED, Move.RETRY)}
    assert {state for state in JobState if _job(state).is_final} == FINAL_STATES


def test_every_state_that_can_be_reached_leads_to_an_end() -> None:
    reached = {JobState.PENDING} | set(TRANSITIONS.values())
    ending = set(FINAL_STATES)
    for _ in JobState:
        ending |= {source for (source, _), target in TRANSITIONS.items() if target in ending}
    assert reached <= ending


def test_every_live_state_can_be_cancelled_or_is_being_cancelled() -> None:
    live = {state for state, _ in TRANSITIONS} - {JobState.CANCELLING} - FINAL_STATES
    assert all((state, Move.CANCEL) in TRANSITIONS for state in live)


def test_diagram_has_an_arrow_for_every_row() -> None:
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    for (source, move), target in TRANSITIONS.items():
        arrow = next(line for line in lines if line.startswith(f"    {source} --> {target}: "))
        assert move in arrow.partition(": ")[2].split(", ")
    assert "    [*] --> PENDING" in lines
    assert {f"    {state} --> [*]" for state in FINAL_STATES} <= set(lines)
