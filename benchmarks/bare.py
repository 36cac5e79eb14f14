"""The very same compiled functions in a bare jax loop: what a step costs without any service.

A process of its own, set up like a worker of a simulated pod. It loads a bundle and then runs as
many steps as each line of its input asks for, answering with the seconds of every step.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from controller.runtime.launcher.command import WORKER_TUNABLES
from workers.program import Group


class BareLoop:
    """The parent's end of a bare loop."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, steps: int) -> list[float]:
        """Seconds of each of the next `steps` steps."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def bare_loop(bundle: pathlib.Path, num_slots: int, cache: pathlib.Path) -> Iterator[BareLoop]:
    """Run one for a `with` block; returns when the program is compiled."""
    command = [sys.executable, "-m", "benchmarks.bare", str(bundle), str(num_slots), str(cache)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**WORKER_TUNABLES, **os.environ, "NPROC": "1", "JAX_PLATFORMS": "cpu"},
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield BareLoop(process)
    finally:
        process.kill()
        process.communicate()


def main(bundle: str, num_slots: str, cache: str) -> None:
    import jax

    from workers.program import load, read_bundle

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    path = pathlib.Path(bundle)
    program = load(*read_bundle(path.read_bytes(), f"sha256:{path.stem}"))
    call, groups = program.components, program.groups
    params, optimizer = call["init"]([jax.device_put(np.uint32(0), groups["seed"][0].sharding)])
    tokens = np.random.default_rng(0)
    batches = [
        [tokens.integers(0, 256, b.shape, dtype=np.int32) for b in groups.get("batch", ())]
        for _ in range(int(num_slots))
    ]
    jax.block_until_ready(params)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            total: list[Group] = []
            if program.has_gradients:
                for rows in batches:
                    pairs = zip(rows, groups["batch"], strict=True)
                    batch = [jax.device_put(row, buffer.sharding) for row, buffer in pairs]
                    slot = call["forward_backward"](params, batch)
                    total = call["accumulate"](*total, *slot) if total else slot
            params, optimizer, record = call["apply_update"](params, optimizer, *total)
            record[0].block_until_ready()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
