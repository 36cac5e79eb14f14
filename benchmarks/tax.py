"""Orchestration tax: a step of palm-tiny under the full service against the same compiled functions
in a bare jax loop, one pod.

The speed of a shared machine drifts by a tenth within half a minute, five times what is looked for.
So the turns are short and many, each is compared with its neighbour, and who goes first alternates.
Where its memory lies can make a process slower for as long as it lives, by some hundredths either
way; so every round has new ones.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile

from benchmarks import jobs, table
from benchmarks.bare import BareLoop, bare_loop
from landbridge.client import Client
from landbridge.local import local_controller

NUM_SLOTS = jobs.SPEC["train"]["global_batch"] // jobs.SPEC["train"]["microbatch"]
TARGET = 1.02

_WARM_UP_STEPS = 3


def run(*, quick: bool) -> table.Result:
    rounds, pairs, steps = (1, 2, 12) if quick else (4, 8, 12)
    served: list[float] = []
    looped: list[float] = []
    with tempfile.TemporaryDirectory(prefix="landbridge-tax-") as name:
        for _ in range(rounds):
            ours, theirs = _round(pathlib.Path(name), pairs, steps)
            served += ours
            looped += theirs
    ratios = [ours / theirs for ours, theirs in zip(served, looped, strict=True)]
    ratio = table.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    row = table.Row(
        case="palm-tiny, 8 x 256 tokens a step",
        ratio=ratio,
        target=f"<= {TARGET}",
        runs=len(ratios),
        is_met=ratio <= TARGET,
        figures={
            "service ms": table.median(served) * 1e3,
            "bare loop ms": table.median(looped) * 1e3,
            "lower quartile": low,
            "upper quartile": high,
        },
    )
    return table.Result("tax", "Orchestration tax: step time, service / bare loop", [row])


def _round(state: pathlib.Path, pairs: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds a step under the service and in the loop, pair by pair, in processes of their own."""
    arguments = ["--pods", "1", "--devices-per-host", "1"]
    served, looped = [], []
    with (
        local_controller(state_dir=state, arguments=arguments) as controller,
        Client(controller.address) as client,
    ):
        first = jobs.succeeded(client, jobs.spec(_WARM_UP_STEPS))
        path = state / "bundles" / f"{first['bundle'].removeprefix('sha256:')}.bundle"
        with bare_loop(path, NUM_SLOTS, state / "compilation-cache") as bare:
            bare.run(_WARM_UP_STEPS)
            for pair in range(pairs):
                if pair % 2:
                    looped.append(_looped_step_seconds(bare, steps))
                served.append(_served_step_seconds(client, steps))
                if not pair % 2:
                    looped.append(_looped_step_seconds(bare, steps))
    return served, looped


def _looped_step_seconds(bare: BareLoop, steps: int) -> float:
    return table.median(bare.run(steps)[_WARM_UP_STEPS:])


def _served_step_seconds(client: Client, steps: int) -> float:
    job = jobs.succeeded(client, jobs.spec(steps))
    records = client.steps(job["id"], after=_WARM_UP_STEPS, limit=1000)["steps"]
    return table.median([record["seconds"] for record in records])
