"""How large the global batch is at every step, and which positions of the data nobody trains on.

The data of a job is an endless stream of positions (workers.data.batches); a step takes the next
ones that are not skipped. Steps and positions part ways after a rewind: the steps are counted
again, over other positions.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

Range = tuple[int, int]
"""[first, end)."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchPhase:
    """The batch from `first_step` on, until the next phase begins."""

    first_step: int
    num_slots: int
    """Microbatch slots of the global batch."""


def num_slots(phases: Sequence[BatchPhase], step: int) -> int:
    """Slots of a step; steps count from 1, and so does the first phase."""
    return phases[bisect.bisect_right(phases, step, key=lambda p: p.first_step) - 1].num_slots


def slots_through(phases: Sequence[BatchPhase], step: int) -> int:
    """Slots of all steps up to `step`, itself included."""
    total = 0
    for phase, after in itertools.zip_longest(phases, phases[1:]):
        end = min(step + 1, after.first_step) if after else step + 1
        total += max(0, end - phase.first_step) * phase.num_slots
    return total


def slots_between(phases: Sequence[BatchPhase], after: int, step: int) -> int:
    """Slots of the steps after `after` up to `step`, itself included."""
    return slots_through(phases, step) - slots_through(phases, after)


def advance(skipped: Sequence[Range], start: int, count: int) -> int:
    """The position behind the next `count` ones from `start` on that are not skipped."""
    end = start + count
    for first, last in skipped:
        if last > start and first < end:
            end += last - max(first, start)
    return end


def kept_before(skipped: Sequence[Range], position: int) -> int:
    """Positions before this one that are not skipped."""
    return position - sum(max(0, min(end, position) - first) for first, end in skipped)


def skip(skipped: Sequence[Range], start: int, count: int) -> tuple[Range, ...]:
    """The ranges with the next `count` positions from `start` on that are not in them yet.

    Ascending, disjoint and never touching each other, as `skipped` must be.
    """
    merged: list[Range] = []
    for first, last in sorted([*skipped, (start, advance(skipped, start, count))]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)
