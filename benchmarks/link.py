"""The link: what two pods do together of what they do apart, by how long the exchange takes beside
computing, with overlap and without, in every encoding.

A ratio of 10% is a link on which a gradient in float32 takes a tenth as long as a step of one pod
computes; encodings cross the same link. Without overlap, float32 can reach 1 / (1 + ratio).

On two cores the processor is the device and the host at once, so what the exchange computes is
taken from the step; how much that is has a column of its own. Their steps are never equally long
on two pods either, and the longer one counts: `of a free link` compares with two pods that wait for
each other on a link without limits. Rows of an emulated device wait out
the time that a program's FLOPs would take and leave the processor free, as an accelerator does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks import table
from benchmarks.coupling import Pair, Turn, Workload, pair
from benchmarks.link_peers import PEERS, PeerTurn, missing, peer

RATIOS = (0.025, 0.1, 0.25, 0.5)
DTYPES = ("float32", "bfloat16", "int8")

_NARROW = {"preset": "palm-tiny", "model_dim": 64, "num_heads": 1, "head_dim": 64}
"""A step of many tokens is short."""

_REAL = Workload({**_NARROW, "num_layers": 6}, microbatch=64, sequence_length=256)
"""16,384 tokens: the exchange's processor time is under 1% of a step's."""

_EMULATED = Workload({**_NARROW, "num_layers": 12}, microbatch=1, sequence_length=64)
_EMULATED_FLOPS_PER_SECOND = 4e8
"""Some 0.9 s a step, of which computing it really takes 2%."""

_STEPS = 3
"""Of a turn, after its warm-up."""

_EFFICIENCY = {0.025: 0.985, 0.1: 0.97, 0.25: 0.95, 0.5: 0.9}
_EMULATED_EFFICIENCY = {0.025: 0.99, 0.1: 0.98, 0.25: 0.97, 0.5: 0.9}
_EXPOSED_RATIO, _EXPOSED = 0.25, 0.2
"""At this ratio, exposed time with overlap is at most so much of that without."""


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    dtype: str
    overlaps: bool

    @property
    def exchange(self) -> Mapping[str, object]:
        """The section of the spec."""
        return {"dtype": self.dtype, "overlap": self.overlaps}

    def __str__(self) -> str:
        return f"{self.dtype}, {'overlap' if self.overlaps else 'no overlap'}"


_VARIANTS = [Variant(dtype, overlaps) for dtype in DTYPES for overlaps in (False, True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A turn, what the pods did apart right before and after it, and what they do together when
    the link has no limits: there they wait for each other and for nothing else."""

    turn: Turn
    apart_seconds: float
    free_seconds: float
    link_bytes_per_second: float

    @property
    def efficiency(self) -> float:
        return self.apart_seconds / self.turn.step_seconds

    @property
    def of_free_link(self) -> float:
        """What is kept of the speed on a link without limits."""
        return self.free_seconds / self.turn.step_seconds


Samples = Mapping[tuple[float, Variant], Sequence[Sample]]


def run(*, quick: bool) -> table.Result:
    ratios, rounds = (RATIOS[2:3], 1) if quick else (RATIOS, 5)
    with pair(_REAL, _STEPS) as pods:
        real = _samples(pods, ratios, rounds)
    with pair(_EMULATED, _STEPS, device_flops_per_second=_EMULATED_FLOPS_PER_SECOND) as pods:
        emulated = _samples(pods, ratios, rounds)
    rows = [*_rows("", real, _EFFICIENCY), *_exposed_rows("", real)]
    lacking = {kind: missing(kind) for kind in PEERS}
    for kind in PEERS:
        if not lacking[kind]:
            rows += _peer_rows(kind, ratios, rounds)
    label = "emulated device: "
    rows += [*_rows(label, emulated, _EMULATED_EFFICIENCY), *_exposed_rows(label, emulated)]
    title = "Link: tokens/s of two coupled pods / two uncoupled ones"
    notes = "; ".join(f"no rows of {kind}: {why}" for kind, why in lacking.items() if why)
    return table.Result("link", title, rows, notes)


def _samples(pods: Pair, ratios: Sequence[float], rounds: int) -> Samples:
    """Every variant at every ratio, `rounds` times. Speeds drift, so no more than three turns lie
    between two in which the pods are apart, and the order changes from round to round."""
    found: dict[tuple[float, Variant], list[Sample]] = {}
    pods.apart()
    # Also compiles every encoding before anything is measured.
    sent = {variant: pods.coupled(variant.exchange).link_bytes for variant in _VARIANTS}
    gradient_bytes = sent[Variant("float32", True)]
    for number, ratio in itertools.product(range(rounds), ratios):
        before = pods.apart()
        order = _turned(_VARIANTS, number)
        for variants in (order[:3], order[3:]):
            pods.set_link(None)
            free = pods.coupled(Variant("float32", True).exchange)
            rate = gradient_bytes / (ratio * before.step_seconds)
            pods.set_link(rate)
            turns = [pods.coupled(variant.exchange) for variant in variants]
            after = pods.apart()
            apart = (before.step_seconds + after.step_seconds) / 2
            for variant, turn in zip(variants, turns, strict=True):
                sample = Sample(turn, apart, free.step_seconds, rate)
                found.setdefault((ratio, variant), []).append(sample)
            before = after
    return found


def _turned(variants: Sequence[Variant], number: int) -> list[Variant]:
    at = number % len(variants)
    return [*variants[at:], *variants[:at]]


def _rows(label: str, samples: Samples, targets: Mapping[float, float]) -> Iterator[table.Row]:
    for (ratio, variant), found in sorted(samples.items(), key=lambda item: item[0][0]):
        efficiency = _median(found, lambda sample: sample.efficiency)
        target = targets[ratio] if variant == Variant("float32", True) else None
        yield table.Row(
            case=f"{label}{ratio:.3g}: {variant}",
            ratio=efficiency,
            target="" if target is None else f">= {target}",
            runs=len(found),
            is_met=None if target is None else efficiency >= target,
            figures={
                "link Mbit/s": _median(found, lambda sample: 8e-6 * sample.link_bytes_per_second),
                "sent KB": _median(found, lambda sample: sample.turn.link_bytes / 1e3),
                "apart ms": _median(found, lambda sample: 1e3 * sample.apart_seconds),
                "coupled ms": _median(found, lambda sample: 1e3 * sample.turn.step_seconds),
                "exposed ms": _median(found, lambda sample: 1e3 * sample.turn.exposed_seconds),
                "exchange CPU": f"{_median(found, _cpu_share):.2%}",
                "of a free link": _median(found, lambda sample: sample.of_free_link),
            },
        )


def _cpu_share(sample: Sample) -> float:
    return sample.turn.cpu_seconds / sample.apart_seconds


def _exposed_rows(label: str, samples: Samples) -> Iterator[table.Row]:
    without = samples[_EXPOSED_RATIO, Variant("float32", False)]
    overlapped = samples[_EXPOSED_RATIO, Variant("float32", True)]
    ratio = table.median(
        [
            hidden.turn.exposed_seconds / exposed.turn.exposed_seconds
            for hidden, exposed in zip(overlapped, without, strict=True)
        ]
    )
    yield table.Row(
        case=f"{label}{_EXPOSED_RATIO}: exposed time with overlap / without",
        ratio=ratio,
        target=f"<= {_EXPOSED}",
        runs=len(without),
        is_met=ratio <= _EXPOSED,
        figures={},
    )


def _peer_rows(kind: str, ratios: Sequence[float], rounds: int) -> Iterator[table.Row]:
    found: dict[float, list[PeerTurn]] = {ratio: [] for ratio in ratios}
    with peer(kind, _REAL.model, _REAL.microbatch, _REAL.sequence_length, _STEPS) as pods:
        for _, ratio in itertools.product(range(rounds), ratios):
            found[ratio].append(pods.turn(ratio))
    for ratio, turns in found.items():
        yield table.Row(
            case=f"{ratio:.3g}: {kind}",
            ratio=table.median([turn.apart_seconds / turn.coupled_seconds for turn in turns]),
            target="",
            runs=len(turns),
            is_met=None,
            figures={
                "link Mbit/s": table.median([8e-6 * turn.link_bytes_per_second for turn in turns]),
                "sent KB": pods.gradient_bytes / 1e3,
                "apart ms": table.median([1e3 * turn.apart_seconds for turn in turns]),
                "coupled ms": table.median([1e3 * turn.coupled_seconds for turn in turns]),
            },
        )


def _median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return table.median([of(sample) for sample in samples])
