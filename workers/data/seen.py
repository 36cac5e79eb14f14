"""How many sequences of every source a job has trained on: a function of the step, as batches are.

Nothing is remembered that could be lost or counted twice: a job that is restored, or goes back over
a spike, counts again from the plan it has then.
"""

from collections.abc import Iterator

import numpy as np

from workers.data.batches import BatchPlan
from workers.data.dataset import TokenDataset
from workers.data.mixture import COUNTED_AT_ONCE, count


class SeenSequences:
    def __init__(self, dataset: TokenDataset, seed: int, plan: BatchPlan) -> None:
        self._mixture = dataset.mixture
        self._seed = seed
        self._plan = plan
        self._end = 0
        self._counts = np.zeros(len(self._mixture.sizes), np.int64)

    @property
    def counts(self) -> tuple[int, ...]:
        """Of every source, by all pods together, up to the step last advanced to."""
        return tuple(self._counts.tolist())

    def advance(self, step: int) -> Iterator[None]:
        """Count up to `step`, in parts of a fifth of a second at most, so that whoever needs it no
        more may stop between. Steps may only grow from call to call; the time is in proportion to
        those between, 0.2 us a sequence, but for whole epochs."""
        end = self._plan.end(step)
        if end < self._end:
            raise ValueError(f"step {step} is behind what was counted before")
        while self._end < end:
            part_end = self._end_of_part(end)
            self._counts = self._counts + self._kept(self._end, part_end)
            self._end = part_end
            yield

    def _end_of_part(self, end: int) -> int:
        size = self._mixture.epoch_size
        epoch = self._end // size
        if self._end % size == 0 and end // size > epoch:
            return end // size * size
        return min(end, self._end + COUNTED_AT_ONCE, (epoch + 1) * size)

    def _kept(self, first: int, end: int) -> np.ndarray:
        """At the positions from `first` to `end` - 1 that are not skipped."""
        counts = count(self._mixture, self._seed, first, end)
        for skip_first, skip_end in self._plan.skipped:
            low, high = max(first, skip_first), min(end, skip_end)
            if low < high:
                counts = counts - count(self._mixture, self._seed, low, high)
        return counts
