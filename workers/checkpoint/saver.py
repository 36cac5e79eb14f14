"""This pod's side of a job's checkpoints: what is its share, and where it goes.

A part is a share of what all pods hold alike, and what is this pod's alone (workers.member_state).
A save only starts a copy of the share and the digest of the state, which the devices make before
anything of the next step, and leaves the rest to a thread that waits for them and writes. One share
is written at a time; a save that comes while the last is still being written waits for it, so the
copies never take more than one part of the devices' memory.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

import jax

from workers import in_flight
from workers.checkpoint.array_digest import lanes_of, sha256_of
from workers.checkpoint.layout import step_folder
from workers.checkpoint.share import shares
from workers.checkpoint.snapshot import snapshot_of
from workers.checkpoint.writer import PartWriter
from workers.orders import CheckpointWritten, JobOrder
from workers.program import Program
from workers.training import Training

_MESSAGE_CHARS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """What a save has started to copy, and what digests are made of."""

    share: Mapping[str, jax.Array]
    lanes: jax.Array | None
    """Of the whole state that all pods hold alike; None in a program without a digest."""
    own: Mapping[str, jax.Array]
    own_lanes: Mapping[str, jax.Array]


class Saver:
    """Used by the executor's thread."""

    def __init__(
        self,
        order: JobOrder,
        program: Program,
        report: Callable[[CheckpointWritten], None],
        member_state: Mapping[str, jax.Array] | None = None,
    ) -> None:
        """`report` is called on another thread and must not block. `member_state` is what saves
        will find in Training.member_state, so that what they run is compiled now."""
        self._order = order
        self._report = report
        buffers = program.state_buffers
        sizes = {name: buffer.num_bytes for name, buffer in buffers.items()}
        self._mine = shares(sizes, len(order.members))[order.member_index]
        self._num_bytes = sum(sizes[name] for name in self._mine)
        self._snapshot = snapshot_of({name: buffers[name].struct for name in self._mine})
        # As in training: with collectives in flight a mesh of CPU devices may start nothing else.
        self._waits_for_devices = (
            jax.local_devices()[0].platform == "cpu" and jax.device_count() > 1
        )
        self._writer = PartWriter(f"{order.assignment.job}.g{order.assignment.generation}")
        lanes_of(dict(member_state or {}))
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._under_way: concurrent.futures.Future[None] | None = None

    def save(self, step: int, training: Training) -> None:
        """Start writing the state after `step`, which may still be computing; it may be donated as
        soon as this returns. Failures are reported, not raised: training does not depend on a disk.
        """
        start = time.perf_counter()
        self._wait()
        state = training.named_state()
        copies = self._snapshot({name: state[name] for name in self._mine})
        lanes = training.digest()
        own = training.member_state()
        own_lanes = lanes_of(own) if own else {}
        if self._waits_for_devices:
            jax.block_until_ready((copies, lanes, own_lanes))
        written = CheckpointWritten(
            assignment=self._order.assignment,
            step=step,
            state_sha256=b"",
            num_bytes=self._num_bytes + sum(array.nbytes for array in own.values()),
            seconds=0.0,
            stall_seconds=time.perf_counter() - start,
        )
        self._under_way = self._thread.submit(
            self._write, written, _Part(copies, lanes, own, own_lanes), start
        )

    def close(self, *, wait: bool) -> None:
        """With `wait`, after the last share is written and reported; without, what is under way
        goes on and is reported in the background."""
        if wait:
            self._wait()
        self._thread.submit(self._writer.close)
        self._thread.shutdown(wait=wait)

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def _write(
        self,
        written: CheckpointWritten,
        part: _Part,
        start: float,
    ) -> None:
        """On the writing thread: complete what `save`, called at `start`, could say, and report it.
        `start` is a reading of time.perf_counter()."""
        order = self._order
        job, generation = order.assignment.job, order.assignment.generation
        folder = step_folder(order.checkpoint_directory, job, written.step, generation)
        state_sha256, error = b"", ""
        try:
            if part.lanes is not None:
                state_sha256 = in_flight.sha256_of(part.lanes)
            own_sha256 = sha256_of(part.own_lanes)
            self._writer.write(folder, order.member_index, part.share, part.own, own_sha256)
        except Exception as failure:  # storage libraries raise many kinds
            error = _message(folder, failure)
        self._report(
            dataclasses.replace(
                written,
                state_sha256=state_sha256,
                seconds=time.perf_counter() - start,
                error=error,
            )
        )


def _message(folder: pathlib.Path, error: Exception) -> str:
    """Storage libraries repeat the path again and again before they come to the cause."""
    text = str(error).replace(f"{folder}/", "")
    return f"{folder}: {type(error).__name__}: {text}"[:_MESSAGE_CHARS]
