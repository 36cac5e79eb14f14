"""Which checkpoints a job has: parts come in from its pods, complete ones are published, old ones
go.

Every pod writes its share of the state after the same step and says so, with the digest of the
whole. When all have, the lead of the first pod is told to publish; only then does the checkpoint
exist. A part that could not be written ends that checkpoint and nothing else: training goes on, and
the next one is tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


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


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One pod's share, written."""

    state_sha256: str
    num_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a job has on disk, oldest first, and what is being written."""

    saved: tuple[Saved, ...] = ()
    under_way: Mapping[int, Mapping[str, Part]] = dataclasses.field(default_factory=dict)
    """Step -> pod -> part."""
    concluded: int = 0
    """Last step of this generation whose checkpoint was published, or given up."""

    @property
    def newest(self) -> Saved | None:
        return self.saved[-1] if self.saved else None

    def begun_anew(self) -> Checkpoints:
        """For a new generation: what the last one had not finished never will be."""
        return dataclasses.replace(self, under_way={}, concluded=0)

    def with_part(self, step: int, pod: str, part: Part) -> Checkpoints:
        parts = {**self.under_way.get(step, {}), pod: part}
        return dataclasses.replace(self, under_way={**self.under_way, step: parts})

    def given_up(self, step: int) -> Checkpoints:
        """A checkpoint that could not be written; its other parts are of no use."""
        rest = {other: parts for other, parts in self.under_way.items() if other > step}
        return dataclasses.replace(self, under_way=rest, concluded=max(self.concluded, step))

    def published(self, saved: Saved) -> Checkpoints:
        """It exists. What was under way for earlier steps is overtaken."""
        return dataclasses.replace(self.given_up(saved.step), saved=(*self.saved, saved))

    def discarded(self, gone: Sequence[Saved]) -> Checkpoints:
        """After checkpoints were deleted or found damaged."""
        return dataclasses.replace(self, saved=tuple(s for s in self.saved if s not in gone))


def complete(checkpoints: Checkpoints, step: int, pods: Sequence[str]) -> Sequence[Part] | None:
    """The parts of a step in the order of the pods, once every pod has written its own."""
    parts = checkpoints.under_way.get(step, {})
    return [parts[pod] for pod in pods] if all(pod in parts for pod in pods) else None


def superfluous(checkpoints: Checkpoints, keep: int) -> Sequence[Saved]:
    """Published checkpoints beyond the last `keep`."""
    return checkpoints.saved[: max(0, len(checkpoints.saved) - keep)]
