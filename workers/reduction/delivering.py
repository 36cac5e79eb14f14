"""What earlier encoding lost, where nothing encodes and keeps losses any more.

A gang that goes on from a checkpoint with losses may be one pod, or send float32, or not keep what
it loses. Its members then add the losses to their first sums, and nothing is left to keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from workers.exchange.base import StepKey
from workers.reduction.base import Gang, Gradients, Reduction, Sums, flat, grouped
from workers.reduction.residuals import OF_SUMS, OF_TOTALS, Pieces


class DeliveringReduction:
    """Another reduction, whose first applied step has the losses in it."""

    def __init__(self, inner: Reduction, gang: Gang, lost: Mapping[str, jax.Array]) -> None:
        """`lost` is what WholeGradients.member_arrays names, some of it or all."""
        self.clock = inner.clock
        self._inner, self._gang = inner, gang
        self._owed = {
            prefix: pieces
            for prefix in (OF_SUMS, OF_TOTALS)
            if (pieces := gang.whole.split(prefix, lost)) is not None
        }
        self._offered: set[int] = set()
        self._delivered: set[int] = set()
        """Segments whose losses are part of the state."""

    def offer(self, key: StepKey, sums: Sums) -> None:
        layout = self._gang.segments[key.segment]
        self._offered.add(key.segment)
        owing = () if key.segment in self._delivered else self._owed.values()
        for pieces in owing:
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
        self._delivered |= self._offered
        self._offered = set()
        if self._is_delivered:
            # A gradient's worth of memory, of no more use.
            self._owed = {}

    def member_state(self) -> dict[str, jax.Array]:
        """Nothing, once everything was offered and applied."""
        if self._is_delivered:
            return self._inner.member_state()
        return {
            name: whole
            for prefix, pieces in self._owed.items()
            for name, whole in self._gang.whole.join(prefix, self._still_owed(pieces)).items()
        }

    def residual_squares(self) -> Sequence[jax.Array]:
        return self._inner.residual_squares()

    def link_bytes(self, key: StepKey) -> int:
        return self._inner.link_bytes(key)

    def close(self) -> None:
        self._inner.close()

    @property
    def _is_delivered(self) -> bool:
        return len(self._delivered) == len(self._gang.segments)

    def _still_owed(self, pieces: Pieces) -> Pieces:
        return [
            [jnp.zeros_like(piece) for piece in owed] if segment in self._delivered else owed
            for segment, owed in enumerate(pieces)
        ]


@jax.jit
def _with_losses(gradients: list[jax.Array], lost: list[jax.Array]) -> list[jax.Array]:
    return [(a + b).astype(a.dtype) for a, b in zip(gradients, lost, strict=True)]
