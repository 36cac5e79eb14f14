"""Becomes a command that the kernel kills when its parent dies, whatever the parent dies of.

    python -m controller.runtime.launcher.leash PARENT_PID COMMAND...

A process of its own because a function run between fork and exec (subprocess's preexec_fn) may
deadlock in a parent with threads, and Ray and gRPC have many. The kernel takes the thread that
started the process for its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Does not return. Only Linux has such a leash; elsewhere the command runs without one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent_pid:
            raise SystemExit("the parent died before its child was tied to it")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
