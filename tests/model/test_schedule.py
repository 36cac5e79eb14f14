import dataclasses

import pytest

from model.config import (
    AdafactorConfig,
    AdamWConfig,
    optimizer_from_spec,
    problems,
)
from model.schedule import ConstantSchedule, CosineSchedule, RsqrtSchedule


def found(optimizer):
    train = {"microbatch": 4, "sequence_length": 256, "optimizer": optimizer}
    return problems({"model": {"preset": "palm-tiny"}, "train": train, "mesh": {}})


@pytest.mark.parametrize(
    "optimizer",
    [
        {"schedule": {"kind": "rsqrt", "constant_steps": 500}},
        {"schedule": {"kind": "cosine", "warmup_steps": 0, "decay_steps": 1}},
        {"schedule": {"constant_steps": 500}},
        {"kind": "adamw", "schedule": {"warmup_steps": 0}},
        {"kind": "adamw", "schedule": {"kind": "rsqrt"}},
        {"kind": "adamw", "schedule": {}},
    ],
)
def test_problems_sound_schedule_finds_none(optimizer):
    assert found(optimizer) == []


@pytest.mark.parametrize(
    ("optimizer", "pointer", "hint"),
    [
        ({"schedule": "cosine"}, "", "{kind: rsqrt}"),
        ({"kind": "adamw", "schedule": 3}, "", "{kind: constant}"),
        ({"schedule": {"kind": "cosin"}}, "/kind", "did you mean 'cosine'?"),
        ({"schedule": {"kind": "step"}}, "/kind", "one of: rsqrt, cosine, constant"),
        ({"schedule": {"kind": ["cosine"]}}, "/kind", "did you mean 'cosine'?"),
        ({"schedule": {"constant_step": 5}}, "/constant_step", "did you mean 'constant_steps'?"),
        (
            {"schedule": {"kind": "cosine", "peak": 5}},
            "/peak",
            "known keys: decay_steps, final_ratio, kind, warmup_steps",
        ),
        (
            {"schedule": {"kind": "cosine", "final_ratio": 1.5}},
            "/final_ratio",
            "a value from 0.0 to 1.0",
        ),
        (
            {"schedule": {"kind": "cosine", "warmup_steps": 10, "decay_steps": 10}},
            "/decay_steps",
            "decay_steps counts from the first step; more than warmup_steps",
        ),
        (
            {"schedule": {"kind": "cosine", "decay_steps": 99}},
            "/decay_steps",
            "decay_steps counts from the first step; more than warmup_steps",
        ),
    ],
)
def test_problems_wrong_schedule_points_at_it_with_a_hint(optimizer, pointer, hint):
    (problem,) = found(optimizer)
    assert (problem.pointer, problem.hint) == (f"/train/optimizer/schedule{pointer}", hint)


@pytest.mark.parametrize(
    ("optimizer", "key", "hint"),
    [
        ({"constant_steps": 5}, "constant_steps", "{kind: rsqrt, constant_steps: ...}"),
        ({"kind": "adamw", "decay_steps": 5}, "decay_steps", "{kind: cosine, decay_steps: ...}"),
    ],
)
def test_problems_key_of_a_schedule_beside_it_says_where_it_belongs(optimizer, key, hint):
    (problem,) = found(optimizer)
    assert problem.pointer == f"/train/optimizer/{key}"
    assert problem.hint == f"it belongs to schedule: {hint}"


def test_problems_of_optimizer_and_schedule_are_found_at_once():
    wrong = found({"beta1": 2, "schedule": {"kind": "cosine", "decay_steps": 0, "ratio": 1}})
    assert sorted(problem.pointer.removeprefix("/train/optimizer/") for problem in wrong) == [
        "beta1",
        "schedule/decay_steps",
        "schedule/ratio",
    ]


def test_optimizer_from_spec_without_schedule_has_its_own():
    assert optimizer_from_spec({}).schedule == RsqrtSchedule(constant_steps=10_000)
    assert optimizer_from_spec({"kind": "adamw"}).schedule == ConstantSchedule(warmup_steps=100)


def test_optimizer_from_spec_schedule_without_kind_is_of_the_optimizers_own():
    shorter = optimizer_from_spec({"schedule": {"constant_steps": 7}})
    assert shorter == AdafactorConfig(schedule=RsqrtSchedule(constant_steps=7))
    longer = optimizer_from_spec({"kind": "adamw", "schedule": {"warmup_steps": 7}})
    assert longer == AdamWConfig(schedule=ConstantSchedule(warmup_steps=7))


@pytest.mark.parametrize(
    "schedule",
    [RsqrtSchedule(constant_steps=3), CosineSchedule(final_ratio=0.2), ConstantSchedule()],
)
def test_optimizer_from_spec_takes_back_what_was_written_out(schedule):
    config = AdamWConfig(schedule=schedule)
    written = {"kind": "adamw", **dataclasses.asdict(config)}
    assert written["schedule"]["kind"] == schedule.kind
    assert found(written) == []
    assert optimizer_from_spec(written) == config
