"""A whole Landbridge on this machine for as long as a `with` block lasts: demos, tests, benchmarks.

Starts `landbridge up` as a process of its own on free ports and stops it, with everything it
started, at the end. Nothing of the controller is imported here.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

_READY = re.compile(r"landbridge is ready: (?P<http>http://\S+) grpc (?P<grpc>\S+)")

STOP_SECONDS = 30.0
"""`up` gives its workers 3 s to leave before it kills them; ten times that is a hang."""


class LocalControllerError(RuntimeError):
    """`landbridge up` ended before it was ready; the message has what it said."""


class LocalController:
    """A running `landbridge up`."""

    def __init__(self, process: subprocess.Popen[str], address: str, grpc: str) -> None:
        self.process = process
        self.address = address
        """Of the REST API, http://HOST:PORT."""
        self.grpc = grpc
        """HOST:PORT that workers dial."""

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status. Kills what does not end in STOP_SECONDS."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def local_controller(
    *, state_dir: pathlib.Path | None = None, arguments: Sequence[str] = ()
) -> Iterator[LocalController]:
    """Run `landbridge up` with these further arguments; raises LocalControllerError.

    Without a state directory everything is kept in a temporary one and forgotten.
    """
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="landbridge-"))
            state_dir = pathlib.Path(name)
        state_dir.mkdir(parents=True, exist_ok=True)
        said = stack.enter_context((state_dir / "up.log").open("w+"))
        command = [sys.executable, "-m", "landbridge", "up", "--state-dir", str(state_dir)]
        command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        controller = LocalController(process, *_wait_until_ready(process, state_dir))
        stack.callback(_close, process)
        try:
            yield controller
        finally:
            controller.stop()


def _wait_until_ready(process: subprocess.Popen[str], state_dir: pathlib.Path) -> tuple[str, str]:
    """Addresses from the ready line; the end of the output is the end of the process."""
    assert process.stdout is not None
    for line in process.stdout:
        found = _READY.search(line)
        if found:
            return found["http"], found["grpc"]
    status = process.wait()
    said = (state_dir / "up.log").read_text().strip()
    raise LocalControllerError(f"landbridge up ended with status {status}: {said}")


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.close()
