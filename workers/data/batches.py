"""Which positions of the endless stream of sequences every step trains on.

Everything that decides this is here: `workers.data.mixture` maps a position to a sequence and knows
no steps. The stream without its skipped positions is cut in batches, one after the other and also
across the end of an epoch, so that no sequence is left out to make an epoch a whole number of
steps. Steps count from 1, positions from 0.
"""

import bisect
import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How large the batch is at every step, and what nobody trains on.

    Raises ValueError for phases or ranges that are not as said below. No answer takes time in
    proportion to the steps before it.
    """

    phases: tuple[tuple[int, int], ...]
    """(first step, global batch in sequences) in ascending order; the first one starts at step 1,
    each lasts until the next begins, and the last one for ever."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Positions [first, end) that nobody trains on: ascending, disjoint and not empty. Steps whose
    positions end at or before `first` are the same without the range."""
    start: tuple[int, int] = (0, 0)
    """(step, position): the first step of the plan is the one after `step`, and begins at the first
    position from there on that is not skipped. Another plan had the steps before it."""

    def __post_init__(self) -> None:
        if not self.phases or self.phases[0][0] != 1:
            raise ValueError(f"the first batch phase must start at step 1: {self.phases}")
        if any(one[0] >= other[0] for one, other in itertools.pairwise(self.phases)):
            raise ValueError(f"batch phases must be in ascending order of steps: {self.phases}")
        if any(batch < 1 for _, batch in self.phases):
            raise ValueError(f"a batch needs one sequence at least: {self.phases}")
        bounds = [bound for skip in self.skipped for bound in skip]
        if (
            any(first < 0 or end <= first for first, end in self.skipped)
            or sorted(bounds) != bounds
        ):
            raise ValueError(
                "skipped ranges of positions [first, end) must be ascending, disjoint and not"
                f" empty: {self.skipped}"
            )

    def global_batch(self, step: int) -> int:
        """Sequences of a step."""
        self._check(step)
        return self.phases[bisect.bisect_right(self.phases, step, key=lambda p: p[0]) - 1][1]

    def positions(self, step: int) -> np.ndarray:
        """Positions of a step, ascending, int64 [global_batch(step)]."""
        batch = self.global_batch(step)
        return self._kept(self._index_of_first(step) + np.arange(batch))

    def end(self, step: int) -> int:
        """The position after the last one of a step; of the step before the plan's first, where
        that one begins or the skipped positions before it do."""
        after_step, position = self.start
        if step == after_step:
            return position
        self._check(step)
        last = self._index_of_first(step + 1) - 1
        return int(self._kept(np.array([last], np.int64))[0]) + 1

    def num_steps(self, limit: int) -> int:
        """The last step that the positions below `limit` suffice for, from the plan's first on."""
        after_step, position = self.start
        left = max(0, self._num_kept(limit) - self._num_kept(position))
        left += self._sequences_before(after_step + 1)
        for (first_step, batch), (after, _) in itertools.pairwise(self.phases):
            if left < (after - first_step) * batch:
                return first_step - 1 + left // batch
            left -= (after - first_step) * batch
        first_step, batch = self.phases[-1]
        return first_step - 1 + left // batch

    def _index_of_first(self, step: int) -> int:
        """Of a step's first position in the stream without its skipped positions."""
        after_step, position = self.start
        before = self._sequences_before(step) - self._sequences_before(after_step + 1)
        return self._num_kept(position) + before

    def _num_kept(self, limit: int) -> int:
        """Positions below `limit` that are not skipped."""
        return limit - sum(max(0, min(end, limit) - first) for first, end in self.skipped)

    def _sequences_before(self, step: int) -> int:
        """Sequences of all steps before this one, were they all of these phases."""
        ends = [*(first_step for first_step, _ in self.phases[1:]), step]
        return sum(
            max(0, min(end, step) - first_step) * batch
            for (first_step, batch), end in zip(self.phases, ends, strict=True)
        )

    def _kept(self, indexes: np.ndarray) -> np.ndarray:
        """Where the stream without its skipped positions has these indexes, int64."""
        firsts, ends = np.array(self.skipped, np.int64).reshape(-1, 2).T
        skipped_through = np.cumsum(ends - firsts)
        kept_before = ends - skipped_through
        passed = np.searchsorted(kept_before, indexes, side="right")
        return indexes + np.append(0, skipped_through)[passed]

    def _check(self, step: int) -> None:
        if step <= self.start[0]:
            raise ValueError(f"no batch for step {step}: the first is {self.start[0] + 1}")


def slot_positions(positions: np.ndarray, slot: int, microbatch: int) -> np.ndarray:
    """The part of a step's positions that belongs to a microbatch slot, int64 [microbatch]."""
    return positions[slot * microbatch : (slot + 1) * microbatch]
