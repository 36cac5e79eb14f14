"""However a program that started others comes to its end, none of them stays."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from landbridge.client import Client
from landbridge.local import local_controller

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

GONE_SECONDS = 10.0
SEEN_SECONDS = 60.0


def programs(folder: pathlib.Path, word: str = "") -> list[str]:
    """Command lines of what runs and names the folder in them, and the word among theirs."""
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in item for item in words) and (not word or word in words):
            lines.append(" ".join(words))
    return lines


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def demo(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that keeps its state in tmp_path."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "landbridge.demo"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["up starts", "workers run"])
def test_a_demo_that_is_stopped_stops_what_it_started(
    demo: subprocess.Popen[str], tmp_path: pathlib.Path, moment: str, number: signal.Signals
) -> None:
    if moment == "up starts":
        assert until(lambda: programs(tmp_path, "up") != [], SEEN_SECONDS)
    else:
        assert demo.stderr is not None
        assert any("watch it at" in line for line in demo.stderr)
        assert until(lambda: len(programs(tmp_path, "worker")) == 2, SEEN_SECONDS)
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=60)
    assert programs(tmp_path) == []
    assert demo.returncode == 128 + number
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_killed_takes_what_it_started_with_it(
    demo: subprocess.Popen[str], tmp_path: pathlib.Path
) -> None:
    assert until(lambda: len(programs(tmp_path, "worker")) == 2, SEEN_SECONDS)
    demo.kill()
    assert until(lambda: programs(tmp_path) == [], GONE_SECONDS), programs(tmp_path)


def test_workers_end_with_an_up_that_is_killed(tmp_path: pathlib.Path) -> None:
    arguments = ["--pods", "2", "--hosts-per-pod", "1", "--devices-per-host", "1"]
    with local_controller(state_dir=tmp_path, arguments=arguments) as controller:
        with Client(controller.address) as client:
            client.wait_for_pods(2, timeout=SEEN_SECONDS)
        assert len(programs(tmp_path, "worker")) == 2
        controller.process.kill()
        assert until(lambda: programs(tmp_path) == [], GONE_SECONDS), programs(tmp_path)
