"""How many sequences of every source a job has trained on: a function of the step, as batches are.

Nothing is remembered that could be lost or counted twice: a job that is restored, or goes back over
a spike, counts again from the plan it has then.
"""

import numpy as np

from workers.data.batches import BatchPlan
from workers.data.dataset import TokenDataset
from workers.data.mixture import count


class SeenSequences:
    def __init__(self, dataset: TokenDataset, seed: int, plan: BatchPlan) -> None:
        self._mixture = dataset.mixture
        self._seed = seed
        self._plan = plan
        self._end = 0
        self._counts = np.zeros(len(self._mixture.sizes), np.int64)

    def through(self, step: int) -> tuple[int, ...]:
        """Of every source, by all pods together, up to `step`. Steps may only grow from call to
        call; the time is in proportion to those between, but for whole epochs."""
        end = self._plan.end(step)
        if end < self._end:
            raise ValueError(f"step {step} is behind what was counted before")
        self._counts = self._counts + self._kept(self._end, end)
        self._end = end
        return tuple(self._counts.tolist())

    def _kept(self, first: int, end: int) -> np.ndarray:
        """At the positions from `first` to `end` - 1 that are not skipped."""
        counts = count(self._mixture, self._seed, first, end)
        for skip_first, skip_end in self._plan.skipped:
            low, high = max(first, skip_first), min(end, skip_end)
            if low < high:
                counts = counts - count(self._mixture, self._seed, low, high)
        return counts
