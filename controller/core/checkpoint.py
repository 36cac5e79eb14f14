"""Which checkpoints a job has: parts come in from its pods, complete ones are published, old ones
go.

Every pod writes its share of the state after the same step and says so, with the digest of the
whole. When all have, the lead of the first pod is told to publish; only then does the checkpoint
exist. A part that could not be written ends that checkpoint and nothing else: training goes on, and
the next one is tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from controller.core.batch import Range
from controller.core.commands import CheckpointId
from controller.core.totals import Durations


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A published checkpoint."""

    step: int
    generation: int
    state_sha256: str
    """Digest of parameters and optimizer state, hex."""
    num_bytes: int
    saved_at: float
    """Unix time."""
    data_position: int
    """Of the data's stream, where the next step begins."""
    losses: tuple[float, ...] = ()
    """Of the steps before, to judge the next one by."""
    evaluation_loss: float | None = None
    """On held-out text, when that was evaluated after this step."""
    timeline: Durations = dataclasses.field(default_factory=Durations)
    """Of the steps up to it that count."""

    @property
    def id(self) -> CheckpointId:
        return CheckpointId(self.step, self.generation)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """A checkpoint of another job, and what goes with it."""

    job: str
    directory: str
    """Empty means one of the hosts' own."""
    step: int
    generation: int
    data_position: int
    """Of this job's data, where its first step begins."""
    losses: tuple[float, ...]
    skipped: tuple[Range, ...]
    state_sha256: str = ""
    tokens: int = 0
    """Trained on when it was saved."""
    data_digest: str | None = None
    """Of the data that is gone on with; None where it is begun."""

    @property
    def id(self) -> CheckpointId:
        return CheckpointId(self.step, self.generation)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One pod's share, written."""

    state_sha256: str
    num_bytes: int
    data_position: int


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How things stood after a step of which there is, or will be, a checkpoint."""

    losses: tuple[float, ...]
    timeline: Durations


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a job has on disk, oldest first, and what is being written."""

    saved: tuple[Saved, ...] = ()
    under_way: Mapping[int, Mapping[str, Part]] = dataclasses.field(default_factory=dict)
    """Step -> pod -> part."""
    concluded: int = 0
    """Last step of this generation whose checkpoint was published; none before it will be."""
    failed: frozenset[int] = frozenset()
    """Steps of this generation whose checkpoints were given up."""
    requested: frozenset[int] = frozenset()
    """Steps that people want on disk."""
    marks: Mapping[int, Mark] = dataclasses.field(default_factory=dict)
    """By step; since the controller started."""

    @property
    def newest(self) -> Saved | None:
        return self.saved[-1] if self.saved else None

    def begun_anew(self, after: int | None = None) -> Checkpoints:
        """For a new generation: what the last one had not finished never will be. One that goes on
        with the state after a step may still write that, and what is wanted of later ones."""
        kept = {saved.step for saved in self.saved} | {after}
        marks = {step: mark for step, mark in self.marks.items() if step in kept}
        later = {step for step in self.requested if after is not None and step >= after}
        return Checkpoints(self.saved, requested=frozenset(later), marks=marks)

    def marked(self, step: int, mark: Mark) -> Checkpoints:
        return dataclasses.replace(self, marks={**self.marks, step: mark})

    def with_part(self, step: int, pod: str, part: Part) -> Checkpoints:
        parts = {**self.under_way.get(step, {}), pod: part}
        return dataclasses.replace(self, under_way={**self.under_way, step: parts})

    def given_up(self, step: int) -> Checkpoints:
        """A checkpoint that could not be written; its other parts are of no use."""
        rest = {other: parts for other, parts in self.under_way.items() if other != step}
        return dataclasses.replace(self, under_way=rest, failed=self.failed | {step})

    def published(self, saved: Saved) -> Checkpoints:
        """It exists. What was under way for earlier steps is overtaken."""
        rest = {other: parts for other, parts in self.under_way.items() if other > saved.step}
        return dataclasses.replace(
            self, under_way=rest, concluded=saved.step, saved=(*self.saved, saved)
        )

    def may_come(self, step: int) -> bool:
        """Whether the checkpoint of a step is neither published nor given up in this generation."""
        return step > self.concluded and step not in self.failed

    def discarded(self, gone: Sequence[Saved]) -> Checkpoints:
        """After checkpoints were deleted or found damaged."""
        marks = {s: m for s, m in self.marks.items() if s not in {g.step for g in gone}}
        kept = tuple(s for s in self.saved if s not in gone)
        return dataclasses.replace(self, saved=kept, marks=marks)

    @property
    def awaited(self) -> frozenset[int]:
        """Steps whose checkpoints are neither published nor given up yet."""
        published = {saved.step for saved in self.saved}
        return frozenset(s for s in self.marks if self.may_come(s) and s not in published)

    def target(self, step: int, distance: int, keep: int, keep_every: int) -> int | None:
        """The step to go back to from `step`: the newest that is `distance` older, else the oldest
        that is older at all, of those that are kept, as far as steps decide, once all that are
        awaited are on disk."""
        known = sorted(self.awaited | {saved.step for saved in self.saved})
        newest = set(known[-keep:])
        kept = [s for s in known if s in newest or (keep_every and s % keep_every == 0)]
        older = [s for s in kept if s < step]
        far = [s for s in older if s <= step - distance]
        return far[-1] if far else older[0] if older else None

    def has(self, which: CheckpointId) -> bool:
        """Whether this one is published and kept."""
        return any(saved.id == which for saved in self.saved)

    def at(self, step: int | None) -> Saved | None:
        """The published one of a step."""
        return next((saved for saved in self.saved if saved.step == step), None)


def complete(checkpoints: Checkpoints, step: int, pods: Sequence[str]) -> Sequence[Part] | None:
    """The parts of a step in the order of the pods, once every pod has written its own."""
    parts = checkpoints.under_way.get(step, {})
    return [parts[pod] for pod in pods] if all(pod in parts for pod in pods) else None


def superfluous(
    checkpoints: Checkpoints,
    keep: int,
    keep_every: int,
    keep_best: bool,
    wanted: Collection[CheckpointId] = (),
) -> Sequence[Saved]:
    """Published checkpoints beyond the last `keep`, without those whose step is a multiple of
    `keep_every`, whose held-out loss is the lowest, or that is wanted."""
    scored = [saved for saved in checkpoints.saved if saved.evaluation_loss is not None]
    best = min(scored, key=lambda saved: saved.evaluation_loss or 0.0, default=None)
    return [
        saved
        for saved in checkpoints.saved[: max(0, len(checkpoints.saved) - keep)]
        if not (keep_every and saved.step % keep_every == 0)
        and not (keep_best and saved is best)
        and saved.id not in wanted
    ]
