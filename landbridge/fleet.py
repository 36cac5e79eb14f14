"""A controller and workers on this machine that outlive each other: any of them may be killed.

Where `landbridge.local` is one `landbridge up` with everything it started, here every process is a
child of its own, at addresses that stay the same; one that ends is started again at once. All of
them are killed with the process that made the fleet.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from landbridge.client import Client
from landbridge.errors import Unreachable
from landbridge.local import LEASH

Answer = TypeVar("Answer")


class _Kept:
    """A process that is started again whenever it ends."""

    def __init__(self, command: list[str], log: pathlib.Path, environment: Mapping[str, str]):
        self._command = [*LEASH, str(os.getpid()), sys.executable, "-m", "landbridge", *command]
        self._log = log
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._is_closed = False
        self._process = self._start()
        # The kernel ends a leashed process with the thread that started it; this one starts all
        # but the first, and lives as long as the fleet.
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._process.kill()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self._process.wait()
            with self._lock:
                if self._is_closed:
                    return
                self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, **self._environment}
            )


class Fleet:
    """Running processes, and where they are found."""

    def __init__(self, address: str, controller: _Kept, workers: Mapping[str, list[_Kept]]) -> None:
        self.address = address
        """Of the REST API, http://HOST:PORT."""
        self._controller = controller
        self._workers = workers

    @property
    def controller_pid(self) -> int:
        return self._controller.pid

    def pids(self, pod: str) -> list[int]:
        """Of the pod's worker processes that run now, by host index."""
        return [worker.pid for worker in self._workers[pod]]

    @property
    def pods(self) -> list[str]:
        return list(self._workers)


@contextlib.contextmanager
def fleet(
    state_dir: pathlib.Path,
    *,
    pods: int,
    hosts_per_pod: int = 1,
    devices_per_host: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Fleet, Client]]:
    """Run one for a `with` block. `environment` is added to that of this process.

    The thread that enters the block must live until its end.
    """
    http, grpc = (f"127.0.0.1:{port}" for port in _free_ports(2))
    up = ["up", "--launcher", "none", "--http", http, "--grpc", grpc]
    up += ["--state-dir", str(state_dir)]
    added = environment or {}
    state_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def keep(name: str, command: list[str]) -> _Kept:
            kept = _Kept(command, state_dir / f"{name}.log", added)
            stack.callback(kept.close)
            return kept

        def keep_worker(pod: str, host: int) -> _Kept:
            command = ["worker", "--controller", grpc, "--pod", pod]
            command += ["--host-index", str(host), "--hosts", str(hosts_per_pod)]
            command += ["--devices", str(devices_per_host), "--state-dir", str(state_dir)]
            return keep(f"{pod}-host-{host}", command)

        controller = keep("up", up)
        workers = {
            pod: [keep_worker(pod, host) for host in range(hosts_per_pod)]
            for pod in (f"pod-{index}" for index in range(pods))
        }
        client = stack.enter_context(Client(f"http://{http}"))
        yield Fleet(client.address, controller, workers), client


def patiently(ask: Callable[[], Answer], seconds: float) -> Answer:
    """The answer, once the controller gives one: it may be on its way. Raises Unreachable when it
    does not come within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Different ones that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
