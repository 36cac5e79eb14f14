"""What a process is told to do wrong, at named places in its code: for tests and
`landbridge chaos`.

Off, and then as cheap as looking at a name, unless LANDBRIDGE_FAULTS names a folder when a process
starts. There a file PID.json arms one fault for that process. It happens once, when its place is
next passed; the file is renamed to PID.done just before, so that whoever armed it can tell.

Here, since controller and workers share nothing but what passes between processes.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import signal
import threading
import time

FOLDER_VARIABLE = "LANDBRIDGE_FAULTS"

PLACES = {
    "heartbeat": "a host is about to send a heartbeat; a hang there is a host that falls silent",
    "step": "a host is about to compute a step",
    "apply": "a host has all gradients and is about to apply the step",
    "state": "a host has applied a step; corrupt flips a bit of a parameter",
    "receive": "a host has got a frame; corrupt changes a byte of it, drop breaks its connection",
    "heal": "a host is about to send or get the state of a job",
    "write": "a host is about to write its share of a checkpoint",
    "publish": "a host is about to make shares a checkpoint",
    "commit": "the controller is about to write what it has decided",
    "committed": "the controller has written what it decided and told nobody yet",
    "clock": "the controller looks at its clock; jump sets it forward from then on",
}
"""By name, when it is passed."""

KINDS = {
    "kill": "the process gets SIGKILL",
    "hang": "the thread stops there for good",
    "delay": "the thread stops there for `seconds`",
    "full": "OSError: no space left on device",
    "corrupt": "data is changed",
    "drop": "data is lost",
    "jump": "the clock is `seconds` ahead",
}
"""By name, what happens. The last three are for places that know how."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong once."""

    place: str
    kind: str
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"no place is called {self.place!r}; there are {', '.join(PLACES)}")
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")


_folder = os.environ.get(FOLDER_VARIABLE)
_lock = threading.Lock()


def at(place: str) -> Fault | None:
    """Have the fault happen that is armed for this place, when there is one; returns it where the
    place itself knows how. Raises OSError when the disk is to be full."""
    if _folder is None:
        return None
    fault = _claimed(pathlib.Path(_folder), place)
    if fault is not None:
        _happens(fault)
    return fault


def arm(folder: pathlib.Path, pid: int, fault: Fault) -> None:
    """Have it happen in a process that was started with this folder."""
    target = _armed(folder, pid)
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps(dataclasses.asdict(fault)), encoding="utf-8")
    fresh.rename(target)


def disarm(folder: pathlib.Path, pid: int) -> bool:
    """What is armed for a process shall not happen any more; False when it has or nothing was."""
    try:
        _armed(folder, pid).unlink()
    except FileNotFoundError:
        return False
    return True


def has_happened(folder: pathlib.Path, pid: int) -> bool:
    """Whether what was armed last for a process has."""
    return _armed(folder, pid).with_suffix(".done").exists()


def _armed(folder: pathlib.Path, pid: int) -> pathlib.Path:
    return folder / f"{pid}.json"


def _claimed(folder: pathlib.Path, place: str) -> Fault | None:
    path = _armed(folder, os.getpid())
    with _lock:
        try:
            fault = Fault(**json.loads(path.read_text(encoding="utf-8")))
            if fault.place != place:
                return None
            path.rename(path.with_suffix(".done"))
        except FileNotFoundError:
            return None
    return fault


def _happens(fault: Fault) -> None:
    match fault.kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "delay":
            time.sleep(fault.seconds)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
