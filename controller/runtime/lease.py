"""Which controller may change the store: the one process that holds its lock file.

The lock is flock(2). The system gives it up with the process, however that ends, so that nobody
waits for a lease to run out; a process that is only stopped (SIGSTOP) keeps it. What the file says
is for people: nothing is decided by it. The `filelock` package empties the file whenever it tries,
and with it what the holder says, which is why the one system call is made here.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import socket
from typing import Self

NAME = "controller.lock"
"""Of the lock file in a state directory."""


class LeaseHeld(RuntimeError):
    """Another controller holds the lock file; says which, and what to do."""

    def __init__(self, path: pathlib.Path, holder: Holder | None) -> None:
        self.holder = holder
        """None in the instant before a holder has said who it is."""
        super().__init__(
            f"{path.parent} is held by another controller: {holder or 'it has not said which'}; "
            "stop that one, or name another directory with --state-dir, or wait for it with "
            "--standby"
        )


class LeaseLost(RuntimeError):
    """The lock file of this controller was deleted or replaced, and another one may run."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(
            f"{path} was deleted or replaced while this controller held it, so that another one "
            "may write to the store by now; leave the file alone as long as a controller runs, "
            "and start one again"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock file, in its own words."""

    pid: int
    host: str
    since: str
    """ISO 8601, UTC."""
    http: str
    """Where its API answers."""
    grpc: str
    """HOST:PORT that workers dial."""

    @classmethod
    def this_process(cls, http: str, grpc: str) -> Self:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), now, http, grpc)

    def __str__(self) -> str:
        return (
            f"process {self.pid} on {self.host} since {self.since}, "
            f"its API at {self.http}, workers at {self.grpc}"
        )


class Lease:
    """A lock file that this process holds until `release` or its end."""

    def __init__(self, path: pathlib.Path, descriptor: int, holder: Holder) -> None:
        self._path = path
        self._descriptor = descriptor
        self._inode = _inode(os.fstat(descriptor))
        self.tell(holder)

    def tell(self, holder: Holder) -> None:
        """Say who holds it; raises OSError."""
        text = json.dumps(dataclasses.asdict(holder)).encode()
        # In one call and over what was there, so that readers find the one or the other, and no
        # room is needed on a file system that has none.
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def check(self) -> None:
        """Raises LeaseLost once the file is not the one that was locked."""
        try:
            found = _inode(self._path.stat())
        except FileNotFoundError:
            found = None
        if found != self._inode:
            raise LeaseLost(self._path)

    def release(self) -> None:
        os.close(self._descriptor)


def take(path: pathlib.Path, holder: Holder) -> Lease:
    """Hold the lock file, made with its directory where there is none. Does not wait.

    Raises LeaseHeld, and OSError where the file cannot be made, written or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Somebody may have deleted the file between the two calls.
                if _is_at(path, descriptor):
                    return Lease(path, descriptor, holder)
            except BlockingIOError:
                os.close(descriptor)
                raise LeaseHeld(path, read(path)) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written and locked: {error.strerror}; a controller needs a "
            "directory of its own with room in it: mend this one, or name another with --state-dir"
        ) from error


def read(path: pathlib.Path) -> Holder | None:
    """Who said last that it holds the file; None where nobody did."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return _inode(path.stat()) == _inode(os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
