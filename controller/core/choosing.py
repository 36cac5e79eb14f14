"""`exchange.mode: auto`: which of the allowed ways to exchange costs little enough on the link as
it is, decided by what was measured.

Candidates stand in the order in which they keep to the mathematics of a full exchange in float32,
which is the first. A way is good enough when the time it leaves exposed is within the budget; the
first that is good enough is taken, else the one that leaves the least exposed. Exposed time is that
of arithmetic on the measured rate of the link and the measured time of computing, not the exposed
time that was seen, in which one pod waiting for another counts too. Round trips are not in it: they
are the same whatever is sent, and no candidate would save them.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from controller.core.exchange import ExchangeRule
from controller.core.record import StepRecord

WINDOW_STEPS = 8
"""Steps under one rule, at least, before it is judged: the first ones of a rule are slower, since
its encoding is compiled and its memory comes from the system."""

RETURN_SHARE = 0.5
"""A way nearer to `full` must leave no more than so much of the budget exposed, and do so in
RETURN_WINDOWS windows in a row: by then a link is better by half than it must be, so what is
measured may be wrong by a third either way and nothing goes back and forth."""

RETURN_WINDOWS = 2


DEFAULT_BUDGET = 0.03
"""Of a step: what PaLM lost between its pods (section 4: 1.95 of 2)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A segment as it becomes ready to be sent."""

    ready: float
    """Share of a slot's computing after which it is there, 0 to 1."""
    remaining_bytes: float
    """Of it and of all that become ready later, as two pods send them to each other."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A way to exchange, and what it sends."""

    rule: ExchangeRule
    departures: tuple[Departure, ...]
    """In the order in which segments become ready."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChoicePolicy:
    """What may be chosen from, and what is good enough."""

    candidates: tuple[Candidate, ...]
    budget: float = DEFAULT_BUDGET
    """Exposed time as a share of the step, at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class SlotLayout:
    """How the slots of a step lie on the pods."""

    num_pods: int
    num_slots: int
    """Of the pod that has most of them."""
    num_sums: int = 1
    """Subtrees of the slot tree that a pod's slots are, at most: so many sums it sends where sums
    must be reproducible."""


@dataclasses.dataclass(frozen=True, slots=True)
class Conditions:
    """What a decision rests on, as it was measured since the last one."""

    bytes_per_second: float
    """Of the slowest direction between two pods of the gang, while it was sending."""
    rtt_seconds: float
    """The longest."""
    compute_seconds: float
    """Of a step, without what is exposed: a median."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """Traffic of all hosts of a pod in one direction so far, and how far apart its ends are."""

    num_bytes: int = 0
    seconds: float = 0.0
    """In which a host was sending, on average over the hosts."""
    rtt_seconds: float = 0.0


Traffic = Mapping[str, Sent]
"""By direction."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What holds, and what is known so far of what should."""

    index: int = 0
    """Of the candidate in force."""
    first_step: int = 1
    """From which on it is."""
    judged_step: int = 0
    """Last step of the last window."""
    sent_before: Traffic = dataclasses.field(default_factory=dict)
    """When that window ended."""
    wanted: int | None = None
    """A candidate nearer to `full` that was good enough in the last windows."""
    windows: int = 0
    """How many they were."""
    conditions: Conditions | None = None
    """Of the last window."""
    shares: tuple[float, ...] = ()
    """Exposed share of a step by candidate, under those conditions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Another candidate, and why, in words with numbers."""

    index: int
    reason: str


def exposed_seconds(candidate: Candidate, conditions: Conditions, layout: SlotLayout) -> float:
    """What of a step's exchange is left to send when the last of a pod's slots is computed.

    Sums are complete with the last slot, so only its segments become ready one after the other.
    """
    num_pods, num_slots = layout.num_pods, layout.num_slots
    compute, rule = conditions.compute_seconds, candidate.rule
    sums = layout.num_sums if rule.reproducible and rule.dtype == "float32" else 1
    # To each of P-1 peers goes 1/P of every sum, and 1/P of the total; between two pods, every sum.
    gradients = sums if num_pods == 2 else (sums + 1) * (num_pods - 1) / num_pods
    ends = [
        (num_slots - 1 + (segment.ready if rule.overlap else 1.0)) / num_slots * compute
        + segment.remaining_bytes * gradients / (num_pods - 1) / conditions.bytes_per_second
        for segment in candidate.departures
    ]
    return max(0.0, max(ends) - compute)


def judge(
    policy: ChoicePolicy,
    choice: Choice,
    recent: Sequence[StepRecord],
    sent: Traffic,
    layout: SlotLayout,
) -> tuple[Choice, Decision | None]:
    """With what the recent steps, oldest first, and the traffic so far say, for several pods.

    A new choice without a decision keeps the candidate. Nothing changes until a window is complete.
    """
    window = [record for record in recent if record.step > choice.first_step]
    last = window[-1].step if window else 0
    fresh = [record for record in window if record.step > choice.judged_step]
    if len(fresh) < WINDOW_STEPS:
        return choice, None
    conditions = _conditions(choice, fresh, sent)
    if conditions is None:
        return choice, None
    shares = tuple(
        _share(exposed_seconds(candidate, conditions, layout), conditions)
        for candidate in policy.candidates
    )
    best = _best(policy, shares)
    seen = dataclasses.replace(
        choice, judged_step=last, sent_before=dict(sent), conditions=conditions, shares=shares
    )
    if shares[choice.index] > policy.budget and best != choice.index:
        return seen, Decision(best, _worse(policy, choice, best, conditions, shares))
    nearer = _nearer(policy, choice, shares)
    windows = choice.windows + 1 if nearer is not None and nearer == choice.wanted else 1
    if nearer is None:
        return dataclasses.replace(seen, wanted=None, windows=0), None
    seen = dataclasses.replace(seen, wanted=nearer, windows=windows)
    if windows < RETURN_WINDOWS:
        return seen, None
    return seen, Decision(nearer, _better(policy, nearer, conditions, shares))


def chosen(choice: Choice, decision: Decision, first_step: int) -> Choice:
    """The choice that a decision makes, in force from `first_step` on."""
    return dataclasses.replace(
        choice, index=decision.index, first_step=first_step, wanted=None, windows=0
    )


def _conditions(choice: Choice, fresh: Sequence[StepRecord], sent: Traffic) -> Conditions | None:
    """None as long as hosts have not told of bytes sent since the last window."""
    rates = []
    for direction, now in sent.items():
        before = choice.sent_before.get(direction, Sent())
        seconds = now.seconds - before.seconds
        if now.num_bytes > before.num_bytes and seconds > 0:
            rates.append((now.num_bytes - before.num_bytes) / seconds)
    if not rates:
        return None
    compute = statistics.median(
        max(0.0, record.seconds - record.exposed_seconds - record.pause_seconds) for record in fresh
    )
    rtt = max(now.rtt_seconds for now in sent.values())
    return Conditions(min(rates), rtt, compute)


def _share(exposed: float, conditions: Conditions) -> float:
    whole = conditions.compute_seconds + exposed
    return exposed / whole if whole > 0 else 0.0


def _best(policy: ChoicePolicy, shares: Sequence[float]) -> int:
    good = [index for index, share in enumerate(shares) if share <= policy.budget]
    return good[0] if good else min(range(len(shares)), key=lambda index: shares[index])


def _nearer(policy: ChoicePolicy, choice: Choice, shares: Sequence[float]) -> int | None:
    for index in range(choice.index):
        if shares[index] <= RETURN_SHARE * policy.budget:
            return index
    return None


def _worse(
    policy: ChoicePolicy,
    choice: Choice,
    best: int,
    conditions: Conditions,
    shares: Sequence[float],
) -> str:
    return (
        f"{_link(conditions)}, {policy.candidates[choice.index].rule.dtype} leaves "
        f"{shares[choice.index]:.1%} of a step exposed and {policy.candidates[best].rule.dtype} "
        f"{shares[best]:.1%}; the budget is {policy.budget:.1%}"
    )


def _better(
    policy: ChoicePolicy, nearer: int, conditions: Conditions, shares: Sequence[float]
) -> str:
    return (
        f"{_link(conditions)}, {policy.candidates[nearer].rule.dtype} leaves {shares[nearer]:.1%} "
        f"of a step exposed; the budget is {policy.budget:.1%}"
    )


def _link(conditions: Conditions) -> str:
    return (
        f"at {conditions.bytes_per_second / 1e6:.3g} MB/s, {conditions.rtt_seconds * 1e3:.3g} ms "
        f"and {conditions.compute_seconds:.3g} s of computing"
    )
