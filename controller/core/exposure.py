"""What the link costs a job: how much of its steps waits for it, and the sentence that says so."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from controller.core.choosing import ChoicePolicy
from controller.core.cluster import Pod
from controller.core.exchange import ExchangeRule
from controller.core.job import Job, JobState
from controller.core.step import Progress

BOUND_SHARE = 0.2
"""Of a step that may wait for the link before people are told."""

FREE_SHARE = 0.15
"""Below which they are told that it is over; apart, so that a share between them says nothing."""

JUDGED_STEPS = 12
"""The last ones, so that a link that keeps up again is not blamed for long; more where pods
exchange less often."""

FEWEST_EXCHANGES = 4
"""Before that nothing is said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Warned:
    """Something that people should know of a job that runs, and what to do about it."""

    code: str
    message: str
    hint: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    src: str
    dst: str
    rate: float
    rtt: float | None


def share(progress: Progress) -> float | None:
    """What waited for the link of the median of the last stretches between exchanges; None before
    there are enough. A median, since a first step that waits for a compiler, or one for a disk, is
    not the link's."""
    shares: list[float] = []
    steps = 0
    for stretch in reversed(progress.stretches):
        if steps >= JUDGED_STEPS and len(shares) >= FEWEST_EXCHANGES:
            break
        if stretch.seconds > 0:
            shares.append(stretch.exposed_seconds / stretch.seconds)
            steps += stretch.steps
    return statistics.median(shares) if len(shares) >= FEWEST_EXCHANGES else None


def waits(progress: Progress) -> bool:
    """Whether the link is what holds the job up now."""
    exposed = share(progress)
    if exposed is None:
        return progress.waits_for_link
    return exposed > (FREE_SHARE if progress.waits_for_link else BOUND_SHARE)


def warnings(job: Job, pods: Mapping[str, Pod]) -> list[Warned]:
    """What holds the job up, most first; none of a job that does not run."""
    progress = job.progress
    if job.state is not JobState.RUNNING or progress is None:
        return []
    warned = []
    if progress.waits_for_link:
        hint = ways_out(job.exchange, job.spec.choice)
        warned.append(Warned("LinkBound", sentence(progress, job.gang, pods), hint))
    if progress.straggler:
        message = f"every step waits for {progress.straggler}, which is slower than the others"
        hint = (
            f"look what else its machines do; landbridge drain {progress.straggler} goes on without"
        )
        warned.append(Warned("Straggler", message, hint))
    return warned


def sentence(progress: Progress, gang: tuple[str, ...], pods: Mapping[str, Pod]) -> str:
    """How much of a step waits, for which link, and what that carries and is to carry."""
    waited = f"{share(progress) or 0.0:.0%} of a step waits for"
    num_links = len(gang) * (len(gang) - 1)
    # All that are remembered: between two exchanges some steps may send nothing.
    lead_bytes = statistics.fmean([r.link_bytes for r in progress.recent] or [0])
    slowest = _slowest_link(gang, pods)
    if slowest is None:
        return f"{waited} the link; the lead hosts send {_amount(lead_bytes)}B a step"
    # Every host of a pod sends as much as its lead.
    sent = lead_bytes / num_links * pods[slowest.src].num_hosts
    text = (
        f"{waited} the link from {slowest.src} to {slowest.dst}: "
        f"it carries {_amount(slowest.rate)}B/s, a step sends {_amount(sent)}B"
    )
    if slowest.rtt is None:
        return text
    return f"{text}; there and back takes {_duration(slowest.rtt)}"


def _slowest_link(gang: tuple[str, ...], pods: Mapping[str, Pod]) -> _Link | None:
    """Of those whose rate is known."""
    found = [
        _Link(src, dst, traffic.rate_bytes_per_second, traffic.rtt_seconds)
        for src in gang
        if src in pods
        for dst, traffic in pods[src].traffic.items()
        if dst in gang and traffic.rate_bytes_per_second is not None
    ]
    return min(found, key=lambda link: link.rate, default=None)


def ways_out(rule: ExchangeRule, policy: ChoicePolicy | None) -> str:
    """What would make a link that is too slow for a job matter less, the least intrusive first;
    `policy` says what may be chosen while it runs, None where nothing is."""
    found = _of_every_step(rule, policy) if rule.mode == "full" else _of_outer_steps(rule)
    return "; ".join([*found, "a larger train.global_batch", "a faster link"])


def _of_every_step(rule: ExchangeRule, policy: ChoicePolicy | None) -> list[str]:
    ways = []
    if not rule.overlap:
        ways.append("exchange.overlap: true, which sends while it computes")
    if policy is not None:
        if "int8" not in [candidate.rule.dtype for candidate in policy.candidates]:
            ways.append("int8 in exchange.allow, a quarter of the bytes")
    elif rule.dtype == "float32":
        ways.append("exchange.dtype: bfloat16 or int8, a half or a quarter of the bytes")
    elif rule.dtype == "bfloat16":
        ways.append("exchange.dtype: int8, half of the bytes")
    return [*ways, "exchange.mode: streaming_diloco, which exchanges less often"]


def _of_outer_steps(rule: ExchangeRule) -> list[str]:
    ways = []
    if rule.mode == "diloco":
        ways.append("exchange.mode: streaming_diloco, which sends while it computes")
    else:
        ways.append("a longer exchange.outer.delay, so that more is computed meanwhile")
    if rule.dtype != "int4":
        ways.append("exchange.dtype: int4, an eighth of the bytes of float32")
    return [*ways, "a larger exchange.outer.every, which exchanges less often"]


def _amount(value: float) -> str:
    """Two digits at least and a decimal prefix, without its unit: `1.2 M`."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.1f} {prefix}" if scaled < 10 else f"{scaled:.0f} {prefix}"
    return f"{value:.0f} "


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
