"""This pod's share of the evaluations on held-out text."""

from __future__ import annotations

from workers.data.errors import DataError
from workers.data.held_out import HeldOut
from workers.orders import Evaluated, JobOrder
from workers.training import Training


class Evaluator:
    """Used by the executor's thread. Slots go round the members of the gang."""

    def __init__(self, order: JobOrder, held_out: HeldOut, microbatch: int) -> None:
        """Raises DataError when the held-out text does not fill a slot."""
        num_slots = held_out.num_sequences // microbatch
        if not num_slots:
            raise DataError(
                "train.eval",
                f"{held_out.num_sequences} held-out sequences do not fill a microbatch of "
                f"{microbatch}",
                "hold more out, raise train.eval.sequences, or lower train.microbatch",
            )
        mine = range(order.member_index, num_slots, len(order.members))
        self._assignment = order.assignment
        self._batches = [
            held_out.rows(range(slot * microbatch, (slot + 1) * microbatch)) for slot in mine
        ]
        targets = [targets for _, targets in self._batches]
        self._num_tokens = sum(array.size for array in targets)
        self._num_bytes = sum(held_out.num_bytes(array) for array in targets)

    def evaluate(self, step: int, training: Training) -> Evaluated:
        """The state after `step`, on every slot of the share. Waits for the devices."""
        losses = tuple(training.evaluate(batch) for batch in self._batches)
        return Evaluated(self._assignment, step, losses, self._num_tokens, self._num_bytes)
