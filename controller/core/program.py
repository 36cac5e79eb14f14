"""One training step as the controller knows it: numbers and components, no tensors.

A step is forward_backward on every pod, the exchange between pods, and apply_update on every pod
(components A and B of PaLM, section 4). The bundle holds them; the controller keeps only facts of
its manifest. How the global batch is cut over the pods is decided here too.
"""

from __future__ import annotations

import dataclasses
import itertools


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """Facts of a bundle's manifest."""

    digest: str
    """sha256:<hex> of the bundle's bytes."""
    parameters: int
    model_flops_per_token: float
    """PaLM, appendix B: without recomputation."""
    hardware_flops_per_token: float
    """With recomputation; equal to the model's without a remat policy."""
    gradient_bytes: int
    """Size of one contribution to the exchange, bytes over all hosts of a pod."""


def slot_ranges(num_slots: int, num_pods: int) -> tuple[tuple[int, int], ...]:
    """[first, end) of every pod's slots: contiguous, in pod order, sizes differing by at most one.

    Cutting at floor(i * S / P) puts the boundaries on nodes of the slot tree whenever P is a power
    of two that divides S, so a pod then sends one subtree.
    """
    if not 1 <= num_pods <= num_slots:
        raise ValueError(f"{num_slots} slots cannot be cut over {num_pods} pods")
    cuts = [i * num_slots // num_pods for i in range(num_pods + 1)]
    return tuple(itertools.pairwise(cuts))


def num_subtrees(num_slots: int, first: int, end: int) -> int:
    """The fewest nodes of the slot tree that slots [first, end) are; the tree halves [a, b) at
    a + (b - a + 1) // 2 (docs/design.md, section 6)."""

    def inside(low: int, high: int) -> int:
        if high <= first or end <= low:
            return 0
        if first <= low and high <= end:
            return 1
        middle = low + (high - low + 1) // 2
        return inside(low, middle) + inside(middle, high)

    return inside(0, num_slots)
