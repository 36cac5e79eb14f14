"""The learning rate of every step, as jax: the formulas of the schedules in model.schedule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.schedule import ConstantSchedule, RsqrtSchedule, Schedule

LearningRate = Callable[[Any], jax.Array]
"""From the number of steps taken, an int32 scalar, to the rate of the next step, float32."""


def learning_rate(peak: float, schedule: Schedule) -> LearningRate:
    """The rate under a schedule that scales `peak`; `k` is steps taken + 1, as in the papers.

    The two defaults are written out instead of taken from optax, whose warm-up is another
    expression of the same line and rounds differently.
    """

    def rate(steps_taken: Any) -> jax.Array:
        k = steps_taken.astype(jnp.float32) + 1.0
        if isinstance(schedule, RsqrtSchedule):
            return peak * jnp.minimum(1.0, jnp.sqrt(schedule.constant_steps / k))
        if isinstance(schedule, ConstantSchedule):
            return peak * jnp.minimum(1.0, k / max(schedule.warmup_steps, 1))
        cosine = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=peak,
            warmup_steps=schedule.warmup_steps,
            decay_steps=schedule.decay_steps,
            end_value=schedule.final_ratio * peak,
        )
        return jnp.asarray(cosine(k), jnp.float32)

    return rate
