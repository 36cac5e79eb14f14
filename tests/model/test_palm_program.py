import pathlib
import sysconfig

import jax
import numpy as np
import pytest

from model.config import AdafactorConfig, AdamWConfig, ModelConfig, SlotConfig
from model.optimizer import build_optimizer
from model.palm_program import palm_program
from model.schedule import ConstantSchedule, CosineSchedule
from tests.model.slots import accumulated, contribution, gradients_by_name, run_slot


def batch(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 256, (4, 17), dtype=np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def test_groups_every_component_returns_what_it_declares(small_program):
    for component in small_program.components.values():
        inputs = [buffer.abstract for buffer in small_program.buffers(component.inputs)]
        found = [(x.shape, x.dtype) for x in jax.eval_shape(component.function, *inputs)]
        declared = [
            (b.abstract.shape, b.abstract.dtype) for b in small_program.buffers(component.outputs)
        ]
        assert found == declared


def test_groups_state_that_mirrors_a_parameter_is_placed_like_it(small_model):
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", small_model, AdafactorConfig(), slot, (2, 2))
    params = {buffer.name: buffer for buffer in program.groups["params"]}
    for name in program.gradients:
        for buffer in program.groups[name] if name != "metrics" else ():
            assert buffer.spec == params[buffer.name].spec
    for buffer in program.groups["optimizer"]:
        kind, _, name = buffer.name.partition("/")
        if kind == "steps":
            assert buffer.spec == ()
        else:
            assert (buffer.shape, buffer.spec) == (params[name].shape, params[name].spec)
    query = params["layers/attention/query"]
    assert query.spec == (None, ("data",), ("model",), None)


def test_slot_metrics_agree_with_evaluate(small_program, functions, initial_state):
    num_params = len(small_program.groups["params"])
    params = initial_state[:num_params]
    loss, weight, z_loss = run_slot(small_program, functions, params, batch())["metrics"]
    evaluated = functions["evaluate"](*params, *batch())
    np.testing.assert_allclose([loss, weight, z_loss], evaluated, rtol=1e-6)
    assert weight == 1.0
    assert 0 < z_loss < 0.1 * loss


def test_slot_gradient_matches_a_finite_difference(small_program, functions, initial_state):
    num_params = len(small_program.groups["params"])
    params = list(initial_state[:num_params])
    groups = run_slot(small_program, functions, params, batch())
    gradients = gradients_by_name(small_program, groups)
    rng = np.random.default_rng(1)
    for index, buffer in enumerate(small_program.groups["params"]):
        gradient = gradients[buffer.name]
        direction = rng.choice([-1.0, 1.0], gradient.shape).astype(np.float32)
        direction = direction * np.sign(gradient)  # uphill, so that the difference is not noise
        step = 1e-3 if gradient.size > 100 else 1e-2
        values = []
        for sign in (1, -1):
            moved = [*params]
            moved[index] = params[index] + sign * step * direction * (direction > 0)
            loss, _, z_loss = functions["evaluate"](*moved, *batch())
            values.append(float(loss + z_loss))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(
            float((gradient * direction * (direction > 0)).sum()), rel=0.05, abs=2e-3
        )


def test_accumulate_adds_and_does_nothing_else(small_program, functions, initial_state):
    shapes = [b.shape for b in small_program.buffers(small_program.gradients)]
    rng = np.random.default_rng(2)
    first, second = ([rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(2))
    total = accumulated(small_program, functions, first, second)
    for got, a, b in zip(total, first, second, strict=True):
        np.testing.assert_array_equal(got, a + b)


def test_apply_update_sum_of_equal_slots_equals_one_slot(small_program, functions, initial_state):
    num_params = len(small_program.groups["params"])
    state = initial_state
    one = contribution(small_program, functions, state[:num_params], batch())
    two = accumulated(small_program, functions, one, one)
    for got, wanted in zip(
        functions["apply_update"](*state, *two),
        functions["apply_update"](*state, *one),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


def test_apply_update_record_holds_mean_loss_norm_and_rate(small_program, functions, initial_state):
    num_params = len(small_program.groups["params"])
    state = initial_state
    slots = [
        contribution(small_program, functions, state[:num_params], batch(seed)) for seed in (0, 1)
    ]
    total = accumulated(small_program, functions, *slots)
    loss, grad_norm, rate = np.asarray(functions["apply_update"](*state, *total)[-1])
    assert loss == pytest.approx(np.mean([float(slot[-3]) for slot in slots]))
    squares = sum(np.square(np.asarray(g, np.float64) / 2).sum() for g in total[:-3])
    assert grad_norm == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert rate == np.float32(1e-2)


@pytest.mark.parametrize("optimizer", [AdafactorConfig(), AdamWConfig()])
def test_program_bfloat16_parameters_keep_their_dtype(small_model, optimizer):
    spec = {"preset": "palm-tiny", "num_layers": 1, "model_dim": 32, "param_dtype": "bfloat16"}
    slot = SlotConfig(microbatch=1, sequence_length=8)
    program = palm_program("narrow", ModelConfig.from_spec(spec), optimizer, slot, (1, 1))
    component = program.components["apply_update"]
    inputs = [buffer.abstract for buffer in program.buffers(component.inputs)]
    outputs = jax.eval_shape(component.function, *inputs)
    assert [x.dtype for x in outputs] == [
        buffer.abstract.dtype for buffer in program.buffers(component.outputs)
    ]


@pytest.mark.parametrize(
    "optimizer",
    [
        AdafactorConfig(),
        AdamWConfig(learning_rate=1e-2, schedule=ConstantSchedule(warmup_steps=10)),
        AdamWConfig(learning_rate=1e-2, schedule=CosineSchedule(warmup_steps=10, decay_steps=60)),
    ],
)
def test_training_on_real_text_lowers_the_loss(small_model, small_parameters, optimizer):
    slot = SlotConfig(microbatch=8, sequence_length=64)
    program = palm_program("small", small_model, optimizer, slot, (1, 1))
    step = {name: jax.jit(c.function) for name, c in program.components.items()}
    source = pathlib.Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_bytes()
    text = np.frombuffer(source, np.uint8).astype(np.int32)
    rng, num_params = np.random.default_rng(0), len(program.groups["params"])
    optimizer_state = build_optimizer(optimizer).init(small_parameters)
    state = (*small_parameters.values(), *jax.tree.leaves(optimizer_state))
    losses = []
    for _ in range(60):
        tokens = np.stack([text[i : i + 65] for i in rng.integers(0, len(text) - 65, 8)])
        sums = contribution(program, step, state[:num_params], (tokens[:, :-1], tokens[:, 1:]))
        *state, record = step["apply_update"](*state, *sums)
        losses.append(float(record[0]))
    # A byte costs 3.2 nats when only its frequency is known.
    assert losses[0] > 4.5
    assert np.mean(losses[-10:]) < 3.2


@pytest.mark.parametrize("optimizer", [AdafactorConfig(), AdamWConfig()])
def test_groups_every_array_of_the_optimizer_has_a_name_of_its_own(small_model, optimizer):
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", small_model, optimizer, slot, (1, 1))
    names = [buffer.name for buffer in program.groups["optimizer"]]
    assert len(set(names)) == len(names)
