"""One job on its way through the executor: how far it is, and when and what to report of it.

Used by the executor's thread only, but for Control, which the executor guards.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable

from workers.checkpoint.saver import Saver
from workers.data.errors import DataError
from workers.evaluation import Evaluator
from workers.exchange.base import ExchangeError, PeerUnreachable
from workers.in_flight import StepInFlight
from workers.member_state import Restored
from workers.orders import Activity, Applied, Assignment, ExchangeRule, Faulted, JobOrder, Phase
from workers.program import Program
from workers.training import Training

REPORT_SECONDS = 0.1
"""Steps are reported once the last report is this old, so slow ones one by one; and when half of
what was granted is used, so that the controller can grant more before the rest is."""

_MESSAGE_LINES = 8
_MESSAGE_CHARS = 2000


@dataclasses.dataclass(slots=True)
class Control:
    """What the control side has said about one assignment."""

    granted: int = 0
    """Last step that may run."""
    leave_reason: str | None = None
    """Why the job is to be left at the next step boundary; None while it goes on."""
    keeps_state: bool = False
    """Whether it then stands still with its state, instead of being let go."""
    stands_still: bool = False
    """Whether it does."""
    save_steps: set[int] = dataclasses.field(default_factory=set)
    """Steps after which somebody wants the state saved."""
    changes: dict[int, ExchangeRule] = dataclasses.field(default_factory=dict)
    """How to exchange from these steps on; said before they are granted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A job that stands still at this host."""

    assignment: Assignment
    step: int
    """Last step applied."""
    state: Restored
    state_sha256: bytes
    """Of what all pods hold alike; empty when the program has no digest."""


@dataclasses.dataclass(slots=True)
class Run:
    """An order, what has become of it, and the applied steps that are still to be reported."""

    order: JobOrder
    bundle: bytes
    control: Control
    training: Training | None = None
    program: Program | None = None
    """Compiled; before preparation that of the job before."""
    kept: Kept | None = None
    """What this generation goes on with, where this host holds it."""
    saver: Saver | None = None
    """Absent in jobs that write no checkpoints."""
    evaluator: Evaluator | None = None
    """Absent in jobs that evaluate nothing."""
    seen_through: Callable[[int], tuple[int, ...]] | None = None
    """Sequences of every source trained on up to an applied step; absent in jobs without data."""
    target_steps: int = dataclasses.field(init=False)
    """Those of the order, or those the data lasts for."""
    fields: list[str] = dataclasses.field(default_factory=list)
    applied: int = dataclasses.field(init=False)
    """Last step applied."""
    unsettled: list[StepInFlight] = dataclasses.field(default_factory=list)
    reported: int = dataclasses.field(init=False)
    """Last step that a report was made about."""
    reported_at: float = 0.0
    """When, in seconds of the caller's clock."""
    answered: int = 0
    """The grant that the last report at half of one was about."""
    _doing: Activity = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.applied = self.reported = self.order.first_step - 1
        self.target_steps = self.order.target_steps
        self.enter(Phase.FETCH)

    @property
    def phase(self) -> Phase:
        """What is being done."""
        return self._doing.phase

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Something else is done from now on, of this step or after the last one."""
        at = self.applied if step is None else step
        self._doing = Activity(self.order.assignment, phase, at, time.monotonic())

    def activity(self) -> Activity:
        """What is being done. May be asked on any thread."""
        doing, training = self._doing, self.training
        if doing.phase is Phase.COMPUTE and training is not None:
            waits_since = training.waits_since
            if waits_since is not None:
                return doing._replace(phase=Phase.EXCHANGE, since=waits_since)
        return doing

    def is_report_due(self, now: float) -> bool:
        """Whether the applied steps are to be reported now, in seconds of the caller's clock.

        A grant is answered once: until the next one comes, only time makes another report due.
        """
        granted = self.control.granted
        if granted != self.answered and 2 * self.applied >= self.reported + granted:
            self.answered = granted
            return True
        return now - self.reported_at > REPORT_SECONDS

    def is_save_due(self) -> bool:
        """Whether the state after the last applied step is to be written."""
        if self.saver is None:
            return False
        resume = self.order.resume
        if resume is not None and self.applied == resume.step:
            return resume.is_save_due
        return self._is_multiple(self.order.checkpoint_every) or (
            self.applied in self.control.save_steps
        )

    def is_evaluation_due(self) -> bool:
        """Whether the state after the last applied step is to be evaluated."""
        if self.evaluator is None:
            return False
        resume = self.order.resume
        if resume is not None and self.applied == resume.step:
            return resume.is_evaluation_due
        return self._is_multiple(self.order.evaluate_every)

    def _is_multiple(self, every: int) -> bool:
        return self.applied % every == 0 or self.applied == self.target_steps

    def settle(self) -> Applied | None:
        """The steps applied since the last report, None when there are none. Waits for the devices
        and raises what they raise."""
        if not self.unsettled:
            return None
        records = [step.settle() for step in self.unsettled]
        self.unsettled = []
        seen = self.seen_through(records[-1].step) if self.seen_through is not None else ()
        return Applied(self.order.assignment, self.fields, records, seen)

    def mark_reported(self, now: float) -> None:
        """All applied steps are reported, at `now` in seconds of the caller's clock."""
        self.reported, self.reported_at = self.applied, now

    def fault(self, error: Exception) -> Faulted:
        """What is reported when `error` ends the job here."""
        suspect = error.pod if isinstance(error, PeerUnreachable) else ""
        phase = self.phase
        if isinstance(error, ExchangeError):
            phase = Phase.EXCHANGE
        elif isinstance(error, DataError):
            phase = Phase.DATA
        step = self.applied + 1 if self.training is not None else 0
        return Faulted(self.order.assignment, phase, step, _message(error), suspect)


def _message(error: Exception) -> str:
    """The error in a few lines: compilers write pages."""
    text = "".join(traceback.format_exception_only(error)).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:_MESSAGE_LINES])[:_MESSAGE_CHARS]
