"""Multi-controller JAX, the reference: two processes, one scalar psum and add a step, waiting for
each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time


def steps_per_second(steps: int) -> float:
    """Of the first of two processes joined by jax.distributed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.multicontroller", address, str(index), str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "1"},
        )
        for index in range(2)
    ]
    try:
        output, _ = processes[0].communicate(timeout=300)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return json.loads(output.splitlines()[-1])


def main(address: str, index: str, steps: str) -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, 2, int(index))
    mesh = Mesh(np.array(jax.devices()), ("hosts",))
    sharding = NamedSharding(mesh, PartitionSpec("hosts"))
    x = jax.make_array_from_callback((2,), sharding, lambda _: np.ones(1, np.float32))

    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        total = jax.shard_map(
            lambda part: jax.lax.psum(part, "hosts"),
            mesh=mesh,
            in_specs=PartitionSpec("hosts"),
            out_specs=PartitionSpec(),
        )(x)
        return x * 0.5 + total.sum() * 0.25

    for _ in range(100):
        x = step(x).block_until_ready()
    start = time.perf_counter()
    for _ in range(int(steps)):
        x = step(x).block_until_ready()
    print(json.dumps(int(steps) / (time.perf_counter() - start)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
