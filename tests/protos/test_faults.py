from __future__ import annotations

import errno
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

import controller
import workers
from protos import faults
from protos.faults import Fault

SOURCES = [pathlib.Path(package.__file__).parent for package in (controller, workers)]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where this process looks for what it shall do wrong."""
    monkeypatch.setattr(faults, "_folder", str(tmp_path))
    return tmp_path


def test_nothing_happens_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "_folder", None)
    faults.arm(tmp_path, os.getpid(), Fault("step", "full"))
    assert faults.at("step") is None
    assert not faults.has_happened(tmp_path, os.getpid())


def test_fault_happens_once_and_at_its_place(folder):
    faults.arm(folder, os.getpid(), Fault("state", "corrupt"))
    assert faults.at("step") is None
    assert not faults.has_happened(folder, os.getpid())
    assert faults.at("state") == Fault("state", "corrupt")
    assert faults.has_happened(folder, os.getpid())
    assert faults.at("state") is None


def test_fault_of_another_process_is_left_to_it(folder):
    faults.arm(folder, os.getpid() + 1, Fault("step", "full"))
    assert faults.at("step") is None


def test_fault_that_was_taken_back_does_not_happen(folder):
    faults.arm(folder, os.getpid(), Fault("step", "full"))
    assert faults.disarm(folder, os.getpid())
    assert faults.at("step") is None
    assert not faults.disarm(folder, os.getpid())


def test_disk_is_full(folder):
    faults.arm(folder, os.getpid(), Fault("write", "full"))
    with pytest.raises(OSError, match="No space left") as raised:
        faults.at("write")
    assert raised.value.errno == errno.ENOSPC


def test_thread_is_delayed(folder):
    faults.arm(folder, os.getpid(), Fault("step", "delay", 0.2))
    start = time.monotonic()
    faults.at("step")
    assert time.monotonic() - start >= 0.2


def test_thread_hangs_and_others_go_on(folder):
    faults.arm(folder, os.getpid(), Fault("step", "hang"))
    threading.Thread(target=lambda: faults.at("step"), daemon=True, name="hangs").start()
    while not faults.has_happened(folder, os.getpid()):
        time.sleep(0.005)
    assert "hangs" in {thread.name for thread in threading.enumerate()}


def test_process_is_killed(tmp_path):
    script = "import sys; from protos import faults; input(); faults.at('commit'); sys.exit(3)"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        env={**os.environ, faults.FOLDER_VARIABLE: str(tmp_path)},
    )
    faults.arm(tmp_path, process.pid, Fault("commit", "kill"))
    process.communicate(b"\n", timeout=30)
    assert process.returncode == -9
    assert faults.has_happened(tmp_path, process.pid)


@pytest.mark.parametrize(
    ("place", "kind", "wrong"), [("nowhere", "kill", "nowhere"), ("step", "melt", "melt")]
)
def test_unknown_names_are_refused_with_those_there_are(place, kind, wrong):
    with pytest.raises(ValueError, match=f"'{wrong}'; there are .*(heartbeat|kill)"):
        Fault(place, kind)


def test_every_place_is_passed_somewhere_and_every_one_that_is_passed_is_named():
    text = "".join(path.read_text() for source in SOURCES for path in source.rglob("*.py"))
    assert set(re.findall(r'faults\.at\("(\w+)"\)', text)) == set(faults.PLACES)
