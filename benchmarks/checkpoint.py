"""Checkpoint: how long a save keeps palm-tiny from going on, against a step, one pod.

The stall is for how long the thread that runs the steps is held up, which only starts the copy and
the digest. That the devices make them before the next step, and that writing goes on beside it on
shared cores, is in the second row, together with the stall.
"""

from __future__ import annotations

import pathlib
import tempfile
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import LocalController, local_controller

EVERY = 5
TARGET = 0.05

_WARM_UP_STEPS = 3


def run(*, quick: bool) -> table.Result:
    runs, steps = (2, 15) if quick else (7, 40)
    stalls, slowdowns, step_ms, stall_ms = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="landbridge-checkpoint-") as name:
        arguments = ["--pods", "1", "--devices-per-host", "1"]
        with (
            local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
            Client(controller.address) as client,
        ):
            jobs.succeeded(client, jobs.spec(_WARM_UP_STEPS))
            for _ in range(runs):
                job = jobs.succeeded(
                    client, jobs.spec(steps, checkpoint={"every": EVERY, "keep": 1})
                )
                seconds = {
                    record["step"]: record["seconds"]
                    for record in client.steps(job["id"], limit=1000)["steps"]
                    if record["step"] > _WARM_UP_STEPS
                }
                beside = [s for step, s in seconds.items() if step % EVERY == 1]
                others = [s for step, s in seconds.items() if step % EVERY not in (0, 1)]
                stall = _stall_seconds(controller, job["id"])
                stalls.append(stall / table.median(others))
                slowdowns.append(table.median(beside) / table.median(others))
                step_ms.append(table.median(others) * 1e3)
                stall_ms.append(stall * 1e3)
    ratio = table.median(stalls)
    figures = {"stall ms": table.median(stall_ms), "step ms": table.median(step_ms)}
    rows = [
        table.Row("stall of a save / step", ratio, f"< {TARGET}", runs, ratio < TARGET, figures),
        table.Row("step after a save / other steps", table.median(slowdowns), "", runs, None, {}),
    ]
    title = f"Checkpoint: palm-tiny with its optimizer, 13.8 MB, every {EVERY} steps"
    return table.Result("checkpoint", title, rows)


def _stall_seconds(controller: LocalController, job_id: str) -> float:
    """Mean over the saves of a job."""
    with urllib.request.urlopen(f"{controller.address}/metrics") as answer:
        text = answer.read().decode()
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("job") == job_id
    }
    name = "landbridge_checkpoint_stall_seconds"
    return samples[f"{name}_sum"] / samples[f"{name}_count"]
