"""The controller that runs is killed; the one that stands by, at another address, goes on with its
job, on the same hosts."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from landbridge.client import Client
from landbridge.local import local_controller
from tests.e2e.curves import digest_of, losses_of
from tests.e2e.test_controller_death import free_port, state, workers

__all__ = ["state"]  # a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STEPS = 120


def test_controller_that_stands_by_goes_on_with_the_job_of_a_killed_one(state, make_spec):
    at = {name: f"127.0.0.1:{free_port()}" for name in ("first", "second", "http")}
    document = make_spec(data={"epochs": 1000}, train={"steps": STEPS, "digest_every": 50})
    command = [sys.executable, "-m", "landbridge", "up", "--launcher", "none", "--standby"]
    command += ["--state-dir", str(state), "--http", at["http"], "--grpc", at["second"]]
    with (
        workers(f"{at['second']},{at['first']}", state) as pids,
        local_controller(
            state_dir=state, arguments=["--launcher", "none", "--grpc", at["first"]]
        ) as first,
        Client(first.address) as client,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as standby,
    ):
        try:
            client.wait_for_pods(2, timeout=120)
            job_id = client.submit(document)["id"]
            client.wait(job_id, until=lambda job: job["step"] >= 20, timeout=120)
            first.process.kill()
            assert standby.stdout is not None and "ready" in standby.stdout.readline()
            with Client(f"http://{at['http']}") as second:
                job = second.wait(job_id, timeout=200)
                assert job["state"] == "SUCCEEDED", job["reason"]
                assert digest_of(job)
                assert (job["attempt"], job["generation"]) == (1, 1)
                assert [step for step, _ in losses_of(second, job_id)] == [*range(1, STEPS + 1)]
                there = {host["pid"] for pod in second.pods()["pods"] for host in pod["hosts"]}
                assert there == set(pids)
        finally:
            standby.send_signal(signal.SIGTERM)
