"""Is a loss a spike: the losses before it in, a verdict with its reason out.

PaLM (section 5.1) met spikes, some 20 of them in its largest run, by starting again from a
checkpoint about 100 steps before the spike and skipping the 200 to 500 batches around it; the
spikes did not come back. What is decided depends on the losses of the timeline alone, so a run that
was killed and restored decides the same.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import typing
from collections.abc import Sequence

_FEWEST_LOSSES = 16
"""Below this a median says little; the first steps of a run fall too fast to be judged."""

_NORMAL_MAD = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

_LEAST_SHARE = 0.01
"""Of the median: deviations below it are no scale for a spike, however smooth the curve is."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpikePolicy:
    """When a loss is a spike and what is done about it."""

    threshold: float
    """Robust z-score: deviations above the median of the losses before."""
    window: int
    """Losses looked back at, at most."""
    rewind_steps: int
    """The checkpoint to go back to is at least so much older than the spike, if there is one."""
    skip_steps: int
    """Batches passed over, from `rewind_steps` before the spike on, or from the checkpoint when
    that is nearer."""
    max_rewinds: int
    """Later spikes are noted and trained through."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spike:
    """One that is to be met."""

    step: int
    loss: float
    what: str
    """For people: the step, the loss and those before."""


class Verdict(typing.NamedTuple):
    is_spike: bool
    reason: str
    is_lost: bool = False
    """The state is no numbers any more."""


def judge(
    policy: SpikePolicy | None,
    losses: Sequence[float],
    loss: float,
    grad_norm: float | None = None,
) -> Verdict:
    """On a loss that follows `losses`. Without a policy only what is no number stands out, the loss
    or the norm of the gradient (None where the program has none): the state is lost with it, and
    every further step would be wasted."""
    if not math.isfinite(loss):
        return Verdict(True, f"the loss is {loss}", is_lost=True)
    if grad_norm is not None and not math.isfinite(grad_norm):
        return Verdict(True, f"the norm of the gradient is {grad_norm}", is_lost=True)
    if policy is None or len(losses) < min(_FEWEST_LOSSES, policy.window):
        return Verdict(False, "")
    median = statistics.median(losses)
    mad = statistics.median(abs(earlier - median) for earlier in losses)
    deviation = max(_NORMAL_MAD * mad, _LEAST_SHARE * abs(median))
    score = (loss - median) / deviation if deviation else 0.0
    return Verdict(
        score > policy.threshold,
        f"the loss is {loss:.4g}, {score:.1f} deviations above the median {median:.4g} of the "
        f"{len(losses)} steps before",
    )


def remember(policy: SpikePolicy | None, losses: Sequence[float], loss: float) -> tuple[float, ...]:
    """The losses to judge the next one by."""
    return (*losses, loss)[-policy.window :] if policy is not None else ()
