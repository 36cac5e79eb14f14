"""While a job runs, the disk below the store is full, then its log is torn: no step is missing."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from landbridge.client import Client
from tests.e2e.curves import digest_of, losses_of
from tests.e2e.test_controller_death import free_port, workers
from tests.small_disk import fill, small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 150
DATA = {"epochs": 1000}


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with small_disk(tmp_path / "disk", "size=16m") as folder:
        yield folder


@contextlib.contextmanager
def controller_on(state: pathlib.Path, grpc: str) -> Iterator[tuple[subprocess.Popen, Client]]:
    """One whose words do not lie on the disk that is full."""
    command = [sys.executable, "-m", "landbridge", "up", "--launcher", "none", "--grpc", grpc]
    command += ["--http", "127.0.0.1:0", "--state-dir", str(state)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = re.search(r"ready: (http://\S+)", process.stdout.readline())
            assert ready, process.stderr and process.stderr.read()
            with Client(ready[1]) as client:
                yield process, client
        finally:
            process.kill()


def steps_on_record(state: pathlib.Path, copy: pathlib.Path, job_id: str) -> int:
    """In a copy, since whoever opens the files writes to them."""
    copy.mkdir()
    for file in state.glob("landbridge.db*"):
        shutil.copy(file, copy)
    with contextlib.closing(sqlite3.connect(copy / "landbridge.db")) as found:
        query = "SELECT count(*) FROM steps WHERE job_id = ?"
        return found.execute(query, (job_id,)).fetchone()[0]


def tear(log: pathlib.Path) -> None:
    """Cut the log in the middle of its last whole frame: 32 bytes, then frames of 24 bytes and a
    page. Frames with other salts are of an earlier round."""
    written = log.read_bytes()
    page_bytes, salts, at = struct.unpack(">I", written[8:12])[0], written[16:24], 32
    while written[at + 8 : at + 16] == salts and at + 24 + page_bytes <= len(written):
        at += 24 + page_bytes
    os.truncate(log, at - page_bytes // 2)


def reaches(client: Client, job_id: str, step: int) -> None:
    client.wait(job_id, until=lambda job: job["step"] >= step, timeout=120)


def test_full_disk_and_torn_log_leave_no_hole_in_the_curve(disk, tmp_path, share_warm, make_spec):
    share_warm(disk)
    grpc = f"127.0.0.1:{free_port()}"
    document = make_spec(data=DATA, train={"steps": STEPS, "digest_every": 50})
    with workers(grpc, tmp_path) as pids:
        with controller_on(disk, grpc) as (process, client):
            client.wait_for_pods(2, timeout=120)
            undisturbed = client.wait(client.submit(document)["id"], timeout=200)
            assert undisturbed["state"] == "SUCCEEDED", undisturbed["reason"]
            curve = losses_of(client, undisturbed["id"])
            job_id = client.submit(document)["id"]
            reaches(client, job_id, 20)
            ballast = fill(disk)
            assert process.wait(60) == 1
            assert process.stderr is not None
            assert re.search(r"landbridge\.db has no room: .* make room", process.stderr.read())
        ballast.unlink()
        with controller_on(disk, grpc) as (process, client):
            client.step(job_id, 60, timeout=120)
            process.kill()
            process.wait()
        before = after = steps_on_record(disk, tmp_path / "before", job_id)
        # What was written last may have been an event.
        for cut in range(100):
            if after < before:
                break
            tear(disk / "landbridge.db-wal")
            after = steps_on_record(disk, tmp_path / f"cut-{cut}", job_id)
        assert 0 < after < before
        with controller_on(disk, grpc) as (_, client):
            job = client.wait(job_id, timeout=200)
            assert job["state"] == "SUCCEEDED", job["reason"]
            assert (job["attempt"], job["generation"]) == (1, 1)
            assert losses_of(client, job_id) == curve
            assert digest_of(job) == digest_of(undisturbed)
            there = {host["pid"] for pod in client.pods()["pods"] for host in pod["hosts"]}
            assert there == set(pids)
