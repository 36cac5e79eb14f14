"""A process of its own that answers every line of its input with a line of JSON, set up like a
worker of a simulated pod on one core."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from controller.runtime.launcher.command import WORKER_TUNABLES


class Role:
    """The parent's end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> Any:
        """The answer to a line; RuntimeError when the process has ended."""
        self.tell(line)
        return self.answer()

    def tell(self, line: str) -> None:
        """Say a line and let the answer come when it comes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """The next line of output; RuntimeError when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise RuntimeError(f"{self._process.args} ended with status {status}; see its stderr")
        return json.loads(line)


def answering() -> Callable[[Any], None]:
    """For the process itself: how to answer, when libraries print to the same output. What they
    print goes to stderr from now on."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(document: Any) -> None:
        print(json.dumps(document), file=output, flush=True)

    return answer


@contextlib.contextmanager
def role(module: str, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Role]:
    """Run `python -m MODULE ARGUMENTS` for a `with` block; `prefix` is a command that runs it, such
    as one that enters a namespace."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**WORKER_TUNABLES, **os.environ, "NPROC": "1", "JAX_PLATFORMS": "cpu"},
    )
    try:
        yield Role(process)
    finally:
        process.kill()
        process.communicate()
