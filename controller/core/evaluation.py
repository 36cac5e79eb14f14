"""Evaluations on held-out text, from the pods' parts to one figure.

The slots of held-out text are shared out over the pods, which tell the loss of each. They are
summed exactly (math.fsum), so the figure does not depend on who evaluated what.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from controller.core.record import finite


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What one pod found after a step. `losses` are means of slots, nats per token."""

    losses: tuple[float, ...]
    num_tokens: int
    """Of all of them."""
    num_bytes: int
    """Of the text that these tokens stand for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """The held-out loss after a step."""

    step: int
    loss: float
    """Nats per token."""
    bits_per_byte: float | None
    """Does not depend on the tokenizer; None when the text has no bytes."""

    def document(self) -> dict[str, float | None]:
        """For entries and job documents."""
        return {name: finite(value) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluations:
    """Of one generation of a job."""

    under_way: Mapping[int, Mapping[str, Part]] = dataclasses.field(default_factory=dict)
    """Step -> pod -> part."""
    complete: Mapping[int, Evaluation] = dataclasses.field(default_factory=dict)
    """The newest ones by step."""

    @property
    def newest(self) -> Evaluation | None:
        return self.complete[max(self.complete)] if self.complete else None

    def begun_anew(self, after: int) -> Evaluations:
        """For a generation that starts after this step."""
        return Evaluations({}, {step: e for step, e in self.complete.items() if step <= after})

    def with_part(self, step: int, pod: str, part: Part, pods: Sequence[str]) -> Evaluations:
        """Completes the step when it is the last part of the gang's `pods`."""
        parts = {**self.under_way.get(step, {}), pod: part}
        if not all(pod in parts for pod in pods):
            return dataclasses.replace(self, under_way={**self.under_way, step: parts})
        rest = {other: parts for other, parts in self.under_way.items() if other != step}
        complete = {**self.complete, step: merge(step, list(parts.values()))}
        newest = sorted(complete)[-_KEPT:]
        return Evaluations(rest, {step: complete[step] for step in newest})


_KEPT = 16
"""A checkpoint is published within a few evaluations of its step, and asks for that step's."""


def merge(step: int, parts: Sequence[Part]) -> Evaluation:
    """One figure; every slot has as many tokens as any other."""
    losses = [loss for part in parts for loss in part.losses]
    loss = math.fsum(losses) / len(losses)
    num_bytes = sum(part.num_bytes for part in parts)
    bits = loss * sum(part.num_tokens for part in parts) / math.log(2)
    return Evaluation(step, loss, bits / num_bytes if num_bytes else None)
