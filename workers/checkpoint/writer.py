"""Writes this pod's part of a checkpoint while training goes on.

`save` returns as soon as the state may change again: Orbax has copied what it needs to host memory
and writes from there. One part is written at a time; a save that comes while the last is still
being written waits for it, which bounds memory to one copy of the part.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from workers.checkpoint.layout import describe_part, part_folder


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """How a save ended; `error` is empty when it went well."""

    step: int
    num_bytes: int
    seconds: float
    """From the call until everything was on disk."""
    stall_seconds: float
    """For which the caller was held up."""
    error: str = ""


class PartWriter:
    """Used by the executor's thread; `done` is called on another one."""

    def __init__(self, done: Callable[[Written], None]) -> None:
        # Orbax takes 1.7 s to import, which jobs without checkpoints need not wait for.
        import orbax.checkpoint as ocp

        self._orbax: Any = ocp
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
        self._checkpointer: Any = ocp.AsyncCheckpointer(handler)
        self._done = done
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._under_way: concurrent.futures.Future[None] | None = None

    def save(
        self,
        step: int,
        folder: pathlib.Path,
        member_index: int,
        arrays: Mapping[str, jax.Array],
        start: float,
    ) -> None:
        """Start writing this member's part of the checkpoint in `folder`. `start` is the reading of
        time.perf_counter() when the caller began. Failures are reported to `done`, not raised:
        training does not depend on a disk."""
        self.wait()
        part = part_folder(folder, member_index)
        num_bytes = sum(array.nbytes for array in arrays.values())
        error = ""
        if arrays:  # Orbax refuses empty trees; a pod more than there are arrays has nothing to do
            state = {key_of(name): array for name, array in arrays.items()}
            try:
                # Orbax makes folders in the background, where a failure is easily lost.
                folder.mkdir(parents=True, exist_ok=True)
                self._checkpointer.save(part, args=self._orbax.args.PyTreeSave(state), force=True)
            except (OSError, ValueError) as failure:
                error = _message(failure)
        stall = time.perf_counter() - start
        written = Written(step, num_bytes, stall, stall, error)
        describe = functools.partial(describe_part, folder, member_index, sorted(arrays), num_bytes)
        self._under_way = self._finisher.submit(self._finish, written, start, describe)

    def wait(self) -> None:
        """Until the part under way, if any, is written and reported."""
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def close(self, *, wait: bool = True) -> None:
        """Without waiting, what is under way goes on and is reported in the background."""
        if wait:
            self.wait()
        self._finisher.submit(self._checkpointer.close)
        self._finisher.shutdown(wait=wait)

    def _finish(self, written: Written, start: float, describe: Callable[[], None]) -> None:
        if not written.error:
            try:
                self._checkpointer.wait_until_finished()
                # Of the hosts of a pod, which write it together, one describes it.
                if jax.process_index() == 0:
                    describe()
            except Exception as failure:  # whatever storage libraries raise on a full disk
                written = dataclasses.replace(written, error=_message(failure))
        self._done(dataclasses.replace(written, seconds=time.perf_counter() - start))


def key_of(name: str) -> str:
    """The name in Orbax's tree: some of its formats make folders of slashes."""
    return name.replace("/", ".")


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
