"""Prometheus metrics: the state read at scrape time, and a few things that only happen in passing.

Gauges and counters of jobs and pods are made from the loop's state when somebody scrapes, so there
is nothing to keep in step with it and a series ends with its pod. Jobs that have ended are kept as
they were, the newest ones, until they are deleted. Histograms are fed by the loop as things happen.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Iterable, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from controller.core import events
from controller.core.job import Job
from controller.core.record import MergedStep
from controller.core.turn import State
from controller.runtime.series import families

# A series per histogram that says when it was made: nobody asks, and each job would have one.
prometheus_client.disable_created_metrics()

KEPT_JOBS = 100
"""Ended jobs whose series stay: a scrape of them is about 200 kB."""

STEP_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 2, 4, 8, 15, 30, 60, 150, 600)
"""From a trivial program to a step that waits out a link; PaLM's step took 17 s."""

DISPATCH_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
"""From an event to its commands: a commit costs about a millisecond."""

SAVE_BUCKETS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800)
"""From palm-tiny on a local disk to terabytes over a network."""

STALL_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
"""A digest and a copy to host memory; seconds mean that the last save was still under way."""

LAG_INTERVAL_SECONDS = 0.25
LAG_SAMPLES = 60
"""The lag shown is the worst of 15 s, which is one usual scrape interval."""


class Metrics:
    """Owns the registry. `state` is called at every scrape."""

    def __init__(self, state: Callable[[], State], clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._state = state
        self._clock = clock
        self._ended: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._step_seconds = Histogram(
            "landbridge_job_step_duration_seconds",
            "Time of a step, of its slowest pod.",
            ["job"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self._save_seconds = Histogram(
            "landbridge_checkpoint_save_seconds",
            "From the end of a step until a pod's share of its checkpoint was on disk.",
            ["job"],
            buckets=SAVE_BUCKETS,
            registry=self.registry,
        )
        self._stall_seconds = Histogram(
            "landbridge_checkpoint_stall_seconds",
            "For which a checkpoint kept a pod from going on.",
            ["job"],
            buckets=STALL_BUCKETS,
            registry=self.registry,
        )
        self._save_failures = Counter(
            "landbridge_checkpoint_failures",
            "Shares that could not be written and checkpoints that could not be published.",
            ["job"],
            registry=self.registry,
        )
        self._dispatch_seconds = Histogram(
            "landbridge_dispatch_latency_seconds",
            "From an event to the commands it leads to, commit included.",
            buckets=DISPATCH_BUCKETS,
            registry=self.registry,
        )
        self._lag_seconds = Gauge(
            "landbridge_event_loop_lag_seconds",
            "How late the event loop was at worst in the last 15 seconds.",
            registry=self.registry,
        )
        self._of_jobs = [self._step_seconds, self._save_seconds, self._stall_seconds]
        self._of_jobs += [self._save_failures]
        self.registry.register(_StateCollector(self))

    def observe_latency(self, seconds: float) -> None:
        """An event led to commands after so long."""
        self._dispatch_seconds.observe(seconds)

    def observe_steps(self, job_id: str, steps: Sequence[MergedStep]) -> None:
        """Steps of a job became complete."""
        histogram = self._step_seconds.labels(job_id)
        for step in steps:
            histogram.observe(step.record.seconds)

    def observe_event(self, event: events.Event) -> None:
        """Something happened, and the loop has dealt with it."""
        match event:
            case events.CheckpointWritten(_, assignment) if not event.error:
                self._save_seconds.labels(assignment.job).observe(event.seconds)
                self._stall_seconds.labels(assignment.job).observe(event.stall_seconds)
            case events.CheckpointWritten(_, assignment):
                self._save_failures.labels(assignment.job).inc()
            case events.CheckpointPublished(_, assignment) if event.error:
                self._save_failures.labels(assignment.job).inc()
            case _:
                pass

    def observe_job(self, job: Job) -> None:
        """A job was decided about; one that has ended is kept as it is."""
        if not job.is_final:
            # Tried once more, if it had ended.
            self._ended.pop(job.id, None)
            return
        self._ended[job.id] = job
        while len(self._ended) > KEPT_JOBS:
            self.forget(next(iter(self._ended)))

    def forget(self, job_id: str) -> None:
        """Drop every series of a job."""
        self._ended.pop(job_id, None)
        for series in self._of_jobs:
            series.remove_by_labels({"job": job_id})

    async def watch_event_loop(self) -> None:
        """Measure until cancelled how late a timer of the event loop fires."""
        lags: collections.deque[float] = collections.deque(maxlen=LAG_SAMPLES)
        while True:
            due = time.perf_counter() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            lags.append(max(0.0, time.perf_counter() - due))
            self._lag_seconds.set(max(lags))

    def collect(self) -> Iterable[Metric]:
        """Series of the present state and of kept jobs."""
        state = self._state()
        jobs = {**dict(self._ended), **state.jobs}
        return families(list(jobs.values()), state, self._clock())


class _StateCollector:
    """What the registry calls; it takes no names in advance."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect()

    def describe(self) -> Iterable[Metric]:
        """Nothing: asked at registration, before there is a state to read."""
        return ()
