"""How far a job is, from what its pods report, and how far they may run.

A step counts when every pod of the gang has applied it. Records of one pod arrive in order; those
of several pods are held until the slowest has reported. Digests of one step must agree over the
pods. The pods themselves keep within one step of each other (docs/design.md, section 7), or within
the steps between two synchronisations (section 15), so little is ever held.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from controller.core import merging, straggling
from controller.core.merging import Slots, Waits
from controller.core.record import MergedStep, StepRecord
from controller.core.straggling import Paces
from controller.core.totals import Durations, Totals

WINDOW_STEPS = 64
"""Steps granted ahead at least. At PaLM's 17 s a step it is 18 minutes in which the controller may
be away."""

SHORT_WINDOW_STEPS = 8
"""The same where a decision must not wait for 64 steps to pass. At 17 s a step, two minutes."""

WINDOW_SECONDS = 0.25
"""Time granted ahead at least: half of it is some hundred control round trips (0.5-1 ms each,
measured), and hosts of fast steps report a few times a second instead of every 32 steps."""

MAX_WINDOW_STEPS = 8192
"""Bounds what a host keeps of steps it has not reported."""

RECENT_STEPS = 32
"""Steps behind the throughput and step time shown: long enough for p95, short enough to follow."""

RECENT_STRETCHES = 12
"""Stretches by which the link is judged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """Steps up to one that waited for its peers, itself included: one where pods exchange after
    every step."""

    steps: int = 0
    seconds: float = 0.0
    exposed_seconds: float = 0.0

    def plus(self, record: StepRecord) -> Stretch:
        return Stretch(
            self.steps + 1,
            self.seconds + record.seconds,
            self.exposed_seconds + record.exposed_seconds,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Steps of one generation. `applied` and `held` have one entry per pod of the gang; none while
    a rewind is under way, when no pod may run."""

    target_steps: int
    granted: int = 0
    applied: Mapping[str, int] = dataclasses.field(default_factory=dict)
    held: Mapping[str, tuple[StepRecord, ...]] = dataclasses.field(default_factory=dict)
    merged: int = 0
    """Last step that all pods applied."""
    last: StepRecord | None = None
    waits: Waits = dataclasses.field(default_factory=dict)
    begun_after: int = 0
    """Step after which the generation began: the time before its first one is no step's."""
    recent: tuple[StepRecord, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    """The last ones."""
    stretch: Stretch = Stretch()
    """What is over of the next one."""
    digests: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    """Pod name -> (step, sha256) of its newest digest."""
    source_sequences: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Pod name -> sequences of every source that were trained on through its applied step. No name
    stands for a gang that another controller knew."""
    totals: Totals = dataclasses.field(default_factory=Totals)
    residual_norm: float | None = None
    """The newest."""
    paces: Paces = dataclasses.field(default_factory=dict)
    straggler: str = ""
    """The pod that people were told all others wait for (controller.core.straggling)."""
    waits_for_link: bool = False
    """Whether people were told that the link holds the job up (controller.core.exposure)."""

    @property
    def seen(self) -> tuple[int, ...] | None:
        """Sequences of every source that were trained on through the last merged step; None before
        the first report."""
        slowest = min(self.applied, key=self.applied.__getitem__, default="")
        return self.source_sequences.get(slowest) or None

    def undone_to(self, step: int, mark: Durations) -> Progress:
        """After everything since `step`, where the timeline was `mark`, turned out to be for
        nothing; no pod may run before the next beginning."""
        return dataclasses.replace(
            self,
            merged=step,
            applied={},
            held={},
            waits={},
            recent=(),
            paces={},
            stretches=(),
            stretch=Stretch(),
            source_sequences={},
            totals=self.totals.undone_to(mark, _unfinished(self.held, self.merged)),
        )

    @property
    def previous(self) -> StepRecord | None:
        """The step that the next one's time is counted from; None for the first of a
        generation."""
        return self.last if self.merged > self.begun_after else None

    @property
    def is_complete(self) -> bool:
        return self.merged >= self.target_steps

    @property
    def step_seconds(self) -> float | None:
        """Median of the recent steps."""
        return statistics.median(r.seconds for r in self.recent) if self.recent else None


def begin(
    target_steps: int, pods: Sequence[str], after: int = 0, totals: Totals | None = None
) -> Progress:
    """Progress of pods that hold the state after step `after` and have applied none themselves."""
    return Progress(
        target_steps=target_steps,
        granted=after,
        applied=dict.fromkeys(pods, after),
        held=dict.fromkeys(pods, ()),
        merged=after,
        begun_after=after,
        totals=totals or Totals(),
    )


def completed(
    progress: Progress, step: int, slots: Slots | None = None
) -> tuple[Progress, list[MergedStep]]:
    """What is known when all steps up to `step` count, since some pod holds the state after it,
    whatever the others have reported; returns the steps that became complete by that.

    Records of later steps are dropped: those steps are run again.
    """
    held = {
        pod: tuple(r for r in records if r.step <= step) for pod, records in progress.held.items()
    }
    merged: list[MergedStep] = []
    last, waits = progress.previous, progress.waits
    for number in range(progress.merged + 1, step + 1):
        by_pod = _told(held, number)
        if by_pod:
            one, waits = merging.merge(by_pod, last, slots, waits)
            merged.append(one)
            last = one.record
    done = _with_merged(dataclasses.replace(progress, held={}, merged=step), merged)
    again = _unfinished(progress.held, step)
    totals = done.totals.undone_to(done.totals.timeline, again)
    return dataclasses.replace(done, totals=totals), merged


def resumed(progress: Progress, pods: Sequence[str]) -> Progress:
    """Another generation of these pods, after the last merged step."""
    after = progress.merged
    return dataclasses.replace(
        progress,
        granted=after,
        applied=dict.fromkeys(pods, after),
        held=dict.fromkeys(pods, ()),
        waits={},
        paces={},
        begun_after=after,
        stretch=Stretch(),
        digests={pod: known for pod, known in progress.digests.items() if pod in pods},
        source_sequences={},
    )


def taken_over(
    target_steps: int,
    pods: Sequence[str],
    records: Sequence[StepRecord],
    merged: int,
    totals: Totals,
) -> Progress:
    """Progress that another controller has on record: all steps up to `merged`, of which `records`
    are the newest."""
    after = begin(target_steps, pods, merged, totals)
    return dataclasses.replace(
        after,
        # Hosts went on meanwhile, so the next step's time is counted from the last one's.
        begun_after=merged - 1 if records else merged,
        last=records[-1] if records else None,
        recent=tuple(records[-RECENT_STEPS:]),
    )


def report(
    progress: Progress,
    pod: str,
    records: Sequence[StepRecord],
    source_sequences: tuple[int, ...] = (),
    slots: Slots | None = None,
) -> tuple[Progress, list[MergedStep]]:
    """Fold one pod's records in; returns the steps that became complete, oldest first. `slots` is
    what pods count for where their losses differ; without it, they count the same.

    Records at or before the pod's applied step were reported before and are dropped.
    """
    if pod not in progress.applied:
        return progress, []
    known = progress.applied[pod]
    fresh = [r for r in records if r.step > known]
    if not fresh:
        return progress, []
    held = {**progress.held, pod: progress.held[pod] + tuple(fresh)}
    count = min(len(queue) for queue in held.values())
    merged, waits = merging.merge_all(held, count, progress.previous, slots, progress.waits)
    paces = progress.paces
    for index in range(max(0, count - straggling.JUDGED_STEPS), count):
        by_pod = {p: queue[index] for p, queue in held.items()}
        paces = straggling.recorded(paces, _paces(by_pod, slots))
    further = dataclasses.replace(
        progress,
        applied={**progress.applied, pod: fresh[-1].step},
        held={p: queue[count:] for p, queue in held.items()},
        waits=waits,
        paces=paces,
        merged=progress.merged + count,
        source_sequences={
            **progress.source_sequences,
            # A host that still counts says nothing.
            pod: source_sequences or progress.source_sequences.get(pod, ()),
        },
    )
    return _with_merged(further, merged), merged


def extend(progress: Progress, least_steps: int = WINDOW_STEPS) -> Progress | None:
    """A longer window, of so many steps at least, once the slowest pod has used half of the present
    one; None when not yet."""
    slowest = min(progress.applied.values())
    window = _window_steps(progress, least_steps)
    if progress.granted >= progress.target_steps or progress.granted - slowest > window // 2:
        return None
    return dataclasses.replace(progress, granted=min(slowest + window, progress.target_steps))


def _with_merged(progress: Progress, merged: Sequence[MergedStep]) -> Progress:
    """The figures that follow from steps which became complete."""
    complete = [m.record for m in merged]
    stretches, stretch = _stretches(progress, complete)
    digests = dict(progress.digests)
    for step in merged:
        digests |= {p: (step.record.step, digest) for p, digest in step.digests.items()}
    return dataclasses.replace(
        progress,
        last=complete[-1] if complete else progress.last,
        recent=(progress.recent + tuple(complete[-RECENT_STEPS:]))[-RECENT_STEPS:],
        stretches=stretches,
        stretch=stretch,
        digests=digests,
        totals=progress.totals.plus(complete),
        residual_norm=next(
            (r.residual_norm for r in reversed(complete) if r.residual_norm is not None),
            progress.residual_norm,
        ),
    )


def _paces(by_pod: Mapping[str, StepRecord], slots: Slots | None) -> dict[str, float]:
    """Seconds of a slot of a step, by pod, without what it waited for others."""
    numbers = slots(next(iter(by_pod.values())).step) if slots is not None else {}
    return {
        pod: max(0.0, record.seconds - record.exposed_seconds) / max(1, numbers.get(pod, 1))
        for pod, record in by_pod.items()
    }


def _unfinished(held: Mapping[str, Sequence[StepRecord]], after: int) -> list[StepRecord]:
    """Steps after this one that some pods applied and that are for nothing."""
    numbers = sorted({r.step for records in held.values() for r in records if r.step > after})
    return [merging.merge(_told(held, n), None, None, {})[0].record for n in numbers]


def _told(held: Mapping[str, Sequence[StepRecord]], step: int) -> dict[str, StepRecord]:
    """Records of one step, by the pods that have told of it."""
    return {pod: r for pod, records in held.items() for r in records if r.step == step}


def _window_steps(progress: Progress, least_steps: int) -> int:
    seconds = progress.step_seconds
    if not seconds:
        return least_steps
    return min(max(least_steps, math.ceil(WINDOW_SECONDS / seconds)), MAX_WINDOW_STEPS)


def _stretches(
    progress: Progress, complete: Sequence[StepRecord]
) -> tuple[tuple[Stretch, ...], Stretch]:
    found, stretch = list(progress.stretches), progress.stretch
    for record in complete:
        stretch = stretch.plus(record)
        if record.exchange_seconds > 0 or record.exposed_seconds > 0:
            found.append(stretch)
            stretch = Stretch()
    return tuple(found[-RECENT_STRETCHES:]), stretch
