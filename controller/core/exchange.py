"""How the gradients of a job cross the link, as its specification says."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ExchangeRule:
    """How gradients cross the link."""

    dtype: str = "float32"
    """What they are encoded as; sums are float32 whatever it is."""
    rounding: str = "nearest"
    """Of int8: nearest or stochastic."""
    error_feedback: bool = True
    """Whether what encoding lost is added to the next step's gradient."""
    overlap: bool = True
    """Whether a segment travels while the next is computed."""
    reproducible: bool = True
    """Whether the sum has the same bits on any number of pods; float32 only."""
