"""Is one pod of a gang persistently slower than the others? All wait for it in every step.

What counts is what a pod takes for a slot of a step besides waiting for others: computing, reading
data, pausing. Judged over the last steps, by medians, and only while nearly all of them agree: pods
that are slow in turn make the gang slow, and none of them is a straggler.
"""

from __future__ import annotations

import statistics
import typing
from collections.abc import Mapping

Paces = Mapping[str, tuple[float, ...]]
"""Pod name -> seconds for a slot of each of the last steps, the same steps for all pods."""

JUDGED_STEPS = 32
"""Before so many nothing is said; more are not looked at."""

SLOW_RATIO = 1.25
"""To the median of the others, before people are told. Pods that are alike differ by a tenth where
their machines do other things as well."""

EVEN_RATIO = 1.1
"""Below which they are told that it is over; apart, so that a ratio between them says nothing."""

AGREEING_SHARE = 0.9
"""Of the steps in which the straggler was slower than each of the others."""


class Straggler(typing.NamedTuple):
    pod: str
    seconds: float
    """Of its median slot."""
    others_seconds: float
    """The median of those of the others."""

    @property
    def ratio(self) -> float:
        return self.seconds / self.others_seconds

    def __str__(self) -> str:
        return (
            f"{self.pod} takes {1000 * self.seconds:.3g} ms for a slot and the others "
            f"{1000 * self.others_seconds:.3g} ms, {self.ratio:.2f} times as long, over "
            f"{JUDGED_STEPS} steps"
        )


def recorded(paces: Paces, step: Mapping[str, float]) -> Paces:
    """With one more step, of all pods; from the start where the pods are others."""
    known = paces if paces.keys() == step.keys() else {}
    return {pod: (*known.get(pod, ()), seconds)[-JUDGED_STEPS:] for pod, seconds in step.items()}


def judge(paces: Paces, told: str) -> str | Straggler:
    """The straggler; `told` when it is still to be called that, or nothing can be said; empty when
    there is none (any more)."""
    if len(paces) < 2 or any(len(each) < JUDGED_STEPS for each in paces.values()):
        return told if told in paces else ""
    medians = {pod: statistics.median(each) for pod, each in paces.items()}
    slowest = max(medians, key=medians.__getitem__)
    others = [pod for pod in paces if pod != slowest]
    found = Straggler(slowest, medians[slowest], statistics.median(medians[pod] for pod in others))
    if found.others_seconds <= 0:
        return ""
    if slowest == told:
        return told if found.ratio >= EVEN_RATIO else ""
    if found.ratio < SLOW_RATIO:
        return ""
    slower = [
        all(paces[slowest][step] > paces[pod][step] for pod in others)
        for step in range(JUDGED_STEPS)
    ]
    return found if statistics.fmean(slower) >= AGREEING_SHARE else ""
