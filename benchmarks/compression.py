"""Compression: palm-tiny on two pods after the same tokens, by what its gradients cross the link
as; and with pods that train on their own most of the time.

A loss is that of held-out text after the last step, where all pods hold the same parameters. Every
way starts from the same seed and sees the same batches, so its loss is compared with that of the
full exchange in float32 of the same optimizer and seed. What a target is set for was run with
several seeds.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import local_controller

PODS = 2
STEPS = 300
SEEDS = 3

_SOURCE = {"name": "lib", "kind": "text", "paths": ["python-stdlib:**/*.py"]}
_HELD_OUT = {"share": 0.02, "sequences": 64}
_BATCH = {"global_batch": 8, "microbatch": 4, "sequence_length": 256}


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """How a job exchanges, and what is asked of it against the full exchange in float32."""

    name: str
    exchange: Mapping[str, Any]
    least_saving: float | None = None
    """Times fewer bytes."""
    most_loss: float | None = None
    """Times the loss."""
    seeds: int = 1


_FULL = Way("full, float32", {}, seeds=SEEDS)

_INT8 = {"dtype": "int8"}
_ENCODED = (
    Way("bfloat16", {"dtype": "bfloat16"}),
    Way("int8", _INT8, 3.9, 1.01, SEEDS),
    Way("int8, no error feedback", {**_INT8, "error_feedback": False}, seeds=SEEDS),
    Way("int8, stochastic rounding", {**_INT8, "rounding": "stochastic"}),
)

_STREAMING = {"mode": "streaming_diloco"}
_INT4 = {**_STREAMING, "dtype": "int4"}

_OUTER = (
    Way("diloco, every 25", {"mode": "diloco"}),
    Way("streaming, every 25, float32", _STREAMING),
    Way("streaming, every 25, int4", _INT4, 100.0, 1.03, SEEDS),
    Way("streaming, every 50, int4", {**_INT4, "outer": {"every": 50}}),
    Way("streaming, every 100, int4", {**_INT4, "outer": {"every": 100}}),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    losses: Mapping[int, float]
    """By step, the last of which is the job's."""
    link_bytes: float
    """Of a pod and step."""

    @property
    def loss(self) -> float:
        return self.losses[max(self.losses)]


def run(*, quick: bool) -> table.Result:
    most_seeds, steps = (1, 30) if quick else (SEEDS, STEPS)
    arguments = ["--pods", str(PODS), "--devices-per-host", "1"]
    with (
        tempfile.TemporaryDirectory(prefix="landbridge-compression-") as name,
        local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
        Client(controller.address) as client,
    ):
        client.wait_for_pods(PODS)
        rows = _rows(client, "adafactor", _ENCODED, most_seeds, steps)
        rows += _rows(client, "adamw", _OUTER, most_seeds, steps)
    notes = "Runs are seeds: a job of one seed has one loss, bit for bit."
    title = f"Compression: palm-tiny after {steps} steps of {PODS} pods; ratio of held-out losses"
    return table.Result("compression", title, rows, notes)


def _rows(
    client: Client, optimizer: str, ways: Sequence[Way], most_seeds: int, steps: int
) -> list[table.Row]:
    found = [
        [
            _outcome(client, optimizer, way, seed, steps)
            for seed in range(min(way.seeds, most_seeds))
        ]
        for way in (_FULL, *ways)
    ]
    return [
        _row(optimizer, way, outcomes, found[0])
        for way, outcomes in zip((_FULL, *ways), found, strict=True)
    ]


def _outcome(client: Client, optimizer: str, way: Way, seed: int, steps: int) -> Outcome:
    train = {
        **_BATCH,
        "seed": seed,
        "optimizer": {"kind": optimizer},
        "eval": {"every": steps // 3, **_HELD_OUT},
    }
    document = jobs.spec(
        steps,
        train=train,
        data={"sources": [_SOURCE]},
        placement={"pods": PODS, "mesh": {"data": 1, "model": 1}},
        exchange=dict(way.exchange),
    )
    job = jobs.succeeded(client, document)
    jobs.last_evaluation(job, steps)
    events = client.events(job["id"])["events"]
    evaluated = [event["data"] for event in events if event["kind"] == "job.evaluated"]
    records = client.steps(job["id"], limit=1000)["steps"]
    sent = sum(record["link_bytes"] for record in records) / len(records) / PODS
    return Outcome({found["step"]: found["loss"] for found in evaluated}, sent)


def _row(
    optimizer: str, way: Way, outcomes: Sequence[Outcome], reference: Sequence[Outcome]
) -> table.Row:
    ratios = [ours.loss / full.loss for ours, full in zip(outcomes, reference, strict=False)]
    ratio = table.median(ratios)
    saving = reference[0].link_bytes / outcomes[0].link_bytes
    targets, is_met = [], True
    if way.least_saving is not None:
        targets.append(f">= {way.least_saving:g}x fewer bytes")
        is_met &= saving >= way.least_saving
    if way.most_loss is not None:
        targets.append(f"<= {way.most_loss:g}")
        is_met &= ratio <= way.most_loss
    return table.Row(
        case=f"{optimizer}: {way.name}",
        ratio=ratio,
        target=", ".join(targets),
        runs=len(outcomes),
        is_met=is_met if targets else None,
        figures={
            "sent KB a step": outcomes[0].link_bytes / 1e3,
            "times fewer": saving,
            **{
                f"loss at {step}": table.median([outcome.losses[step] for outcome in outcomes])
                for step in outcomes[0].losses
            },
            "lowest ratio": min(ratios),
            "highest ratio": max(ratios),
        },
    )
