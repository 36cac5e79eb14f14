"""The controller is killed while workers that it did not start train: they go on, and so does the
one that is started in its place."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from landbridge.client import Client
from landbridge.local import local_controller
from tests.e2e.curves import digest_of, losses_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 600
TRAIN = {"steps": STEPS, "digest_every": 50}
DATA = {"epochs": 1000}


@contextlib.contextmanager
def workers(grpc: str, state: pathlib.Path, pods: int = 2) -> Iterator[list[int]]:
    """Pods of one host that dial whoever answers there; their pids."""
    processes = []
    for index in range(pods):
        command = [sys.executable, "-m", "landbridge", "worker", "--controller", grpc]
        command += ["--pod", f"pod-{index}", "--host-index", "0", "--devices", "1"]
        command += ["--state-dir", str(state)]
        with (state / f"pod-{index}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@pytest.fixture(scope="module")
def state(tmp_path_factory, warm_state) -> pathlib.Path:
    state = tmp_path_factory.mktemp("state")
    for name in ("bundles", "compilation-cache"):
        (warm_state / name).mkdir(exist_ok=True)
        os.symlink(warm_state / name, state / name, target_is_directory=True)
    return state


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _reaches(client: Client, job_id: str, step: int) -> None:
    client.wait(job_id, until=lambda job: job["step"] >= step, timeout=120)


@pytest.mark.parametrize("kills", [1, 3])
def test_killed_controller_stops_nobody_and_leaves_no_hole(state, make_spec, kills):
    grpc = f"127.0.0.1:{free_port()}"
    arguments = ["--launcher", "none", "--grpc", grpc]
    with workers(grpc, state) as pids:
        with local_controller(state_dir=state, arguments=arguments) as controller:
            with Client(controller.address) as client:
                client.wait_for_pods(2, timeout=120)
                document = make_spec(data=DATA, train=TRAIN)
                undisturbed = client.wait(client.submit(document)["id"], timeout=200)
                assert undisturbed["state"] == "SUCCEEDED", undisturbed["reason"]
                curve = losses_of(client, undisturbed["id"])
                job_id = client.submit(document)["id"]
        # SIGTERM ended the first one: what it left is taken over as well.
        for kill in range(1, kills + 1):
            with local_controller(state_dir=state, arguments=arguments) as controller:
                with Client(controller.address) as client:
                    _reaches(client, job_id, 100 * kill)
                    controller.process.kill()
                    controller.process.wait()
            # Away for a while, in which nobody could say what the workers do.
            time.sleep(kill)
        with local_controller(state_dir=state, arguments=arguments) as controller:
            with Client(controller.address) as client:
                job = client.wait(job_id, timeout=200)
                assert job["state"] == "SUCCEEDED", job["reason"]
                assert digest_of(job) == digest_of(undisturbed)
                assert losses_of(client, job_id) == curve
                assert {host["pid"] for pod in client.pods()["pods"] for host in pod["hosts"]} == (
                    set(pids)
                )
                events = client.events(job_id)["events"]
                taken_over = [event for event in events if event["kind"] == "job.taken_over"]
                assert len(taken_over) >= kills
                assert (job["attempt"], job["generation"]) == (
                    undisturbed["attempt"],
                    undisturbed["generation"],
                )
