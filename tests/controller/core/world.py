"""The core with a fleet played around it: one event at a time, at times the test names.

Only the controller's decisions are real. Hosts do what the test says they do, in words of the wire:
attach, report an inventory, become ready, apply steps, fault, release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from controller.core import commands, events, machine, step
from controller.core.batch import BatchPhase
from controller.core.checkpoint import Checkpoints
from controller.core.choosing import Choice
from controller.core.cluster import Assignment, HostRef, Inventory
from controller.core.job import Job, JobSpec, JobState
from controller.core.liveness import LivenessPolicy
from controller.core.program import Program
from controller.core.record import StepRecord
from controller.core.sources import DataSource
from controller.core.turn import Outcome, State

PROGRAM = Program("sha256:" + "ab" * 32, 2_000_000, 12e6, 13e6, 8_000_000)

Ordered = TypeVar("Ordered", bound=commands.Command)


def spec(**fields: Any) -> JobSpec:
    """A job for two pods of one device, four steps of 1,024 tokens in four slots."""
    return JobSpec(
        **{
            "name": "tiny",
            "steps": 4,
            "phases": (BatchPhase(1, 4),),
            "microbatch": 1,
            "sequence_length": 256,
            "digest_every": 2,
            "seed": 0,
            "min_pods": 2,
            "max_pods": 2,
            "devices_per_pod": 1,
            "compute_dtype": "float32",
            "program_request": "{}",
            "data": "{}",
            "document": "{}",
            **fields,
        }
    )


def ref(pod: str, index: int = 0, incarnation: str = "a") -> HostRef:
    return HostRef(pod, index, incarnation)


def pid(host: HostRef) -> int:
    """Every process has its own."""
    return 100 + 10 * int(host.pod.rpartition("-")[2]) + host.index + ord(host.incarnation[0])


def attached(host: HostRef, num_hosts: int = 1, **before: Any) -> events.HostAttached:
    """A host dials; `before` is what it was when it dialled before."""
    link, coordinator = f"{host.pod}:{host.index}", f"{host.pod}:9{host.index}"
    return events.HostAttached(host, num_hosts, link, coordinator, pid(host), **before)


def inventory(devices: int = 1, kind: str = "cpu", peak: float | None = 50e9) -> Inventory:
    peaks = {"float32": peak} if peak else {}
    source = "calibrated" if peak else "unknown"
    return Inventory("cpu", kind, devices, 8 << 30, peaks, source, {"jax": "0"})


def record(step: int, **fields: Any) -> StepRecord:
    """One applied step of half a second."""
    return StepRecord(
        **{
            "step": step,
            "time": 1000.0 + 0.5 * step,
            "loss": 5.0 / step,
            "grad_norm": 1.0,
            "learning_rate": 0.01,
            "seconds": 0.5,
            "compute_seconds": 0.45,
            "exchange_seconds": 0.2,
            "exposed_seconds": 0.05,
            "data_wait_seconds": 0.0,
            "pause_seconds": 0.0,
            "link_bytes": 100,
            "float32_bytes": 200,
            **fields,
        }
    )


class World:
    """A controller's state, the clock, and the last outcome."""

    def __init__(self, policy: LivenessPolicy | None = None, now: float = 1000.0) -> None:
        self.state = State()
        self.now = now
        self.policy = policy or LivenessPolicy()
        self.outcome = Outcome(self.state, (), (), (), ())
        self.left: dict[HostRef, Assignment] = {}
        """What hosts held when the controller before this one ended."""
        self.granted: dict[Assignment, int] = {}
        """And which steps of it they were granted."""
        self.observers: list[Callable[[State, events.Event, Outcome], None]] = []

    def happens(self, event: events.Event) -> Outcome:
        before = self.state
        self.outcome = machine.handle(before, event, self.now, self.policy)
        self.state = self.outcome.state
        for observe in self.observers:
            observe(before, event, self.outcome)
        return self.outcome

    def ordered(self, kind: type[Ordered]) -> list[Ordered]:
        """What the last event led to, of one kind of command."""
        return [command for command in self.outcome.commands if isinstance(command, kind)]

    def noted(self) -> list[str]:
        """Kinds of the last event's journal entries."""
        return [entry.kind for entry in self.outcome.entries]

    def job(self, job_id: str = "job-1") -> Job:
        """The job as it is, or as it was when the last event ended it."""
        ended = {job.id: job for job in self.outcome.changed_jobs}
        return self.state.jobs.get(job_id) or ended[job_id]

    def assignment(self, job_id: str = "job-1") -> Assignment:
        return Assignment(job_id, self.state.jobs[job_id].generation)

    def hosts(self, job_id: str = "job-1") -> list[HostRef]:
        """Attached hosts of the job's gang."""
        return [
            host.ref
            for pod in self.state.jobs[job_id].gang
            if pod in self.state.pods
            for _, host in sorted(self.state.pods[pod].hosts.items())
        ]

    def passes(self, seconds: float, *, heard: bool = True) -> Outcome:
        """Time, in ticks of a second at most; unless told otherwise all hosts stay audible."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            if heard:
                for host in [h for p in self.state.pods.values() for h in p.hosts.values()]:
                    self.happens(events.HostHeard(host.ref, host.traffic))
            self.happens(events.Ticked())
        return self.outcome

    def pod_joins(
        self, name: str, hosts: int = 1, incarnation: str = "a", **held: Any
    ) -> list[HostRef]:
        """A whole pod dials in and tells what it holds."""
        refs = [ref(name, index, incarnation) for index in range(hosts)]
        for host in refs:
            self.happens(attached(host, hosts))
        for host in refs:
            self.happens(events.HostInventoried(host, inventory(**held)))
        return refs

    def submit(self, job_id: str = "job-1", **fields: Any) -> Job:
        self.happens(events.JobSubmitted(job_id, spec(**fields)))
        return self.job(job_id)

    def lower(self, job_id: str = "job-1") -> None:
        self.happens(events.ProgramLowered(self.assignment(job_id), PROGRAM))

    def ready(
        self,
        host: HostRef,
        job_id: str = "job-1",
        digest: str = "d",
        data_steps: int = 1000,
        sources: tuple[DataSource, ...] = (),
    ) -> None:
        assignment = self.assignment(job_id)
        self.happens(events.ProgramReady(host, assignment, 1.0, 0.5, digest, data_steps, sources))

    def start(self, job_id: str = "job-1", **fields: Any) -> None:
        """From submission to the first window."""
        self.submit(job_id, **fields)
        self.lower(job_id)
        for host in self.hosts(job_id):
            self.ready(host, job_id)

    def apply(
        self,
        host: HostRef,
        steps: Iterable[int],
        job_id: str = "job-1",
        seen: tuple[int, ...] = (),
        **fields: Any,
    ) -> None:
        records = tuple(record(step, **fields) for step in steps)
        self.happens(events.StepsApplied(host, self.assignment(job_id), records, seen))

    def hold(self, host: HostRef, step: int, job_id: str = "job-1", digest: str = "d") -> None:
        """The host stands still after this step."""
        held = events.JobHeld(host, self.assignment(job_id), step, digest * 64)
        self.happens(held)

    def loses(self, pod: str, index: int = 0, incarnation: str = "a") -> Outcome:
        """A host of the pod is gone."""
        host = ref(pod, index, incarnation)
        return self.happens(events.HostDetached(host, f"{host} closed its connection"))

    def release(self, host: HostRef, assignment: Assignment, applied_step: int = 0) -> None:
        self.happens(events.JobReleased(host, assignment, applied_step))

    def restart(self, jobs: Iterable[Job]) -> None:
        """Another controller takes over; it knows of a job what the store does."""
        hosts = [host for pod in self.state.pods.values() for host in pod.hosts.values()]
        self.left |= {host.ref: host.holds for host in hosts if host.holds}
        for job in self.state.jobs.values():
            assignment, granted = Assignment(job.id, job.generation), self.granted
            if job.progress:
                before = granted.get(assignment, 0)
                granted[assignment] = max(before, job.progress.granted)
        self.state = State()
        kept = {"id", "spec", "state", "reason", "created_at", "attempt", "generation"}
        kept |= {"skipped", "rewinds", "data_digest", "sources", "gang", "program", "healing"}
        kept |= {"setbacks", "divergence", "spike", "admitted_at", "started_at", "evaluations"}
        for job in jobs:
            known = {name: getattr(job, name) for name in kept}
            known["account"] = dataclasses.replace(job.account, totals=job.totals)
            known["checkpoints"] = Checkpoints(job.checkpoints.saved)
            known["losses"] = job.checkpoints.saved[-1].losses if job.checkpoints.saved else ()
            known["choosing"] = job.choosing and Choice(job.choosing.index, job.choosing.first_step)
            records = job.progress.recent if job.progress else ()
            if job.state in (JobState.RUNNING, JobState.RECOVERING) and job.progress:
                progress = job.progress
                of = (progress.target_steps, job.gang, records, progress.merged, progress.totals)
                known["progress"] = step.taken_over(*of)
            elif job.state is JobState.CANCELLING:
                known["progress"] = job.progress
            self.happens(events.JobReloaded(Job(**known), tuple(records)))

    def comes_back(self, host: HostRef, granted: int | None = None, num_hosts: int = 1) -> None:
        """A process that the controller before this one knew dials again."""
        held = self.left.get(host)
        if granted is None:
            granted = self.granted.get(held, 0) if held else 0
        before = {"assembled_with": host.incarnation, "held": held, "granted": granted}
        self.happens(attached(host, num_hosts, **before))
        self.happens(events.HostInventoried(host, inventory()))


def two_pods(**policy: float) -> World:
    """A fleet of two pods of one host and device."""
    world = World(dataclasses.replace(LivenessPolicy(), **policy))
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    return world
