"""By how much this process grew at its largest, as Linux counts it."""

from __future__ import annotations

import ctypes
import pathlib


class PeakMemory:
    """From its making on."""

    def __init__(self) -> None:
        # What was freed before would be used again, and the growth be hidden in it.
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_bytes("VmRSS")

    def growth(self) -> int:
        """Bytes of resident memory."""
        return _status_bytes("VmHWM") - self._before


def _status_bytes(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)
