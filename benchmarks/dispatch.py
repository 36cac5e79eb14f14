"""Dispatch: steps a second of a program that adds one to a number, and of one of 1 ms of compute.

The subject is a job under the controller's runtime, with windows of 64 steps and with the windows
the controller grants by itself, which last at least a quarter of a second. References: a bare
loop that waits for every step, two-process multi-controller JAX, and one Ray actor call a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from benchmarks import multicontroller, programs, ray_actor, table
from benchmarks.bare import bare_loop
from benchmarks.fleet import BundleFleet
from controller.core import step

_MILLISECOND = 1e-3
_TRIAL_PRODUCTS = 100


def run(*, quick: bool) -> table.Result:
    runs = 2 if quick else 7
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="landbridge-dispatch-") as name:
        state = pathlib.Path(name)
        trivial = programs.write(programs.scalar_add())
        busy = programs.write(programs.busy(_products_of_a_millisecond(state)))
        with _fixed_windows():
            fixed, _ = _against_bare(state, trivial, 40_000 // scale, runs)
        ours, bare = _against_bare(state, trivial, 40_000 // scale, runs)
        ours_busy, bare_busy = _against_bare(state, busy, 3_000 // scale, runs)
    multi = [multicontroller.steps_per_second(5_000 // scale) for _ in range(runs)]
    ray = ray_actor.steps_per_second(2_000 // scale, runs)
    references = [
        ("a bare loop", table.median(bare), None),
        ("multi-controller JAX", table.median(multi), 8),
        ("a Ray actor call a step", table.median(ray), 20),
    ]
    rows = [
        _row(f"scalar add, {windows}, against {name}", table.median(rates), rate, target, runs)
        for windows, rates in (("windows of 64", fixed), ("windows of 0.25 s", ours))
        for name, rate, target in references
    ]
    rows += [
        _row(
            f"{1e3 / table.median(bare_busy):.2f} ms of compute, against a bare loop",
            table.median(ours_busy),
            table.median(bare_busy),
            0.8,
            runs,
        ),
    ]
    title = "Dispatch: steps/s under the service, one pod"
    return table.Result("dispatch", title, rows)


@contextlib.contextmanager
def _fixed_windows() -> Iterator[None]:
    """Grants of 64 steps however fast they are; hosts report at half of what they may run.
    The controller of these runs lives in this process."""
    usual = step.MAX_WINDOW_STEPS
    step.MAX_WINDOW_STEPS = 2 * step.WINDOW_STEPS
    try:
        yield
    finally:
        step.MAX_WINDOW_STEPS = usual


def _row(case: str, ours: float, reference: float, target: float | None, runs: int) -> table.Row:
    ratio = ours / reference
    return table.Row(
        case=case,
        ratio=ratio,
        target="" if target is None else f">= {target:g}",
        runs=runs,
        is_met=None if target is None else ratio >= target,
        figures={"service steps/s": ours, "reference steps/s": reference},
    )


def _products_of_a_millisecond(state: pathlib.Path) -> int:
    with bare_loop(_file(state, *programs.write(programs.busy(_TRIAL_PRODUCTS))), 1, state) as bare:
        seconds = table.median(bare.run(50)[10:])
    return max(1, round(_TRIAL_PRODUCTS * _MILLISECOND / seconds))


def _file(state: pathlib.Path, digest: str, data: bytes) -> pathlib.Path:
    path = state / f"{digest.removeprefix('sha256:')}.bundle"
    path.write_bytes(data)
    return path


def _against_bare(
    state: pathlib.Path, bundle: tuple[str, bytes], steps: int, runs: int
) -> tuple[list[float], list[float]]:
    """Steps/s of the service and of the bare loop, runs alternating."""

    async def alternate() -> tuple[list[float], list[float]]:
        ours, bare = [], []
        with (
            tempfile.TemporaryDirectory(dir=state) as own,
            bare_loop(_file(state, *bundle), 1, state) as loop,
        ):
            async with BundleFleet(pathlib.Path(own)).running() as fleet:
                await fleet.run(*bundle, steps)
                loop.run(steps)
                for _ in range(runs):
                    records = await fleet.run(*bundle, steps)
                    ours.append((steps - 1) / (records[-1]["time"] - records[0]["time"]))
                    bare.append(steps / sum(await asyncio.to_thread(loop.run, steps)))
        return ours, bare

    return asyncio.run(alternate())
