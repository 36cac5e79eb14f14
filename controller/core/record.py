"""What is known of one step: as a pod reports it, and as all pods together applied it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class StepRecord:
    """One applied step, of one pod or merged over the gang. Durations in seconds."""

    step: int
    time: float
    """Unix time at which it was applied; merged: at the last pod."""
    loss: float
    grad_norm: float | None
    """Before clipping; None where the program does not say."""
    learning_rate: float
    seconds: float
    compute_seconds: float
    exchange_seconds: float
    exposed_seconds: float
    data_wait_seconds: float
    pause_seconds: float
    """Spent on evaluating and on starting to save after the step before."""
    link_bytes: int
    """Bytes sent to peers; merged: by all pods together."""
    digest: str = ""
    """sha256 of a pod's state, hex; empty when none was taken and in merged records."""
    float32_bytes: int = 0
    """What an exchange in float32 sends at least, counted as link_bytes is."""
    residual_norm: float | None = None
    """Of what encoding gradients has lost and carries on, of the pod with the largest; None where
    nothing is carried on, and on steps where it was not taken."""
    straggler_seconds: float = 0.0
    """Merged: of `compute_seconds`, what the fastest pods waited for the slowest."""

    @property
    def hidden_seconds(self) -> float:
        """Of the exchange, behind computation."""
        return max(0.0, self.exchange_seconds - self.exposed_seconds)


def finite(value: float | None) -> float | None:
    """For documents and entries: JSON has no word for what is no number."""
    return value if value is not None and math.isfinite(value) else None


@dataclasses.dataclass(frozen=True, slots=True)
class MergedStep:
    """A step that all pods applied."""

    record: StepRecord
    digests: Mapping[str, str]
    """Pod name -> sha256 hex; empty on steps without digests."""

    @property
    def diverged(self) -> bool:
        return len(set(self.digests.values())) > 1
