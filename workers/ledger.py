"""What a host has told of the job it holds, to be told again to a controller that was away.

Reports follow each other as they were made. A controller that is dialled anew says which steps it
knows, hears the rest, and is told from then on; until it has said so, nothing of the job.

Bound: reports that come once for a generation, a few for a checkpoint or an evaluation, and
MOST_RECORDS steps, twice as many as a controller grants ahead.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from workers.orders import (
    Applied,
    Assignment,
    CheckpointPublished,
    CheckpointWritten,
    Evaluated,
    Faulted,
    Held,
    Ready,
    Released,
    Report,
    RestoreFailed,
)

MOST_RECORDS = 16_384

_OF_A_JOB = (
    Ready,
    Applied,
    Faulted,
    Held,
    Released,
    CheckpointWritten,
    CheckpointPublished,
    Evaluated,
    RestoreFailed,
)


class Ledger:
    """Used on one thread."""

    def __init__(self) -> None:
        self.held: Assignment | None = None
        """What the host was told to prepare and has not released."""
        self.granted_step = 0
        self._reports: collections.deque[Report] = collections.deque()
        self._num_records = 0
        self._is_silent = False

    def begin(self, assignment: Assignment) -> None:
        """The host was told to prepare this; whoever told it hears everything of it."""
        self.held, self.granted_step = assignment, 0
        self._forget()
        self._is_silent = False

    def granted(self, assignment: Assignment, step: int) -> None:
        """Steps up to this one may run."""
        if assignment == self.held:
            self.granted_step = max(self.granted_step, step)

    def fall_silent(self) -> None:
        """The controller is another one, or was away: it must ask first."""
        self._is_silent = self.held is not None

    def tell(self, report: Report) -> Sequence[Report]:
        """What to tell now that this is to be told."""
        if not isinstance(report, _OF_A_JOB) or report.assignment != self.held:
            return [report]
        if isinstance(report, Released):
            self.held = None
            self._forget()
            self._is_silent = False
            return [report]
        self._keep(report)
        return [] if self._is_silent else [report]

    def again(self, assignment: Assignment, after_step: int) -> Sequence[Report]:
        """All that was told of a generation but for steps up to this one, which are known, and for
        checkpoints that were published, which may have been deleted since."""
        if assignment != self.held:
            return []
        self._is_silent = False
        return [
            later for report in self._reports if (later := _later(report, after_step)) is not None
        ]

    def _keep(self, report: Report) -> None:
        self._reports.append(report)
        if isinstance(report, Applied):
            self._num_records += len(report.records)
        while self._num_records > MOST_RECORDS:
            oldest = next(r for r in self._reports if isinstance(r, Applied))
            self._reports.remove(oldest)
            self._num_records -= len(oldest.records)

    def _forget(self) -> None:
        self._reports.clear()
        self._num_records = 0


def _later(report: Report, after_step: int) -> Report | None:
    if isinstance(report, CheckpointPublished):
        return None
    if not isinstance(report, Applied):
        return report
    records = [record for record in report.records if record.step > after_step]
    return dataclasses.replace(report, records=records) if records else None
