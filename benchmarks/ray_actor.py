"""One Ray actor call a step, the reference: the driver waits for each scalar add before the
next."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any


def steps_per_second(steps: int, runs: int) -> list[float]:
    """Of `runs` runs on one local cluster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(
            num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
        )
        try:
            actor: Any = ray.remote(_Adder).remote()  # pyright: ignore[reportAttributeAccessIssue]
            ray.get(actor.step.remote())
            return [_run(ray, actor, steps) for _ in range(runs)]
        finally:
            ray.shutdown()


def _run(ray: Any, actor: Any, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        ray.get(actor.step.remote())
    return steps / (time.perf_counter() - start)


class _Adder:
    def __init__(self) -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")
        self._add = jax.jit(lambda x: x + 1.0)
        self._x = self._add(0.0)

    def step(self) -> None:
        self._x = self._add(self._x).block_until_ready()
