"""Learning-rate schedules a user can choose: which there are, and what is wrong with a choice.

A schedule scales the optimizer's `learning_rate` by step. Steps count from 1, so that k here is the
k of PaLM section 5. Standard library only; the formulas as jax are model.learning_rate.
"""

import dataclasses
from collections.abc import Mapping

from model.fields import Problem, choice, integer, real

# Steps are counted in int32.
_MAX_STEPS = (1 << 31) - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RsqrtSchedule:
    """1 for `constant_steps` steps, then sqrt(constant_steps / k), continuously (PaLM section 5:
    1e-2 for 10,000 steps, then 1/sqrt(k))."""

    kind: str = choice("rsqrt", default="rsqrt")
    constant_steps: int = integer(at_least=1, at_most=_MAX_STEPS, default=10_000)
    """At the full rate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CosineSchedule:
    """k / warmup_steps, then half a cosine that reaches `final_ratio` at step `decay_steps` and
    stays there (SGDR, arXiv 1608.03983, without restarts)."""

    kind: str = choice("cosine", default="cosine")
    warmup_steps: int = integer(at_least=0, at_most=_MAX_STEPS, default=100)
    """In which the rate rises from 0."""
    decay_steps: int = integer(at_least=1, at_most=_MAX_STEPS, default=10_000)
    """Counted from the first step, not from the end of the warm-up."""
    final_ratio: float = real(at_least=0.0, at_most=1.0, default=0.1)
    """Of the full rate, from then on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSchedule:
    """k / warmup_steps, then 1."""

    kind: str = choice("constant", default="constant")
    warmup_steps: int = integer(at_least=0, at_most=_MAX_STEPS, default=100)
    """In which the rate rises from 0."""


Schedule = RsqrtSchedule | CosineSchedule | ConstantSchedule
SCHEDULES: Mapping[str, type[Schedule]] = {
    "rsqrt": RsqrtSchedule,
    "cosine": CosineSchedule,
    "constant": ConstantSchedule,
}


def schedule_problems(schedule: Schedule, pointer: str) -> list[Problem]:
    """What is wrong between the fields of a schedule whose fields are sound by themselves."""
    if isinstance(schedule, CosineSchedule) and schedule.decay_steps <= schedule.warmup_steps:
        return [
            Problem(
                f"{pointer}/decay_steps",
                f"{schedule.decay_steps} is not after warmup_steps = {schedule.warmup_steps}",
                "decay_steps counts from the first step; more than warmup_steps",
            )
        ]
    return []
