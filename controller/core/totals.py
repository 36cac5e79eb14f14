"""Sums over the steps of a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from controller.core.record import StepRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all merged steps, seconds."""

    seconds: float = 0.0
    exposed_seconds: float = 0.0
    hidden_seconds: float = 0.0
    """Of exchanges behind computation; no part of `seconds` beside it."""
    data_wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    link_bytes: int = 0
    float32_bytes: int = 0
    link_retries: int = 0
    """Frames sent again while pods held the job, as of their last heartbeat."""
    rework_seconds: float = 0.0
    """Of steps that a rewind undid; no part of the sums above."""
    recovery_seconds: float = 0.0
    """From rewinds until steps ran again."""

    def plus(self, records: Sequence[StepRecord]) -> Totals:
        return dataclasses.replace(
            self,
            seconds=self.seconds + sum(r.seconds for r in records),
            exposed_seconds=self.exposed_seconds + sum(r.exposed_seconds for r in records),
            hidden_seconds=self.hidden_seconds + sum(r.hidden_seconds for r in records),
            data_wait_seconds=self.data_wait_seconds + sum(r.data_wait_seconds for r in records),
            pause_seconds=self.pause_seconds + sum(r.pause_seconds for r in records),
            link_bytes=self.link_bytes + sum(r.link_bytes for r in records),
            float32_bytes=self.float32_bytes + sum(r.float32_bytes for r in records),
        )

    def minus(self, part: Totals) -> Totals:
        """Without what was added up in `part`."""
        fields = [field.name for field in dataclasses.fields(self)]
        return Totals(**{name: getattr(self, name) - getattr(part, name) for name in fields})

    def undone_to(self, mark: Totals) -> Totals:
        """After everything since `mark` turned out to be for nothing."""
        return dataclasses.replace(
            mark,
            link_bytes=self.link_bytes,
            float32_bytes=self.float32_bytes,
            link_retries=self.link_retries,
            rework_seconds=self.rework_seconds + self.seconds - mark.seconds,
            recovery_seconds=self.recovery_seconds,
        )
