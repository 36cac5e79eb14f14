"""One process at a time, with the system's own locks and real processes."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from controller.runtime import lease
from controller.runtime.lease import Holder, LeaseHeld, LeaseLost

ME = Holder.this_process("http://127.0.0.1:1", "127.0.0.1:2")

HOLDING = """
import pathlib, subprocess, sys
from controller.runtime import lease
held = lease.take(pathlib.Path(sys.argv[1]), lease.Holder.this_process("http://h:1", "h:2"))
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "state" / lease.NAME


@pytest.fixture
def holding(path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file, and has a child that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)
    process.stdout.close()
    process.stdin.close()


def test_second_one_is_refused_and_told_who_holds_it(holding, path: pathlib.Path) -> None:
    with pytest.raises(LeaseHeld, match=f"{path.parent} is held .* process {holding.pid} on") as e:
        lease.take(path, ME)
    assert e.value.holder is not None
    assert (e.value.holder.http, e.value.holder.grpc) == ("http://h:1", "h:2")
    assert "--standby" in str(e.value)
    # Asking has left what the holder says as it was.
    assert lease.read(path) == e.value.holder


def test_killed_process_lets_go_at_once_though_its_child_lives(holding, path: pathlib.Path) -> None:
    holding.kill()
    holding.wait()
    taken = lease.take(path, ME)
    assert lease.read(path) == ME
    taken.release()


def test_stopped_process_goes_on_holding(holding, path: pathlib.Path) -> None:
    holding.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holding.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(LeaseHeld):
        lease.take(path, ME)


def test_released_file_is_free_and_what_is_said_of_it_is_replaced(path: pathlib.Path) -> None:
    talkative = Holder(1, "a-host-with-a-long-name", ME.since, ME.http, ME.grpc)
    lease.take(path, talkative).release()
    taken = lease.take(path, ME)
    assert lease.read(path) == ME
    moved = Holder.this_process("http://h:8400", "h:8401")
    taken.tell(moved)
    assert lease.read(path) == moved
    taken.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_holder_that_has_not_said_who_it_is_holds_all_the_same(
    path: pathlib.Path, text: str
) -> None:
    taken = lease.take(path, ME)
    path.write_text(text)
    with pytest.raises(LeaseHeld, match="it has not said which"):
        lease.take(path, ME)
    taken.release()


def test_holder_whose_file_was_deleted_knows(path: pathlib.Path) -> None:
    taken = lease.take(path, ME)
    taken.check()
    path.unlink()
    with pytest.raises(LeaseLost, match=f"{path} was deleted or replaced"):
        taken.check()
    taken.release()


def test_holder_whose_file_was_replaced_knows_and_the_other_one_holds(path: pathlib.Path) -> None:
    taken = lease.take(path, ME)
    path.unlink()
    other = lease.take(path, ME)
    other.check()
    with pytest.raises(LeaseLost):
        taken.check()
    taken.release()
    other.release()


def test_place_that_cannot_be_written_is_named_with_the_remedy(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / lease.NAME
    with pytest.raises(OSError, match=rf"{path} cannot be written .* --state-dir"):
        lease.take(path, ME)
