"""What earlier encoding lost, where nothing encodes and keeps losses any more.

A gang that goes on from a checkpoint with losses may be one pod, or send float32, or not keep what
it loses. Its members then add the losses to their first sums, and nothing is left to keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from workers.exchange.base import StepKey
from workers.reduction.base import Gang, Gradients, Reduction, Sums, flat, grouped
from workers.reduction.residuals import OF_SUMS, OF_TOTALS


class DeliveringReduction:
    """Another reduction, whose first applied step has the losses in it."""

    def __init__(self, inner: Reduction, gang: Gang, lost: Mapping[str, jax.Array]) -> None:
        """`lost` is what WholeGradients.member_arrays names, some of it or all."""
        self.clock = inner.clock
        self._inner, self._gang = inner, gang
        self._owed = [
            pieces
            for prefix in (OF_SUMS, OF_TOTALS)
            if (pieces := gang.whole.split(prefix, lost)) is not None
        ]

    def offer(self, key: StepKey, sums: Sums) -> None:
        layout = self._gang.segments[key.segment]
        for pieces in self._owed:
            # Of several sums of this pod, one is enough.
            node, first = next(iter(sums.items()))
            arrays, owed = flat({node: first}), pieces[key.segment]
            more = _with_losses(arrays[: len(owed)], owed)
            sums = {**sums, node: grouped([*more, *arrays[len(owed) :]], layout.group_sizes)}
        self._inner.offer(key, sums)

    def total(self, key: StepKey) -> Gradients:
        return self._inner.total(key)

    def applied(self) -> None:
        self._inner.applied()
        self._owed = []

    def member_state(self) -> dict[str, jax.Array]:
        """Nothing: what is saved is saved after a step."""
        return self._inner.member_state()

    def residual_squares(self) -> Sequence[jax.Array]:
        return self._inner.residual_squares()

    def link_bytes(self, step: int) -> int:
        return self._inner.link_bytes(step)

    def close(self) -> None:
        self._inner.close()


@jax.jit
def _with_losses(gradients: list[jax.Array], lost: list[jax.Array]) -> list[jax.Array]:
    return [(a + b).astype(a.dtype) for a, b in zip(gradients, lost, strict=True)]
