"""Processor time of other processes, thread by thread, as Linux counts it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterable, Mapping

_COMPUTING_THREADS = 2
"""Of a worker: the one that starts programs, which also runs small ones, and XLA's."""

Reading = Mapping[int, Mapping[str, int]]
"""Nanoseconds by process and thread."""


class CpuClock:
    """Reads the threads of some processes."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)

    def read(self) -> Reading:
        """All threads that live now."""
        return {pid: _threads(pid) for pid in self._pids}

    def beside_computing(self, before: Reading, after: Reading) -> float:
        """Seconds between two readings, of all processes, without the threads of each that worked
        most."""
        total = 0
        for pid, threads in after.items():
            spent = sorted(spent - before[pid].get(thread, 0) for thread, spent in threads.items())
            total += sum(spent[:-_COMPUTING_THREADS])
        return total / 1e9


def _threads(pid: int) -> dict[str, int]:
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[task.name] = int((task / "schedstat").read_text().split()[0])
    return found
