"""What every thread of this process is at, for people who look at one that does not get on."""

from __future__ import annotations

import sys
import threading
import traceback

MOST_CHARS = 64_000
"""Of a host: some forty threads of ten frames."""


def of_all_threads() -> str:
    """Python frames of every thread, the innermost last, those of the executor first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        (names.get(ident, f"thread {ident}"), "".join(traceback.format_stack(frame)))
        for ident, frame in sys._current_frames().items()
    ]
    stacks.sort(key=lambda stack: (stack[0] != "executor", stack[0]))
    return "\n".join(f"{name}:\n{frames}" for name, frames in stacks)[:MOST_CHARS]
