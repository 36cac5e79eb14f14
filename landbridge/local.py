"""A whole Landbridge on this machine for as long as a `with` block lasts: demos, tests, benchmarks.

Starts `landbridge up` as a process of its own on free ports and stops it, with everything it
started, at the end, also when the block ends by an exception; when this process is killed, so is
all of it. Nothing of the controller is imported here.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

_READY = re.compile(
    r"landbridge is ready: (?P<address>http://\S+) grpc (?P<grpc>\S+) metrics (?P<metrics>http://\S+)"
)

LEASH = (sys.executable, "-m", "controller.runtime.launcher.leash")
"""Ends a command with this process, whatever this one dies of and however early."""

STOP_SECONDS = 30.0
"""`up` gives its workers 3 s to leave before it kills them; ten times that is a hang."""


class LocalControllerError(RuntimeError):
    """`landbridge up` ended before it was ready; the message has what it said."""


class LocalController:
    """A running `landbridge up`."""

    def __init__(
        self, process: subprocess.Popen[str], address: str, grpc: str, metrics: str
    ) -> None:
        self.process = process
        self.address = address
        """Of the REST API, http://HOST:PORT."""
        self.grpc = grpc
        """HOST:PORT that workers dial."""
        self.metrics = metrics
        """URL of the metrics for Prometheus."""

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status. What does not end in STOP_SECONDS is killed,
        and subprocess.TimeoutExpired is raised.
        """
        return _stop(self.process)


@contextlib.contextmanager
def local_controller(
    *, state_dir: pathlib.Path | None = None, arguments: Sequence[str] = ()
) -> Iterator[LocalController]:
    """Run `landbridge up` with these further arguments; raises LocalControllerError.

    Without a state directory everything is kept in a temporary one and forgotten. The thread that
    enters the block must live until its end.
    """
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="landbridge-"))
            state_dir = pathlib.Path(name)
        state_dir.mkdir(parents=True, exist_ok=True)
        said = stack.enter_context((state_dir / "up.log").open("w+"))
        command = [*LEASH, str(os.getpid()), sys.executable, "-m", "landbridge", "up"]
        command += ["--state-dir", str(state_dir), "--http", "127.0.0.1:0"]
        command += ["--grpc", "127.0.0.1:0", *arguments]
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        )
        stack.callback(_stop, process)
        yield LocalController(process, **_wait_until_ready(process, state_dir))


def _wait_until_ready(process: subprocess.Popen[str], state_dir: pathlib.Path) -> dict[str, str]:
    """What the ready line says, by name; the end of the output is the end of the process."""
    assert process.stdout is not None
    for line in process.stdout:
        found = _READY.search(line)
        if found:
            return found.groupdict()
    status = process.wait()
    said = (state_dir / "up.log").read_text().strip()
    raise LocalControllerError(f"landbridge up ended with status {status}: {said}")


def _stop(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
