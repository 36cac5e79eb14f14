"""Multi-controller JAX training the model of the link's table, the reference: a process for each
pod, and a step whose gradients XLA sums over both, which it does once all are there.

Answers `apart N` and `coupled N` with the seconds of a step.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.role import answering

_LEARNING_RATE = 0.01


def main(index: str, address: str, own_address: str, core: str, model: str, *sizes: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    answer = answering()
    import jax

    # It would look this machine's name up, which means nothing in a namespace.
    internals: Any = importlib.import_module("jaxlib._jax")
    make = internals.make_gloo_tcp_collectives
    internals.make_gloo_tcp_collectives = functools.partial(make, hostname=own_address)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, 2, int(index))
    microbatch, length = map(int, sizes)
    steps = {
        "coupled": _Step(jax.devices(), model, microbatch, length),
        "apart": _Step(jax.local_devices(), model, microbatch, length),
    }
    answer({"gradient_bytes": steps["apart"].gradient_bytes})
    for line in sys.stdin:
        how, count = line.split()
        answer(steps[how].seconds(int(count)))


class _Step:
    """A step of data-parallel training by SGD, a slot for each device, as jit partitions it."""

    def __init__(self, devices: list[Any], model: str, microbatch: int, length: int) -> None:
        import jax
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        from model import palm
        from model.config import ModelConfig

        config = ModelConfig.from_spec(json.loads(model))
        mesh = Mesh(np.array(devices), ("pods",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec("pods"))
        init = jax.jit(functools.partial(palm.initial_parameters, config), out_shardings=everywhere)
        self._parameters = init(np.uint32(0))
        shape = (microbatch * len(devices), length)
        tokens = np.random.default_rng(0).integers(0, 256, shape, dtype=np.int32)
        self._batch = jax.make_array_from_callback(shape, split, tokens.__getitem__)
        step: Any = functools.partial(_updated, _loss_of(config))
        self._step: Any = jax.jit(step, out_shardings=everywhere, donate_argnums=0)
        self.gradient_bytes = sum(array.nbytes for array in self._parameters.values())

    def seconds(self, count: int) -> float:
        import jax

        start = time.perf_counter()
        for _ in range(count):
            self._parameters = jax.block_until_ready(self._step(self._parameters, self._batch))
        return (time.perf_counter() - start) / count


def _loss_of(config: Any) -> Callable[..., Any]:
    from model import palm
    from model.loss import token_losses

    def loss(parameters: Any, tokens_BL: Any) -> Any:
        nll_BL, z_loss_BL = token_losses(palm.logits(config, parameters, tokens_BL), tokens_BL)
        return nll_BL.mean() + z_loss_BL.mean()

    return loss


def _updated(loss: Callable[..., Any], parameters: Any, tokens_BL: Any) -> Any:
    import jax

    gradients = jax.grad(loss)(parameters, tokens_BL)
    return {name: array - _LEARNING_RATE * gradients[name] for name, array in parameters.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
