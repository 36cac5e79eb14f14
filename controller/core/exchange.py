"""How the gradients of a job cross the link, as its specification says."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ExchangeRule:
    """How gradients cross the link."""

    mode: str = "full"
    """full: after every step. diloco and streaming_diloco: every so often, and not gradients but
    how far each pod came."""
    dtype: str = "float32"
    """What they are encoded as; sums are float32 whatever it is."""
    rounding: str = "nearest"
    """Of int8 and int4: nearest or stochastic."""
    error_feedback: bool = True
    """Whether what encoding lost is added to what is sent next."""
    overlap: bool = True
    """Whether a segment travels while the next is computed."""
    reproducible: bool = True
    """Whether the sum has the same bits on any number of pods; float32 only."""

    @property
    def digest_covers(self) -> str:
        """What is the same bits at all pods, and digests are of: the whole `state`, or the `outer`
        optimizer's anchor and momentum."""
        return "state" if self.mode == "full" else "outer"
