"""Lives of a fleet by the hundred, and by the thousand in `make soak`. Each follows from its seed,
which a failure names: `Fleet(seed, pods, on_pod_loss).run(faults)` is the same life again."""

from __future__ import annotations

import os

import pytest

from controller.core.job import JobState
from tests.scenarios.simulation import Fleet, digest_after, ends_alike

EXAMPLES = int(os.environ.get("LANDBRIDGE_EXAMPLES", "1"))
SEEDS = 8 * EXAMPLES
"""Of each kind."""

END_FOR_A_REASON = {"CrashLoop", "PodLost", "LinkDown"}


@pytest.mark.timeout(60 * EXAMPLES)
@pytest.mark.parametrize("faults", [0, 3, 12])
@pytest.mark.parametrize("on_pod_loss", ["wait", "shrink", "fail"])
@pytest.mark.parametrize("pods", [2, 3, 4])
def test_every_life_of_a_fleet_ends_in_the_same_state_or_for_a_reason(
    pods: int, on_pod_loss: str, faults: int
) -> None:
    for seed in range(SEEDS):
        fleet = Fleet(seed, pods, on_pod_loss)
        try:
            job = fleet.run(faults)
            if job.state is JobState.SUCCEEDED:
                ends_alike(fleet, job)
            else:
                assert faults and job.reason.code in END_FOR_A_REASON, job.reason
                assert on_pod_loss == "fail" or job.reason.code == "CrashLoop", job.reason
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_states_form_a_chain() -> None:
    assert len({digest_after(step) for step in range(5)}) == 5
