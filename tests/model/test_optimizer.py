import jax
import numpy as np
import pytest

from model.config import AdafactorConfig, AdamWConfig
from model.optimizer import build_optimizer
from model.schedule import ConstantSchedule

SHAPES = {"embedding": (6, 4), "layers/mlp/up": (3, 4, 5), "layers/norm/scale": (3, 4)}


def random_arrays(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return {n: (size * rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def clipped(gradients, limit=1.0):
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    return {name: g / max(norm / limit, 1.0) for name, g in gradients.items()}


def rms(name, parameter):
    if not name.startswith("layers/"):
        return np.sqrt((parameter**2).mean())
    return np.stack([np.full(p.shape, np.sqrt((p**2).mean())) for p in parameter])


def reference_adafactor(parameters, gradients_of_steps, first_step=1):
    """Section 5 of the paper in float64: unfactored Adafactor with parameter scaling."""
    parameters = {n: p.astype(np.float64) for n, p in parameters.items()}
    first = {n: np.zeros_like(p) for n, p in parameters.items()}
    second = {n: np.zeros_like(p) for n, p in parameters.items()}
    for k, gradients in enumerate(gradients_of_steps, start=first_step):
        rate = 1e-2 if k <= 10_000 else 1 / np.sqrt(k)
        beta2 = 1 - k**-0.8
        for name, gradient in clipped(gradients).items():
            p = parameters[name]
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            step = rate * rms(name, p) * gradient / np.sqrt(second[name])
            first[name] = 0.9 * first[name] + 0.1 * step
            parameters[name] = p - first[name] - rate**2 * p
    return parameters


def reference_adamw(parameters, gradients_of_steps, config):
    parameters = {n: p.astype(np.float64) for n, p in parameters.items()}
    first = {n: np.zeros_like(p) for n, p in parameters.items()}
    second = {n: np.zeros_like(p) for n, p in parameters.items()}
    for k, gradients in enumerate(gradients_of_steps, start=1):
        rate = config.learning_rate * min(1.0, k / config.schedule.warmup_steps)
        for name, gradient in clipped(gradients).items():
            first[name] = config.beta1 * first[name] + (1 - config.beta1) * gradient
            second[name] = config.beta2 * second[name] + (1 - config.beta2) * gradient**2
            unbiased_first = first[name] / (1 - config.beta1**k)
            unbiased_second = second[name] / (1 - config.beta2**k)
            direction = unbiased_first / (np.sqrt(unbiased_second) + config.epsilon)
            parameters[name] -= rate * (direction + config.weight_decay * parameters[name])
    return parameters


def run(config, parameters, gradients_of_steps):
    optimizer = build_optimizer(config)
    state, update = optimizer.init(parameters), jax.jit(optimizer.update)
    for gradients in gradients_of_steps:
        updates, state = update(gradients, state, parameters)
        parameters = {name: p + updates[name] for name, p in parameters.items()}
    return parameters


@pytest.mark.parametrize("size", [0.01, 3.0])
def test_adafactor_several_steps_equal_the_papers_equations(size):
    gradients = [random_arrays(seed, size) for seed in range(1, 7)]
    wanted = reference_adafactor(random_arrays(0), gradients)
    for name, got in run(AdafactorConfig(), random_arrays(0), gradients).items():
        np.testing.assert_allclose(got, wanted[name], rtol=2e-5, atol=1e-6)


def test_adamw_several_steps_equal_the_usual_equations():
    config = AdamWConfig(schedule=ConstantSchedule(warmup_steps=4))
    gradients = [random_arrays(seed) for seed in range(1, 7)]
    wanted = reference_adamw(random_arrays(0), gradients, config)
    for name, got in run(config, random_arrays(0), gradients).items():
        np.testing.assert_allclose(got, wanted[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("steps_taken", "rate"),
    [(0, 1e-2), (9_999, 1e-2), (39_999, 5e-3), (999_999, 1e-3)],
)
def test_adafactor_learning_rate_is_constant_then_inverse_square_root(steps_taken, rate):
    optimizer = build_optimizer(AdafactorConfig())
    empty, state = optimizer.init(random_arrays(0))
    state = empty, state._replace(steps=np.int32(steps_taken))
    assert float(optimizer.next_learning_rate(state)) == pytest.approx(rate)


def test_adafactor_zero_parameter_and_zero_gradient_stay_finite():
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    assert all((p == 0).all() for p in run(AdafactorConfig(), zeros, [zeros]).values())
    moved = run(AdafactorConfig(), zeros, [random_arrays(1)])
    assert all(np.isfinite(p).all() and (p != 0).all() for p in moved.values())
