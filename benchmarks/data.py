"""Data: share of the step time in which palm-tiny waits for its batch, one pod."""

from __future__ import annotations

import pathlib
import tempfile

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import local_controller

TARGET = 0.01

_WARM_UP_STEPS = 3


def run(*, quick: bool) -> table.Result:
    runs, steps = (2, 12) if quick else (7, 30)
    shares, waits = [], []
    with tempfile.TemporaryDirectory(prefix="landbridge-data-") as name:
        arguments = ["--pods", "1", "--devices-per-host", "1"]
        with (
            local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
            Client(controller.address) as client,
        ):
            for _ in range(runs):
                job = jobs.succeeded(client, jobs.spec(steps))
                records = client.steps(job["id"], after=_WARM_UP_STEPS, limit=1000)["steps"]
                waited = sum(record["data_wait_seconds"] for record in records)
                shares.append(waited / sum(record["seconds"] for record in records))
                waits.append(1e3 * waited / len(records))
    share = table.median(shares)
    figures = {"waited ms a step": table.median(waits)}
    row = table.Row("data wait / step", share, f"< {TARGET}", runs, share < TARGET, figures)
    return table.Result("data", "Data: waiting for batches, share of the step time", [row])
