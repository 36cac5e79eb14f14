"""Worker processes of one machine: how they are started, ended, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Process: TypeAlias = asyncio.subprocess.Process

TERM_GRACE_SECONDS = 3.0
"""A worker leaves its job at the next step boundary; one in a long step or in the compiler does not
get there, and is killed."""

RESTART_DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second, ... restart in a row."""

_STEADY_SECONDS = 20.0
"""A pod that lived so long starts over at 0: its hosts dial in within 5 to 10 s on two cores, so
that it had come to work."""


class RestartDelay:
    """Grows while a pod ends soon after each start."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, lived_seconds: float) -> float:
        """Seconds to wait before the next start."""
        if lived_seconds > _STEADY_SECONDS:
            self._failures = 0
        delay = RESTART_DELAYS_SECONDS[min(self._failures, len(RESTART_DELAYS_SECONDS) - 1)]
        self._failures += 1
        return delay


async def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: pathlib.Path
) -> Process:
    """Output is appended to the log, whose folder is made when it is missing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # Its own session: Ctrl-C at the terminal reaches `up` alone, which ends workers
            # itself.
            start_new_session=True,
        )


async def end_processes(processes: Sequence[Process], first: signal.Signals) -> None:
    """Send `first`, then KILL to what is left after the grace; returns when all are gone."""
    alive = [process for process in processes if process.returncode is None]
    for process in alive:
        _signal(process, first)
    if first is not signal.SIGKILL and alive:
        ends = [asyncio.create_task(process.wait()) for process in alive]
        await asyncio.wait(ends, timeout=TERM_GRACE_SECONDS)
        for process in alive:
            _signal(process, signal.SIGKILL)
    await asyncio.gather(*(process.wait() for process in alive))


def _signal(process: Process, which: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, which)
