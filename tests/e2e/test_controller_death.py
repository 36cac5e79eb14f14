"""The controller is killed while workers that it did not start train: they go on, and so does the
one that is started in its place."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from landbridge.client import Client
from landbridge.local import LocalController, local_controller
from tests.e2e.curves import digest_of, losses_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

KILLS = 2
TRAIN = {"steps": 400, "digest_every": 50}
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
def state(tmp_path_factory, share_warm) -> pathlib.Path:
    state = tmp_path_factory.mktemp("state")
    share_warm(state)
    return state


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _reaches(client: Client, job_id: str, step: int) -> None:
    client.wait(job_id, until=lambda job: job["step"] >= step, timeout=120)


@contextlib.contextmanager
def controller_at(grpc: str, state: pathlib.Path) -> Iterator[tuple[LocalController, Client]]:
    arguments = ["--launcher", "none", "--grpc", grpc]
    with (
        local_controller(state_dir=state, arguments=arguments) as controller,
        Client(controller.address) as client,
    ):
        yield controller, client


def test_killed_controller_stops_nobody_and_leaves_no_hole(state, make_spec):
    grpc, document = f"127.0.0.1:{free_port()}", make_spec(data=DATA, train=TRAIN)
    with workers(grpc, state) as pids:
        with controller_at(grpc, state) as (_, client):
            client.wait_for_pods(2, timeout=120)
            undisturbed = client.wait(client.submit(document)["id"], timeout=200)
            assert undisturbed["state"] == "SUCCEEDED", undisturbed["reason"]
            curve = losses_of(client, undisturbed["id"])
            job_id = client.submit(document)["id"]
            # What had not begun would start over.
            _reaches(client, job_id, 10)
        # SIGTERM ended the first one: what it left is taken over as well.
        for kill in range(1, KILLS + 1):
            with controller_at(grpc, state) as (controller, client):
                _reaches(client, job_id, 100 * kill)
                controller.process.kill()
                controller.process.wait()
            # Away for a while, in which nobody could say what the workers do.
            time.sleep(kill)
        with controller_at(grpc, state) as (_, client):
            job = client.wait(job_id, timeout=200)
            assert job["state"] == "SUCCEEDED", job["reason"]
            assert digest_of(job) == digest_of(undisturbed)
            assert losses_of(client, job_id) == curve
            there = {host["pid"] for pod in client.pods()["pods"] for host in pod["hosts"]}
            assert there == set(pids)
            kinds = [event["kind"] for event in client.events(job_id)["events"]]
            assert kinds.count("job.taken_over") == KILLS + 1
            assert (job["attempt"], job["generation"]) == (1, 1)
