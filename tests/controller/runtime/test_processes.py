"""Processes of the local launcher, without workers: tests/contracts has those."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys

import pytest

from controller.config import Fleet
from controller.runtime.launcher import local
from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.command import log_path, pod_names, worker_command
from controller.runtime.launcher.command import worker_environment as environment_of
from controller.runtime.launcher.local import LocalLauncher, core_share
from controller.runtime.launcher.none import NoLauncher
from controller.runtime.launcher.processes import (
    RESTART_DELAYS_SECONDS,
    Process,
    RestartDelay,
    end_processes,
    start_process,
)

IGNORES_TERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


def _plan(folder: pathlib.Path, **fleet: object) -> WorkerPlan:
    return WorkerPlan("127.0.0.1:9", Fleet(**fleet), "secret", str(folder))  # type: ignore[arg-type]


async def _process(folder: pathlib.Path, program: str) -> Process:
    return await start_process([sys.executable, "-c", program], os.environ, folder / "log")


@pytest.mark.parametrize(
    ("cores", "pods", "shares"),
    [
        ([0, 1], 2, [[0], [1]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),
        ([3, 5], 1, [[3, 5]]),
        ([0, 1], 3, [[0, 1], [0, 1], [0, 1]]),
    ],
)
def test_pods_share_cores_in_equal_disjoint_parts_or_all_of_them(
    cores: list[int], pods: int, shares: list[list[int]]
) -> None:
    assert [core_share(cores, index, pods) for index in range(pods)] == shares


def test_worker_is_told_who_it_is_and_the_token_in_the_environment_only(
    tmp_path: pathlib.Path,
) -> None:
    plan = _plan(
        tmp_path, hosts_per_pod=2, devices_per_host=4, link={"bandwidth": "200Mbit", "latency": ""}
    )
    command = worker_command(plan, "pod-1", 1, cores=[2, 3])
    assert command[:4] == [sys.executable, "-m", "landbridge", "worker"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--controller": "127.0.0.1:9",
        "--pod": "pod-1",
        "--host-index": "1",
        "--hosts": "2",
        "--devices": "4",
        "--state-dir": str(tmp_path),
        "--cpus": "2,3",
        "--link-bandwidth": "200Mbit",
    }
    environment = environment_of(plan, {"A": "b"})
    assert environment["A"] == "b" and environment["LANDBRIDGE_JOIN_TOKEN"] == "secret"
    assert not any("secret" in word for word in command)


def test_worker_of_a_plain_fleet_is_told_no_more_than_it_needs(tmp_path: pathlib.Path) -> None:
    link = {"latency": "5ms", "drop": "1%"}
    plan = _plan(tmp_path, link=link, link_emulator=True, device_flops_per_second=2e9)
    command = worker_command(plan, "pod-0", 0, listen="0.0.0.0")
    assert "--cpus" not in command and "--link-bandwidth" not in command
    told = ["--link-latency", "5ms", "--link-drop", "1%", "--link-emulator"]
    told += ["--device-flops-per-second", "2000000000.0"]
    assert command[-9:] == ["--listen", "0.0.0.0", *told]
    assert pod_names(2) == ["pod-0", "pod-1"]
    assert log_path(plan, "pod-0", 1) == tmp_path / "logs" / "pod-0-host-1.log"


def test_restarts_wait_longer_while_a_pod_ends_soon_and_start_over_when_it_lived() -> None:
    delay = RestartDelay()
    soon = [delay.after(1.0) for _ in range(8)]
    assert soon == [*RESTART_DELAYS_SECONDS, 10.0, 10.0] and soon[0] == 0.0
    assert delay.after(19.0) == 10.0
    assert delay.after(21.0) == 0.0
    assert delay.after(1.0) == RESTART_DELAYS_SECONDS[1]


async def test_output_of_a_process_is_appended_to_its_log(tmp_path: pathlib.Path) -> None:
    for word in ("first", "second"):
        program = f"import sys; print({word!r}); sys.stderr.write('loud ')"
        log = tmp_path / "logs" / "x.log"
        process = await start_process([sys.executable, "-c", program], os.environ, log)
        assert await process.wait() == 0
    written = log.read_text()
    assert written.count("loud ") == 2 and written.index("first") < written.index("second")


async def test_process_that_ignores_the_request_to_end_is_killed_after_the_grace(
    tmp_path: pathlib.Path,
) -> None:
    deaf = await _process(tmp_path, IGNORES_TERM)
    polite = await _process(tmp_path, "import time; time.sleep(600)")
    async with asyncio.timeout(10):
        while True:
            if "deaf" in (tmp_path / "log").read_text():
                break
            await asyncio.sleep(0.01)
    await end_processes([deaf, polite], signal.SIGTERM)
    assert deaf.returncode == -signal.SIGKILL
    assert polite.returncode == -signal.SIGTERM


async def test_children_of_a_process_end_with_it(tmp_path: pathlib.Path) -> None:
    program = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = await _process(tmp_path, program)
    async with asyncio.timeout(10):
        while True:
            if (tmp_path / "log").read_text().endswith("\n"):
                break
            await asyncio.sleep(0.01)
    child = int((tmp_path / "log").read_text())
    await end_processes([parent], signal.SIGKILL)
    async with asyncio.timeout(10):
        while True:
            if not _is_running(child):
                break
            await asyncio.sleep(0.01)


async def test_processes_that_have_ended_are_left_alone(tmp_path: pathlib.Path) -> None:
    ended = await _process(tmp_path, "")
    await ended.wait()
    await end_processes([ended], signal.SIGTERM)
    await end_processes([], signal.SIGKILL)
    assert ended.returncode == 0


async def test_pod_that_cannot_be_started_is_reported_by_name_and_tried_again_as_a_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second host of two cannot be started at first."""
    started: list[Process] = []
    complete = asyncio.Event()

    async def start(*_: object) -> Process:
        if len(started) == 1 and not caplog.records:
            raise OSError("no space left on device")
        started.append(await _process(tmp_path, "import time; time.sleep(600)"))
        if len(started) == 3:
            complete.set()
        return started[-1]

    monkeypatch.setattr(local, "start_process", start)
    launcher = LocalLauncher()
    await launcher.start(_plan(tmp_path, pods=1, hosts_per_pod=2))
    await asyncio.wait_for(complete.wait(), 10)
    assert started[0].returncode == -signal.SIGKILL
    (report,) = caplog.records
    assert report.levelname == "ERROR"
    assert report.getMessage() == (
        "pod-0 could not be kept running and is tried again: OSError: no space left on device"
    )
    await launcher.stop()
    assert all(process.returncode is not None for process in started)


async def test_pod_that_can_never_be_started_is_tried_ever_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    enough = asyncio.Event()

    async def fail(*_: object) -> Process:
        raise OSError("no space left on device")

    class Delay(RestartDelay):
        def after(self, lived_seconds: float) -> float:
            waited.append(super().after(lived_seconds))
            if len(waited) == len(RESTART_DELAYS_SECONDS):
                enough.set()
            return 0.0

    monkeypatch.setattr(local, "start_process", fail)
    monkeypatch.setattr(local, "RestartDelay", Delay)
    launcher = LocalLauncher()
    await launcher.start(_plan(tmp_path, pods=1))
    await asyncio.wait_for(enough.wait(), 10)
    await launcher.stop()
    assert waited[: len(RESTART_DELAYS_SECONDS)] == list(RESTART_DELAYS_SECONDS)


async def test_pod_that_somebody_else_started_is_not_the_launchers_to_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher = LocalLauncher()
    await launcher.restart_pod("pod-7", [os.getpid()])
    assert "pod-7 was started by somebody else" in caplog.text
    await launcher.stop()


async def test_launcher_of_nothing_starts_and_ends_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = NoLauncher()
    await launcher.start(_plan(tmp_path))
    await launcher.restart_pod("pod-0", [os.getpid()])
    await launcher.stop()
    assert "pod-0 must be started again" in caplog.text


def _is_running(pid: int) -> bool:
    """A zombie has ended; init has yet to fetch its status."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
