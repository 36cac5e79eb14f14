"""The summation tree over the microbatch slots of a step, as far as plans need it.

The tree halves [a, b) at a + (b - a + 1) // 2 (docs/design.md, section 2). A pod sums the maximal
nodes inside its slots, one gradient each, and then has those of all pods to add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SlotRange = tuple[int, int]
"""Slots [first, end) of a pod."""


def part_sizes(num_slots: int, first: int, end: int) -> list[int]:
    """Slots of the maximal nodes inside [first, end), in order; one node for even shares."""

    def inside(low: int, high: int) -> list[int]:
        if high <= first or end <= low:
            return []
        if first <= low and high <= end:
            return [high - low]
        middle = low + (high - low + 1) // 2
        return inside(low, middle) + inside(middle, high)

    return inside(0, num_slots)


def gradients_at_once(pods: Sequence[SlotRange]) -> int:
    """Gradients that a device holds when it holds most of them.

    Summing a node of n slots from left to right needs one for the slot that is computed and one for
    each sum that waits for its right half, floor(log2 n) at most; nodes that are done stay. After
    the exchange the nodes of all pods are there.
    """
    num_slots = pods[-1][1]
    parts = [part_sizes(num_slots, *slots) for slots in pods]
    computing = max(
        done + int(math.log2(size)) + 1 for sizes in parts for done, size in enumerate(sizes)
    )
    return max(computing, sum(map(len, parts)))
