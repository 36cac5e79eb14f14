"""What an applied step cost, and its numbers while they are still on the devices."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import jax
import numpy as np

from workers.orders import StepRecord


@dataclasses.dataclass(slots=True)
class Spent:
    """What one step cost besides computing."""

    exchange_seconds: float = 0.0
    exposed_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    """Between the step before and this one."""
    waits_since: float | None = None
    """Since when, monotonic seconds, it waits for what others send; None while it computes."""
    link_bytes: int = 0
    float32_bytes: int = 0
    """What exchanging a gradient in float32 takes at least."""


@dataclasses.dataclass(slots=True)
class StepInFlight:
    """An applied step whose numbers are still on the devices."""

    step: int
    time: float
    seconds: float
    spent: Spent
    record: jax.Array
    digest: jax.Array | None
    loss_squares: Sequence[jax.Array] = ()
    """Taken together with the digest: squares of the norm of what encoding lost and carries on."""

    def settle(self) -> StepRecord:
        """Read the numbers; waits for the devices."""
        spent = self.spent
        state_sha256 = b""
        if self.digest is not None:
            state_sha256 = sha256_of(self.digest)
        return StepRecord(
            step=self.step,
            time=self.time,
            values=np.asarray(self.record).tolist(),
            seconds=self.seconds,
            exchange_seconds=spent.exchange_seconds,
            exposed_seconds=spent.exposed_seconds,
            data_wait_seconds=spent.data_wait_seconds,
            pause_seconds=spent.pause_seconds,
            link_bytes=spent.link_bytes,
            float32_bytes=spent.float32_bytes,
            residual_norm=_norm(self.loss_squares),
            state_sha256=state_sha256,
        )


def _norm(squares: Sequence[jax.Array]) -> float | None:
    return math.sqrt(sum(float(square) for square in squares)) if squares else None


def sha256_of(lanes: jax.Array) -> bytes:
    """Of what a digest component returns. Waits for the devices."""
    return hashlib.sha256(np.asarray(lanes).tobytes()).digest()
