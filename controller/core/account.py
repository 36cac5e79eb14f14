"""Where the time of a job goes: every second since its first admission has one category.

An account is in one *phase* at a time, and a phase that ends is booked with its length by the
controller's clock, so the categories sum to wall time whatever hosts say. While steps run, their
time is told apart by what the hosts measured, and what no step took is the rest: the way to the
first one, and what came after the last. It is booked once it is known what ended them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from controller.core.totals import Durations, Totals


class Category(enum.StrEnum):
    """What a second of a job went into."""

    PRODUCTIVE = "productive"
    """Computing steps that count."""
    STARTUP = "startup"
    """From admission until steps run, without compiling."""
    COMPILE = "compile"
    """Of it, what the host compiled that was ready last."""
    DATA_WAIT = "data_wait"
    EXPOSED_EXCHANGE = "exposed_exchange"
    """Steps that waited for the link."""
    STRAGGLER_WAIT = "straggler_wait"
    """The fastest pods waited for the slowest."""
    CHECKPOINT = "checkpoint"
    """Steps stood still to save and to evaluate; what is to be done of it after the last one."""
    RECOVERY = "recovery"
    """From the last step before something went wrong until steps ran again, a new start and what
    it compiles included; taking in one more pod."""
    REWORK = "rework"
    """Steps that were undone."""
    SUSPENDED = "suspended"
    """Put aside; ended, until it was tried again and admitted."""
    IDLE = "idle"
    """Nothing of these; the step that is under way."""


class Phase(enum.StrEnum):
    """What a job is at, as far as its time is concerned."""

    STARTUP = "startup"
    RUNNING = "running"
    RECOVERY = "recovery"
    SUSPENDED = "suspended"
    IDLE = "idle"


_BOOKED_AS: Mapping[Phase | None, Category] = {
    None: Category.SUSPENDED,
    Phase.RECOVERY: Category.RECOVERY,
    Phase.SUSPENDED: Category.SUSPENDED,
    Phase.IDLE: Category.IDLE,
}
"""Of phases that are all one thing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """Seconds, unless it says otherwise."""

    phase: Phase | None = None
    """None before the first admission and after the end."""
    until: float | None = None
    """Unix time up to which phases are booked; None before the first is."""
    booked: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By category; nothing that steps took."""
    running_seconds: float = 0.0
    """In which steps ran, of phases that are over."""
    rest_seconds: float = 0.0
    """Of those, what no step took and is booked."""
    compile_seconds: float = 0.0
    """Of the start that is under way."""
    cause: str | None = None
    """What went wrong in the turn that is under way."""
    recoveries: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How often the job had to recover, by cause."""
    totals: Totals = dataclasses.field(default_factory=Totals)
    """Of its steps, while it has no progress."""

    def interrupted(self, cause: str) -> Account:
        """Something went wrong; of several things in one turn the first is the cause."""
        return self if self.cause else dataclasses.replace(self, cause=cause)

    def moved(
        self, phase: Phase | None, since: float, now: float, totals: Totals, rest: Category
    ) -> Account:
        """In another phase from `now` on; the present one began at `since`. `totals` are the job's,
        and `rest` is what time was for that no step took."""
        seconds, booked, running = max(0.0, now - since), dict(self.booked), self.running_seconds
        if self.phase is Phase.STARTUP:
            compiled = min(seconds, self.compile_seconds)
            _add(booked, Category.COMPILE, compiled)
            _add(booked, Category.STARTUP, seconds - compiled)
        elif self.phase is Phase.RUNNING:
            running += seconds
        else:
            _add(booked, _BOOKED_AS[self.phase], seconds)
        over = 0.0
        if phase is None or self.phase is Phase.RECOVERY:
            over = max(0.0, running - self.rest_seconds - totals.all_steps.seconds)
            _add(booked, rest, over)
        return dataclasses.replace(
            self,
            phase=phase,
            until=max(since, now),
            booked=booked,
            running_seconds=running,
            rest_seconds=self.rest_seconds + over,
            compile_seconds=0.0,
        )

    def seconds(self, since: float, now: float, totals: Totals, rest: Category) -> dict[str, float]:
        """By category, all of them: wall time up to `now`. Where hosts measured more than passed
        here, for clocks differ, their figures are scaled down to it."""
        spent = {str(category): 0.0 for category in Category} | dict(self.booked)
        running = self.running_seconds - self.rest_seconds
        seconds = max(0.0, now - since) if self.phase is not None else 0.0
        if self.phase is Phase.RUNNING:
            running += seconds
        elif self.phase is Phase.STARTUP:
            _add(spent, Category.STARTUP, seconds)
        else:
            _add(spent, _BOOKED_AS[self.phase], seconds)
        measured = totals.all_steps.seconds
        scale = min(1.0, max(0.0, running) / measured) if measured > 0 else 1.0
        for category, taken in split(totals.timeline).items():
            _add(spent, category, scale * taken)
        _add(spent, Category.REWORK, scale * totals.undone.seconds)
        _add(spent, rest, max(0.0, running - measured))
        return spent

    def passed_seconds(self, since: float, now: float, totals: Totals) -> dict[str, float]:
        """By category, what never becomes another any more: the figures of counters. A step is what
        it was taken for when it ran: rework, where it had been run before."""
        spent = {str(category): 0.0 for category in Category} | dict(self.booked)
        if self.phase not in (None, Phase.STARTUP, Phase.RUNNING):
            _add(spent, _BOOKED_AS[self.phase], max(0.0, now - since))
        for category, taken in split(totals.all_steps.minus(totals.rerun)).items():
            _add(spent, category, taken)
        _add(spent, Category.REWORK, totals.rerun.seconds)
        return spent


def split(steps: Durations) -> dict[str, float]:
    """Time of steps that count, by category."""
    waits = {
        str(Category.EXPOSED_EXCHANGE): steps.exposed_seconds,
        str(Category.STRAGGLER_WAIT): steps.straggler_seconds,
        str(Category.DATA_WAIT): steps.data_wait_seconds,
        str(Category.CHECKPOINT): steps.pause_seconds,
    }
    return {str(Category.PRODUCTIVE): max(0.0, steps.seconds - sum(waits.values())), **waits}


def _add(spent: dict[str, float], category: str, seconds: float) -> None:
    if seconds:
        spent[str(category)] = spent.get(str(category), 0.0) + seconds
