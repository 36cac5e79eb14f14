"""The Ray launcher trains the same bits as the local one, and leaves nothing on the machine."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from landbridge.client import Client
from landbridge.local import LocalController, local_controller

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.timeout(300)]

Document = dict[str, Any]

GONE_SECONDS = 40.0
"""Ray gives its servers up to 10 s to leave, one after the other."""


def stat(pid: int) -> tuple[str, str, int]:
    """Name, state and parent; a zombie for a process that is not there."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", "Z", 0
    before, _, after = text.rpartition(")")
    state, parent, *_ = after.split()
    return before.partition("(")[2], state, int(parent)


def descendants(pid: int) -> set[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    parents = {pid: stat(pid)[2] for pid in pids}
    found: set[int] = set()
    while grown := {p for p, parent in parents.items() if parent in found | {pid}} - found:
        found |= grown
    return found


def names(pids: set[int]) -> Iterator[str]:
    """Of those that still run."""
    for pid in pids:
        name, state, _ = stat(pid)
        if state != "Z":
            yield name


def up(state: pathlib.Path, launcher: str) -> Any:
    arguments = ["--launcher", launcher, "--pods", "2", "--devices-per-host", "1"]
    return local_controller(state_dir=state, arguments=arguments)


def train(controller: LocalController, document: Document) -> dict[int, Document]:
    """Step -> what matters of its record."""
    with Client(controller.address) as client:
        job = client.wait(client.submit(document)["id"], timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        steps = client.steps(job["id"], limit=1000)["steps"]
    return {step["step"]: {"loss": step["loss"], "digests": step["digests"]} for step in steps}


def test_ray_and_local_train_the_same_bits(make_spec, tmp_path: pathlib.Path) -> None:
    document = make_spec(train={"steps": 10})
    with up(tmp_path, "local") as controller:
        local = train(controller, document)
    with up(tmp_path, "ray") as controller:
        ray = train(controller, document)
        started = descendants(controller.process.pid)
        assert "raylet" in set(names(started))
    assert ray == local
    assert sorted(ray[10]["digests"]) == ["pod-0", "pod-1"]
    assert len(set(ray[10]["digests"].values())) == 1
    assert list(names(started)) == []


def test_nothing_outlives_a_controller_that_is_killed(tmp_path: pathlib.Path) -> None:
    with up(tmp_path, "ray") as controller:
        with Client(controller.address) as client:
            deadline = time.monotonic() + 60
            while len(client.pods()["pods"]) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
        started = descendants(controller.process.pid)
        assert {"raylet", "gcs_server"} <= set(names(started))
        controller.process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + GONE_SECONDS
        while any(names(started)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(names(started)) == []
