"""This pod's side of a job's checkpoints: what is its share, and where it goes."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax

from workers.checkpoint.layout import step_folder
from workers.checkpoint.share import shares
from workers.checkpoint.writer import PartWriter, Written
from workers.orders import CheckpointWritten, JobOrder
from workers.program import Program
from workers.training import Training


class Saver:
    """Used by the executor's thread."""

    def __init__(
        self, order: JobOrder, program: Program, report: Callable[[CheckpointWritten], None]
    ) -> None:
        """`report` is called on another thread and must not block."""
        self._order = order
        self._report = report
        sizes = {name: buffer.num_bytes for name, buffer in program.state_buffers.items()}
        self._mine = shares(sizes, len(order.members))[order.member_index]
        self._digests: dict[int, bytes] = {}
        self._writer = PartWriter(self._written)

    def save(self, step: int, training: Training) -> None:
        """Start writing the state after `step`; it may change as soon as this returns."""
        state = training.named_state()
        # The step may still be computing; that is no part of what saving costs.
        jax.block_until_ready(state)
        start = time.perf_counter()
        assignment = self._order.assignment
        folder = step_folder(
            self._order.checkpoint_directory, assignment.job, step, assignment.generation
        )
        self._digests[step] = training.state_sha256()
        mine = {name: state[name] for name in self._mine}
        self._writer.save(step, folder, self._order.member_index, mine, start)

    def close(self, *, wait: bool) -> None:
        """With `wait`, after the last share is written and reported."""
        self._writer.close(wait=wait)

    def _written(self, written: Written) -> None:
        self._report(
            CheckpointWritten(
                assignment=self._order.assignment,
                step=written.step,
                state_sha256=self._digests.pop(written.step),
                num_bytes=written.num_bytes,
                seconds=written.seconds,
                stall_seconds=written.stall_seconds,
                error=written.error,
            )
        )
