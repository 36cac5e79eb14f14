"""The optimizers: Adafactor without factoring as PaLM used it (section 5), and AdamW.

An optimizer is an optax transformation over a flat dictionary of parameters, with its step count in
its state. Gradients are clipped by their global norm first; the rate of every step is
model.learning_rate's. Stacked layers count as separate
parameters wherever a rule looks at "the parameter".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model.config import AdafactorConfig, AdamWConfig, OptimizerConfig
from model.learning_rate import LearningRate, learning_rate
from model.palm import Parameters
from model.shapes import STACKED_PREFIX


class Optimizer(NamedTuple):
    """An optax transformation, and the learning rate of the step that comes next in a state.

    Parameters and gradients are float32 here; `update` returns what to add to the parameters.
    """

    init: Callable[[Parameters], Any]
    update: Callable[[Parameters, Any, Parameters], tuple[Parameters, Any]]
    next_learning_rate: Callable[[Any], jax.Array]


class AdafactorState(NamedTuple):
    """Steps taken, first moment of the updates, second moment of the gradients."""

    steps: jax.Array
    momentum: Parameters
    second_moment: Parameters


def build_optimizer(config: OptimizerConfig) -> Optimizer:
    """The optimizer a configuration describes."""
    if isinstance(config, AdafactorConfig):
        return _adafactor(config)
    return _adamw(config)


def _optimizer(transform: Any, next_learning_rate: Callable[[Any], jax.Array]) -> Optimizer:
    return Optimizer(transform.init, transform.update, next_learning_rate)


def _adafactor(config: AdafactorConfig) -> Optimizer:
    rate = learning_rate(config.learning_rate, config.schedule)
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip_norm), _unfactored_adafactor(config, rate)
    )
    return _optimizer(transform, lambda state: rate(state[1].steps))


def _unfactored_adafactor(
    config: AdafactorConfig, rate: LearningRate
) -> optax.GradientTransformation:
    def init(parameters: Parameters) -> AdafactorState:
        zeros = optax.tree.zeros_like(parameters)
        return AdafactorState(jnp.zeros((), jnp.int32), zeros, optax.tree.zeros_like(parameters))

    def update(
        gradients: Parameters, state: AdafactorState, parameters: Parameters
    ) -> tuple[Parameters, AdafactorState]:
        rate_now = rate(state.steps)
        # 1 - k^-0.8 is 0 at k = 1, so the second moment needs no bias correction.
        beta2 = 1.0 - (state.steps.astype(jnp.float32) + 1.0) ** -config.beta2_exponent
        decay = rate_now**config.weight_decay_exponent
        updates, momentum, second_moment = {}, {}, {}
        for name, parameter in parameters.items():
            squared = jnp.square(gradients[name]) + config.epsilon
            second = beta2 * state.second_moment[name] + (1.0 - beta2) * squared
            scale = jnp.maximum(parameter_rms(name, parameter), config.min_parameter_scale)
            step = rate_now * scale * gradients[name] * jax.lax.rsqrt(second)
            first = config.beta1 * state.momentum[name] + (1.0 - config.beta1) * step
            updates[name] = -(first + decay * parameter)
            momentum[name], second_moment[name] = first, second
        return updates, AdafactorState(state.steps + 1, momentum, second_moment)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def parameter_rms(name: str, parameter: jax.Array) -> jax.Array:
    """Root mean square of a parameter, of each layer for a stacked one; broadcasts against it."""
    first_dim = 1 if name.startswith(STACKED_PREFIX) else 0
    dims = tuple(range(first_dim, parameter.ndim))
    return jnp.sqrt(jnp.mean(jnp.square(parameter), axis=dims, keepdims=True))


def _adamw(config: AdamWConfig) -> Optimizer:
    rate = learning_rate(config.learning_rate, config.schedule)
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    return _optimizer(transform, lambda state: rate(state[1].count))
