import math

import jax
import numpy as np
import pytest

from model.config import AdafactorConfig, AdamWConfig, SlotConfig
from model.learning_rate import learning_rate
from model.palm_program import palm_program
from model.schedule import ConstantSchedule, CosineSchedule, RsqrtSchedule

PEAK = 3e-3
COSINE = CosineSchedule(warmup_steps=100, decay_steps=10_000, final_ratio=0.1)


def rate(schedule, step):
    return float(jax.jit(learning_rate(PEAK, schedule))(np.int32(step - 1)))


def cosine(step):
    """The closed formula, in float64."""
    if step <= COSINE.warmup_steps:
        return step / COSINE.warmup_steps
    share = min(1.0, (step - COSINE.warmup_steps) / (COSINE.decay_steps - COSINE.warmup_steps))
    return COSINE.final_ratio + (1 - COSINE.final_ratio) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("step", "ratio"),
    [(1, 0.01), (50, 0.5), (100, 1.0), (5_050, 0.55), (10_000, 0.1), (10_001, 0.1), (1 << 30, 0.1)],
)
def test_cosine_passes_its_landmarks(step, ratio):
    assert rate(COSINE, step) == pytest.approx(PEAK * ratio, rel=1e-5)


@pytest.mark.parametrize("step", [1, 2, 99, 100, 101, 1_000, 2_575, 7_777, 9_999, 20_000])
def test_cosine_equals_the_closed_formula(step):
    assert rate(COSINE, step) == pytest.approx(PEAK * cosine(step), rel=1e-5)


def test_cosine_without_warm_up_starts_at_the_peak_and_may_end_at_zero():
    schedule = CosineSchedule(warmup_steps=0, decay_steps=1_000, final_ratio=0.0)
    assert rate(schedule, 1) == pytest.approx(PEAK, rel=1e-5)
    assert rate(schedule, 1_000) == 0.0


@pytest.mark.parametrize(
    ("schedule", "landmarks"),
    [
        (ConstantSchedule(warmup_steps=4), {1: 0.25, 3: 0.75, 4: 1.0, 5: 1.0, 1 << 30: 1.0}),
        (ConstantSchedule(warmup_steps=0), {1: 1.0, 2: 1.0}),
        (RsqrtSchedule(constant_steps=100), {1: 1.0, 100: 1.0, 400: 0.5, 10_000: 0.1}),
        (RsqrtSchedule(constant_steps=(1 << 31) - 1), {1 << 30: 1.0}),
        (CosineSchedule(warmup_steps=1 << 30, decay_steps=(1 << 31) - 1), {1 << 29: 0.5}),
    ],
)
def test_schedules_pass_their_landmarks(schedule, landmarks):
    for step, ratio in landmarks.items():
        assert rate(schedule, step) == pytest.approx(PEAK * ratio, rel=1e-6)


def test_defaults_are_the_papers_rate_and_a_warm_up_to_the_bit():
    for step in (1, 7, 99, 100, 9_999, 10_000, 10_001, 123_457):
        k = np.float32(step)
        paper = np.float32(1e-2) * np.minimum(np.float32(1), np.sqrt(np.float32(10_000) / k))
        warm_up = np.float32(1e-3) * np.minimum(np.float32(1), k / np.float32(100))
        for config, wanted in ((AdafactorConfig(), paper), (AdamWConfig(), warm_up)):
            got = learning_rate(config.learning_rate, config.schedule)(np.int32(step - 1))
            assert np.float32(got) == wanted


@pytest.mark.parametrize("kind", [AdafactorConfig, AdamWConfig])
@pytest.mark.parametrize(
    "schedule",
    [
        RsqrtSchedule(constant_steps=2),
        CosineSchedule(warmup_steps=2, decay_steps=4),
        ConstantSchedule(warmup_steps=3),
    ],
)
def test_apply_update_records_the_rate_of_the_schedule(small_model, initial_state, kind, schedule):
    config = kind(learning_rate=PEAK, schedule=schedule)
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", small_model, config, slot, (1, 1))
    apply_update = jax.jit(program.components["apply_update"].function)
    params = [np.asarray(x) for x in initial_state[: len(program.groups["params"])]]
    state = [np.zeros(b.shape, b.dtype) for b in program.groups["optimizer"]]
    fields = program.groups["record"][0].fields
    for step in range(1, 6):
        gradients = [np.full(b.shape, 0.01, b.dtype) for b in program.buffers(program.gradients)]
        gradients[-3:] = [np.float32(1)] * 3
        *arrays, record = apply_update(*params, *state, *gradients)
        params, state = arrays[: len(params)], arrays[len(params) :]
        recorded = record[fields.index("learning_rate")]
        assert float(recorded) == pytest.approx(rate(schedule, step), rel=1e-6)
