"""The very same compiled functions in a bare jax loop: what they cost without any service.

A process of its own, set up like a worker of a simulated pod. It loads a bundle and then answers
questions about it, one a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import table
from benchmarks.peak_memory import PeakMemory
from benchmarks.role import Role, role
from workers.program import Group, Program

RUNS_OF_A_SLOT = 5


class BareLoop:
    """The parent's end of a bare loop."""

    def __init__(self, process: Role) -> None:
        self._process = process

    def run(self, steps: int) -> list[float]:
        """Seconds of each of the next `steps` steps."""
        return self._process.ask(f"run {steps}")

    def slot_seconds(self) -> float:
        """Seconds of the calls of one slot and nothing else: a median."""
        return self._process.ask("slot_seconds")

    def peak_flops_per_second(self) -> float:
        """Of the process's devices in float32, calibrated now as a worker does."""
        return self._process.ask("peak_flops_per_second")

    def component_bytes(self) -> dict[str, dict[str, int]]:
        """What the compiler planned: {component: {"arguments", "temporaries", "outputs"}}; outputs
        that take the place of donated arguments are left out."""
        return self._process.ask("component_bytes")

    def group_bytes(self) -> dict[str, int]:
        """Bytes of every group of buffers, by name."""
        return self._process.ask("group_bytes")

    def slot(self) -> dict[str, Any]:
        """The manifest's calls of a slot and segments: {"slot", "segments"}."""
        return self._process.ask("slot")

    def resident_bytes(self, steps: int) -> int:
        """By how much the process grew at its largest while it ran so many steps, with the state
        that they need; to be asked first, since the state stays."""
        return self._process.ask(f"resident_bytes {steps}")


@contextlib.contextmanager
def bare_loop(
    bundle: pathlib.Path, num_slots: int, cache: pathlib.Path, *, core: int | None = None
) -> Iterator[BareLoop]:
    """Run one for a `with` block, on any core or bound to one; returns when the program is
    compiled. `cache` is the folder of jax's compilation cache."""
    bound = () if core is None else (str(core),)
    with role("benchmarks.bare", str(bundle), str(num_slots), str(cache), *bound) as process:
        process.answer()
        yield BareLoop(process)


class _Loop:
    """The child's end: a method for every question."""

    def __init__(self, program: Program, num_slots: int) -> None:
        self._program = program
        self._num_slots = num_slots
        self._state: list[Group] = []
        self._batches: list[list[np.ndarray]] = []
        self._calls: list[dict[str, Any]] = program.manifest["slot"]
        self._segments: list[dict[str, Any]] = program.manifest["segments"]
        # The scalars of every call, placed once.
        self._values: list[dict[str, Group]] = []

    def run(self, steps: str) -> list[float]:
        import jax

        self._begin()
        # The shortest steps take 20 microseconds, so nothing is looked up inside the loop.
        call, batches, pairs = self._program.components, self._batches, self._pairs
        params, optimizer = self._state
        seconds = []
        for _ in range(int(steps)):
            start = time.perf_counter()
            total: list[Group] = []
            if self._calls:
                for rows in batches:
                    batch = [jax.device_put(row, b.sharding) for row, b in pairs(rows)]
                    slot = self._slot(params, batch)
                    total = self._added(total, slot) if total else slot
            params, optimizer, record = call["apply_update"](params, optimizer, *total)
            record[0].block_until_ready()
            seconds.append(time.perf_counter() - start)
        self._state = [params, optimizer]
        return seconds

    def slot_seconds(self) -> float:
        import jax

        self._begin()
        slot = [jax.device_put(row, b.sharding) for row, b in self._pairs(self._batches[0])]
        jax.block_until_ready(slot)
        seconds = []
        for _ in range(RUNS_OF_A_SLOT):
            start = time.perf_counter()
            jax.block_until_ready(self._slot(self._state[0], slot))
            seconds.append(time.perf_counter() - start)
        return table.median(seconds)

    def peak_flops_per_second(self) -> float:
        from workers.telemetry import inventory

        return inventory().peak_flops_per_second["float32"]

    def component_bytes(self) -> dict[str, dict[str, int]]:
        sizes = self.group_bytes()
        needs: dict[str, dict[str, int]] = {}
        for name, component in self._program.components.items():
            entry = self._program.manifest["components"][name]
            donated = sum(sizes[entry["inputs"][index]] for index in entry["donated"])
            outputs = sum(sizes[group] for group in entry["outputs"]) - donated
            needs[name] = {**component.device_bytes, "outputs": max(0, outputs)}
        return needs

    def slot(self) -> dict[str, Any]:
        return {"slot": self._calls, "segments": self._segments}

    def group_bytes(self) -> dict[str, int]:
        groups = self._program.groups
        return {name: sum(buffer.num_bytes for buffer in group) for name, group in groups.items()}

    def resident_bytes(self, steps: str) -> int:
        memory = PeakMemory()
        self.run(steps)
        return memory.growth()

    def _slot(self, params: Group, batch: Group) -> list[Group]:
        """The groups of all segments, in order."""
        call, at = self._program.components, {"params": params, "batch": batch}
        for entry, values in zip(self._calls, self._values, strict=True):
            at.update(values)
            given = [at[name] for name in entry["inputs"]]
            at.update(zip(entry["outputs"], call[entry["component"]](*given), strict=True))
        return [at[name] for entry in self._segments for name in entry["groups"]]

    def _added(self, left: list[Group], right: list[Group]) -> list[Group]:
        total: list[Group] = []
        for entry in self._segments:
            part = slice(len(total), len(total) + len(entry["groups"]))
            add = self._program.components[entry["accumulate"]]
            total += add(*left[part], *right[part])
        return total

    def _begin(self) -> None:
        import jax

        if self._state:
            return
        call, groups = self._program.components, self._program.groups
        seed = jax.device_put(np.uint32(0), groups["seed"][0].sharding)
        self._state = call["init"]([seed])
        tokens = np.random.default_rng(0)
        self._values = [
            {
                name: [jax.device_put(np.int32(value), groups[name][0].sharding)]
                for name, value in entry["values"].items()
            }
            for entry in self._calls
        ]
        self._batches = [
            [tokens.integers(0, 256, b.shape, dtype=np.int32) for b in groups.get("batch", ())]
            for _ in range(self._num_slots)
        ]
        jax.block_until_ready(self._state)

    def _pairs(self, rows: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Any]]:
        return zip(rows, self._program.groups["batch"], strict=True)


def main(bundle: str, num_slots: str, cache: str, core: str = "") -> None:
    if core:
        os.sched_setaffinity(0, {int(core)})
    import jax

    from workers.program import load, read_bundle

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    path = pathlib.Path(bundle)
    program = load(*read_bundle(path.read_bytes(), f"sha256:{path.stem}"))
    loop = _Loop(program, int(num_slots))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        question, *arguments = line.split()
        print(json.dumps(getattr(loop, question)(*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
