"""Sums over the steps of a job: how long they took and what for, what they sent, and what was lost
of them.

A *timeline* is the steps that count. Going back to a checkpoint undoes those after it, and their
time is lost from then on. Which steps really were run again is counted when they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from controller.core.record import StepRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of steps."""

    seconds: float = 0.0
    """All; the next four are parts of it."""
    exposed_seconds: float = 0.0
    straggler_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    hidden_seconds: float = 0.0
    """Of exchanges behind computation; no part of `seconds` beside it."""

    def plus(self, other: Durations) -> Durations:
        return Durations(
            self.seconds + other.seconds,
            self.exposed_seconds + other.exposed_seconds,
            self.straggler_seconds + other.straggler_seconds,
            self.data_wait_seconds + other.data_wait_seconds,
            self.pause_seconds + other.pause_seconds,
            self.hidden_seconds + other.hidden_seconds,
        )

    def minus(self, part: Durations) -> Durations:
        """Without what was added up in `part`."""
        return Durations(
            self.seconds - part.seconds,
            self.exposed_seconds - part.exposed_seconds,
            self.straggler_seconds - part.straggler_seconds,
            self.data_wait_seconds - part.data_wait_seconds,
            self.pause_seconds - part.pause_seconds,
            self.hidden_seconds - part.hidden_seconds,
        )


def durations(records: Sequence[StepRecord]) -> Durations:
    """Of these steps together."""
    return Durations(
        seconds=sum(r.seconds for r in records),
        exposed_seconds=sum(r.exposed_seconds for r in records),
        straggler_seconds=sum(r.straggler_seconds for r in records),
        data_wait_seconds=sum(r.data_wait_seconds for r in records),
        pause_seconds=sum(r.pause_seconds for r in records),
        hidden_seconds=sum(r.hidden_seconds for r in records),
    )


_NOTHING = Durations()


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """Over the life of a job, all attempts together."""

    timeline: Durations = _NOTHING
    """Of the steps that count."""
    undone: Durations = _NOTHING
    """Of those that a rewind, a start from a checkpoint or the loss of the only pod that had
    applied them undid."""
    rerun: Durations = _NOTHING
    """Of steps that had been run before; they are parts of the two above."""
    rerun_steps: int = 0
    """How many those are."""
    furthest: int = 0
    """Last step that was ever run."""
    link_bytes: int = 0
    float32_bytes: int = 0
    link_retries: int = 0
    """Frames sent again while pods held the job, as of their last heartbeat."""

    def plus(self, records: Sequence[StepRecord]) -> Totals:
        """With steps that go on from the last one."""
        again = [r for r in records if r.step <= self.furthest]
        return dataclasses.replace(
            self,
            timeline=self.timeline.plus(durations(records)),
            rerun=self.rerun.plus(durations(again)),
            rerun_steps=self.rerun_steps + len(again),
            furthest=max([self.furthest, *(r.step for r in records)]),
            link_bytes=self.link_bytes + sum(r.link_bytes for r in records),
            float32_bytes=self.float32_bytes + sum(r.float32_bytes for r in records),
        )

    def undone_to(self, mark: Durations, unfinished: Sequence[StepRecord] = ()) -> Totals:
        """After everything since the timeline was `mark` turned out to be for nothing, and so did
        `unfinished`, later steps that some pods had applied and others never did."""
        again = [r for r in unfinished if r.step <= self.furthest]
        lost = self.timeline.minus(mark).plus(durations(unfinished))
        return dataclasses.replace(
            self,
            timeline=mark,
            undone=self.undone.plus(lost),
            rerun=self.rerun.plus(durations(again)),
            rerun_steps=self.rerun_steps + len(again),
            furthest=max([self.furthest, *(r.step for r in unfinished)]),
        )

    @property
    def compression_ratio(self) -> float | None:
        """What float32 would have sent at least over what was sent; None before anything was."""
        sent = self.link_bytes
        return self.float32_bytes / sent if sent and self.float32_bytes else None

    @property
    def all_steps(self) -> Durations:
        """Whether they count or not."""
        return self.timeline.plus(self.undone)
