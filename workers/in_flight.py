"""What an applied step cost, and its numbers while they are still on the devices."""

from __future__ import annotations

import dataclasses
import hashlib

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
    link_bytes: int = 0


@dataclasses.dataclass(slots=True)
class StepInFlight:
    """An applied step whose numbers are still on the devices."""

    step: int
    time: float
    seconds: float
    spent: Spent
    record: jax.Array
    digest: jax.Array | None

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
            state_sha256=state_sha256,
        )


def sha256_of(lanes: jax.Array) -> bytes:
    """Of what a digest component returns. Waits for the devices."""
    return hashlib.sha256(np.asarray(lanes).tobytes()).digest()
