"""Workers, pods and the controller are killed at any moment, and what comes out is the same."""

from __future__ import annotations

import pytest
import yaml

from landbridge import chaos

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KILLS = 10
SEED = 3
"""Its ten take all three kinds of victims, and most of the places."""


def test_ten_kills_cost_no_step_and_change_no_bit(make_spec, share_warm, tmp_path):
    share_warm(tmp_path)
    document = make_spec(
        data={"epochs": 1000},
        train={"steps": 600, "digest_every": 50},
        checkpoint={"every": 100},
        placement={"on_pod_loss": "wait"},
    )
    spec = tmp_path / "chaos.yaml"
    spec.write_text(yaml.safe_dump(document))
    kills: list[chaos.Kill] = []
    outcome = chaos.run(
        spec, seed=SEED, kills=KILLS, pods=2, state_dir=tmp_path, on_kill=kills.append
    )
    told = "\n".join(map(str, [outcome, *kills]))
    assert outcome["state"] == "SUCCEEDED", told
    assert outcome["digest_equal"] and outcome["steps_equal"], told
    assert outcome["tried"] == outcome["recovered"] == KILLS, told
    assert set(outcome["targets"]) == set(chaos.TARGETS), told
