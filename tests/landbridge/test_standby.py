"""Two controllers on one state, as real processes: one runs, the other is refused or stands by."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import httpx2
import pytest

from landbridge.local import local_controller

NO_PODS = ("--pods", "0", "--launcher", "none")

pytestmark = pytest.mark.timeout(120)


class Up:
    """A `landbridge up` that may never get ready, and what it says."""

    def __init__(self, state: pathlib.Path, http: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "landbridge", "up", *NO_PODS, *arguments]
        command += ["--state-dir", str(state), "--http", http, "--grpc", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def says(self, pattern: str) -> re.Match[str]:
        """The next line on stderr that has this."""
        return self._next(self.process.stderr, pattern)

    def is_ready(self) -> str:
        """Waits for it; returns the URL of the API."""
        return self._next(self.process.stdout, r"ready: (http://\S+)")[1]

    def _next(self, stream: object, pattern: str) -> re.Match[str]:
        said = []
        for line in stream:  # type: ignore[attr-defined]
            said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it ended and said {said}")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def up(state: pathlib.Path, *arguments: str, http: str = "127.0.0.1:0") -> Iterator[Up]:
    started = Up(state, http, arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_second_controller_is_refused_and_told_who_runs(tmp_path: pathlib.Path) -> None:
    with local_controller(state_dir=tmp_path, arguments=NO_PODS) as first:
        at = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        before = (tmp_path / "landbridge.db-wal").read_bytes()
        command = [sys.executable, "-m", "landbridge", "up", *NO_PODS, *at, "--json"]
        command += ["--state-dir", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 7
        problem = json.loads(second.stdout)["error"]
        assert problem["type"] == "urn:landbridge:problem:state-held"
        for told in (str(first.process.pid), first.address, first.grpc, str(tmp_path), "--standby"):
            assert told in problem["detail"]
        assert (tmp_path / "landbridge.db-wal").read_bytes() == before
        assert httpx2.get(f"{first.address}/readyz").status_code == 200


def test_second_state_directory_on_the_same_database_is_refused(tmp_path: pathlib.Path) -> None:
    store = ["--store", f"sqlite:///{tmp_path / 'shared.db'}"]
    with up(tmp_path / "first", *store) as first:
        first.is_ready()
        with up(tmp_path / "second", *store) as second:
            second.says(f"is held by another controller: process {first.process.pid} on")
            assert second.process.wait(30) == 7


def test_controller_that_stands_by_answers_health_alone_and_takes_over_from_a_killed_one(
    tmp_path: pathlib.Path,
) -> None:
    port = free_port()
    with up(tmp_path) as first:
        address = first.is_ready()
        with up(tmp_path, "--standby", http=f"127.0.0.1:{port}") as second:
            said = second.says("stands by: .* is held by (.*)")
            assert f"process {first.process.pid} on" in said[1] and address in said[1]
            base = f"http://127.0.0.1:{port}"
            assert httpx2.get(f"{base}/livez").status_code == 200
            for path in ("/readyz", "/api/v1/jobs", "/"):
                answer = httpx2.get(base + path)
                assert answer.status_code == 503, path
                assert answer.json()["type"] == "urn:landbridge:problem:stands-by"
            assert address in httpx2.get(f"{base}/api/v1/jobs").json()["detail"]
            with up(tmp_path, "--standby") as third:
                third.says("stands by: ")
                assert third.end(signal.SIGTERM) == 0
            first.end(signal.SIGKILL)
            second.says("took over")
            assert second.is_ready() == base
            assert httpx2.get(f"{base}/readyz").status_code == 200
            assert second.end(signal.SIGTERM) == 0


def test_controller_that_stands_by_at_the_same_address_takes_it_over(
    tmp_path: pathlib.Path,
) -> None:
    http = f"127.0.0.1:{free_port()}"
    with up(tmp_path, http=http) as first:
        first.is_ready()
        with up(tmp_path, "--standby", http=http) as second:
            second.says("stands by: ")
            second.says(f"answers no health checks .* cannot listen on {http}")
            first.end(signal.SIGKILL)
            assert second.is_ready() == f"http://{http}"


def test_controller_whose_lock_file_was_deleted_stops_and_says_so(tmp_path: pathlib.Path) -> None:
    with up(tmp_path) as only:
        only.is_ready()
        (tmp_path / "controller.lock").unlink()
        only.says("controller.lock was deleted or replaced")
        assert only.process.wait(30) == 1


def test_damaged_store_keeps_a_controller_from_starting(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "landbridge.db"
    path.write_bytes(b"not a database" * 100)
    with up(tmp_path) as only:
        only.says(f"error: the controller stopped: the store {path} is damaged; move")
        assert only.process.wait(30) == 1
