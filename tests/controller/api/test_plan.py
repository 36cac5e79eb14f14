from __future__ import annotations

from typing import Any

import pytest

from controller.api.conversion import job_spec, normalise
from controller.api.exchange_rules import exchange_problems
from controller.api.plan import plan_document
from controller.api.spec import Spec
from controller.core.cluster import Pod
from controller.core.exchange import ExchangeRule
from model import config
from tests.controller.rig import SPEC, Rig

PALM_540B = {
    **SPEC,
    "model": {"preset": "palm-540b"},
    "train": {
        "steps": 255_000,
        "global_batch": [[0, 512], [50_000, 1024], [115_000, 2048]],
        "microbatch": 256,
        "sequence_length": 2048,
    },
    "placement": {"pods": 2, "mesh": {"data": 256, "model": 12}},
    "exchange": {"dtype": "bfloat16", "overlap": False},
    "assume": {"device": "tpu-v4", "tokens_per_second": 238.3e3, "tokens": 780e9},
}


def planned(**changes: Any) -> dict[str, Any]:
    return plan_document(Spec.model_validate({**PALM_540B, **changes}), [])


def codes(plan: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in plan["warnings"]]


async def test_palm_is_planned_over_rest(controller: Rig) -> None:
    answer = await controller.http.post("/api/v1/jobs:plan", json=PALM_540B)
    plan = answer.json()
    assert answer.status_code == 200, plan
    assert plan["mfu"] == pytest.approx(0.462, abs=5e-4)
    assert plan["hfu"] == pytest.approx(0.578, abs=5e-4)
    assert plan["days"] == pytest.approx(37.9, abs=0.1)
    assert plan["tokens_per_step"] == 2048 * 2048
    assert plan["device_memory_bytes"] == 32 << 30
    assert codes(plan) == []


async def test_what_cannot_run_is_planned_and_said(controller: Rig) -> None:
    spec = {**PALM_540B, "priority": 5}
    answer = await controller.http.post("/api/v1/jobs:plan", json=spec)
    assert codes(answer.json()) == ["NotAvailable"]
    refused = await controller.http.post("/api/v1/jobs:validate", json=spec)
    assert refused.status_code == 422


def test_a_device_nobody_knows_is_named_with_those_that_are_known() -> None:
    plan = planned(assume={"device": "tpu-v9", "mfu": 0.4})
    assert codes(plan)[0] == "UnknownDevice"
    assert "tpu-v4" in plan["warnings"][0]["hint"]
    assert plan["step_seconds"] is None


def test_what_does_not_fit_says_by_how_much_and_what_to_do() -> None:
    plan = planned(
        placement={"pods": 2, "mesh": {"data": 8, "model": 12}}, assume={"device": "tpu-v4"}
    )
    (warning,) = [w for w in plan["warnings"] if w["code"] == "OutOfMemory"]
    assert "GiB a device of 32.0 GiB" in warning["message"]
    assert "remat" in warning["hint"]


def test_a_slow_link_is_told_with_its_share_of_the_step() -> None:
    given = {"device": "tpu-v4", "mfu": 0.474, "link_bytes_per_second": 2e8}
    plan = planned(assume=given)
    (warning,) = [w for w in plan["warnings"] if w["code"] == "LinkBound"]
    assert plan["exposed_seconds"] == pytest.approx(7.0, abs=0.1)
    assert warning["message"].startswith("29% of a step")
    assert "LinkBound" not in codes(planned(assume={**given, "link_bytes_per_second": 1e10}))


def test_pod_that_forms_is_counted_on_and_a_lost_one_is_not() -> None:
    spec = Spec.model_validate({**SPEC, "placement": {"pods": 2}})
    forming, lost = Pod("pod-0", 1), Pod("pod-1", 1, is_given_up=True)
    assert "DoesNotFit" not in codes(plan_document(spec, [forming, Pod("pod-1", 1)]))
    (warning,) = plan_document(spec, [forming, lost])["warnings"]
    assert warning["message"] == "needs 2 pods of 1 device; there are: pod-0 of 0"


def test_a_plan_carries_what_the_lowerer_takes() -> None:
    request = planned()["program_request"]
    assert request["mesh"] == {"data": 256, "model": 12}
    assert config.problems(request) == []


@pytest.mark.parametrize(("keep", "warned"), [(3, True), (5, True), (6, False)])
def test_a_rewind_needs_checkpoints_old_enough(keep: int, warned: bool) -> None:
    train = {**SPEC["train"], "spikes": {"rewind_steps": 100, "skip_steps": 200}}
    checkpoint = {"every": 20, "keep": keep}
    document = {**SPEC, "train": train, "checkpoint": checkpoint}
    warnings = plan_document(Spec.model_validate(document), None)["warnings"]
    assert [warning["code"] for warning in warnings] == ["RewindTooShort"] * warned
    if warned:
        oldest = 20 * (keep - 1)
        assert (
            f"the oldest of {keep} checkpoints may be {oldest} steps old" in warnings[0]["message"]
        )
        assert warnings[0]["hint"].startswith("checkpoint.keep: 6")
    kept = {**document, "checkpoint": {**checkpoint, "keep_every": 100}}
    assert plan_document(Spec.model_validate(kept), None)["warnings"] == []


@pytest.mark.parametrize(("every", "warned"), [(30, True), (40, False)])
def test_the_best_checkpoint_needs_saves_and_evaluations_together(every: int, warned: bool) -> None:
    train = {**SPEC["train"], "eval": {"every": 20, "share": 0.1}}
    document = {**SPEC, "train": train, "checkpoint": {"every": every, "keep_best": True}}
    warnings = plan_document(Spec.model_validate(document), None)["warnings"]
    assert [warning["code"] for warning in warnings] == ["BestIsRarelyKnown"] * warned
    if warned:
        assert "only a checkpoint every 60 steps" in warnings[0]["message"]


def test_overlap_exposes_less_of_a_slow_link() -> None:
    given = {"device": "tpu-v4", "mfu": 0.474, "link_bytes_per_second": 2e8}
    late = planned(assume=given)["exposed_seconds"]
    overlapped = planned(assume=given, exchange={"dtype": "bfloat16"})["exposed_seconds"]
    # Of a step of four slots, the last one hides something.
    assert 0.5 * late < overlapped < 0.6 * late


def test_auto_is_planned_as_it_starts_and_with_memory_for_what_it_may_choose() -> None:
    given = {"device": "tpu-v4", "mfu": 0.474, "link_bytes_per_second": 2e8}
    full, alone, auto = (
        planned(assume=given, exchange=exchange)
        for exchange in ({}, {"mode": "auto"}, {"mode": "auto", "allow": ["int8"]})
    )
    assert full["exposed_seconds"] == alone["exposed_seconds"] == auto["exposed_seconds"]
    assert full["bytes_per_device"] == alone["bytes_per_device"]
    assert auto["bytes_per_device"]["residuals"] > 0


def test_what_is_chosen_from_has_every_segment_and_its_bytes() -> None:
    exchange = {"mode": "auto", "budget": 0.1, "allow": ["int8", "bfloat16"], "segments": 4}
    spec = Spec.model_validate({**SPEC, "exchange": exchange})
    policy = job_spec(spec, "").choice
    assert policy is not None and policy.budget == 0.1
    assert [c.rule.dtype for c in policy.candidates] == ["float32", "bfloat16", "int8"]
    assert {c.rule.mode for c in policy.candidates} == {"full"}
    full, half, eighth = ([d.remaining_bytes for d in c.departures] for c in policy.candidates)
    assert len(full) == 5 and full == sorted(full, reverse=True)
    assert half == [0.5 * size for size in full]
    assert eighth == pytest.approx([size * (1 + 4 / 256) / 4 for size in full])
    # What is written out is a specification again, of the same job.
    written = normalise(spec)["exchange"]
    assert written["allow"] == ["bfloat16", "int8"]
    assert exchange_problems({"exchange": written}) == []
    again = Spec.model_validate({**SPEC, "exchange": written})
    assert job_spec(again, "").choice == policy


def test_auto_that_is_allowed_nothing_has_one_way_and_nothing_else_has_a_choice() -> None:
    spec = Spec.model_validate({**SPEC, "exchange": {"mode": "auto"}})
    made = job_spec(spec, "")
    assert made.choice is not None and made.choice.budget == 0.03
    assert [c.rule for c in made.choice.candidates] == [ExchangeRule()]
    assert made.exchange == ExchangeRule()
    assert job_spec(Spec.model_validate(SPEC), "").choice is None
