"""Launch: from the submission to the first finished step, with nothing cached and with warm
caches."""

from __future__ import annotations

import pathlib
import tempfile
import time

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import local_controller

TARGET_SECONDS = 8.0

SPEC = jobs.spec(1, placement={"pods": 2, "mesh": {"data": 1, "model": 1}})


def run(*, quick: bool) -> table.Result:
    cold_runs, warm_runs = (1, 2) if quick else (5, 7)
    cold, warm = [], []
    for number in range(cold_runs):
        with tempfile.TemporaryDirectory(prefix="landbridge-launch-") as name:
            arguments = ["--pods", "2", "--devices-per-host", "1"]
            with (
                local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
                Client(controller.address) as client,
            ):
                # Pods that still start are no part of a launch.
                client.wait_for_pods(2)
                cold.append(_launch_seconds(client))
                if number == cold_runs - 1:
                    warm = [_launch_seconds(client) for _ in range(warm_runs)]
    seconds = table.median(warm)
    rows = [
        table.Row("cold: no bundle, nothing compiled", None, "", cold_runs, None,
                  {"seconds": table.median(cold)}),
        table.Row(
            "warm: bundle and compiled programs cached",
            seconds / table.median(cold),
            f"<= {TARGET_SECONDS:g} s",
            warm_runs,
            seconds <= TARGET_SECONDS,
            {"seconds": seconds},
        ),
    ]  # fmt: skip
    return table.Result(
        "launch",
        "Launch: submission to first finished step, two pods; ratio is warm / cold",
        rows,
        "Ray Train's JaxTrainer on the same kind of machine: 23 s from fit() to its first step.",
    )


def _launch_seconds(client: Client) -> float:
    """The first step's own time stamp is used, so polling adds nothing."""
    submitted = time.time()
    job = jobs.succeeded(client, SPEC)
    return client.steps(job["id"])["steps"][0]["time"] - submitted
