"""One turn of the machine: the state it starts from, and everything that comes of it.

The state itself is immutable. A turn copies a mapping when it first changes it, so that a handler
reads like plain assignment while the caller still gets old and new side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controller.core import errors, goodput
from controller.core.cluster import Assignment, Host, HostRef, Pod, Withheld
from controller.core.commands import Command
from controller.core.job import Job
from controller.core.record import MergedStep


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """All that the controller decides from: pods, and the jobs that have not ended."""

    pods: Mapping[str, Pod] = dataclasses.field(default_factory=dict)
    jobs: Mapping[str, Job] = dataclasses.field(default_factory=dict)
    ticked_at: float | None = None
    """When time was last seen to pass; None before the first tick."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal."""

    kind: str
    message: str
    job_id: str | None = None
    pod: str | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one event led to. Changed jobs and entries are committed before commands are
    executed."""

    state: State
    commands: Sequence[Command]
    entries: Sequence[Entry]
    changed_jobs: Sequence[Job]
    steps: Sequence[tuple[Job, Sequence[MergedStep]]]
    """(job in the generation that applied them, steps that became complete)."""
    forgotten_jobs: Sequence[str] = ()
    """Ids of jobs of which nothing is to be kept; none of them is live."""


class Turn:
    """Mutable working copy of a State for the length of one event."""

    def __init__(self, state: State, now: float) -> None:
        self.now = now
        self.ticked_at = state.ticked_at
        self.availability_changed = False
        """Whether waiting jobs deserve another look."""
        self.to_withhold: dict[str, Withheld] = {}
        """Pods, by name, that are to be withheld once this is decided."""
        self._pods = dict(state.pods)
        self._jobs = dict(state.jobs)
        self._commands: list[Command] = []
        self._entries: list[Entry] = []
        self._decided: dict[str, Job] = {}
        self._steps: list[tuple[Job, Sequence[MergedStep]]] = []
        self._forgotten: list[str] = []

    @property
    def pods(self) -> Mapping[str, Pod]:
        return self._pods

    @property
    def jobs(self) -> Mapping[str, Job]:
        return self._jobs

    def job(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            raise errors.UnknownJob(job_id)
        return self._jobs[job_id]

    def pod(self, name: str) -> Pod:
        if name not in self._pods:
            raise errors.UnknownPod(name)
        return self._pods[name]

    def current_job(self, assignment: Assignment) -> Job | None:
        """The job when the message is of its present generation; old generations change nothing,
        nor does what is told before a restarted controller has asked for it."""
        job = self._jobs.get(assignment.job)
        if job is None or job.generation != assignment.generation:
            return None
        return job if job.awaited_since is None else None

    def host(self, ref: HostRef) -> Host | None:
        """The host when this very incarnation is attached."""
        pod = self._pods.get(ref.pod)
        host = pod.hosts.get(ref.index) if pod else None
        return host if host is not None and host.ref == ref else None

    def job_held(self, ref: HostRef, assignment: Assignment) -> Job | None:
        """The job of a host's message, when this very host was told to prepare this generation and
        has not released it; anybody else has no say."""
        host = self.host(ref)
        return self.current_job(assignment) if host and host.holds == assignment else None

    def holders(self, assignment: Assignment) -> Iterator[Host]:
        """Hosts that were told to prepare the assignment and have not released it."""
        for pod in self._pods.values():
            if pod.assignment == assignment:
                yield from (host for host in pod.hosts.values() if host.holds == assignment)

    def put_pod(self, pod: Pod) -> None:
        self._pods[pod.name] = pod

    def put_host(self, host: Host) -> None:
        self._pods[host.ref.pod] = self._pods[host.ref.pod].with_host(host)

    def put_job(self, job: Job, entry: Entry | None = None) -> None:
        """A decision about a job; jobs that have ended leave the state and live on in the store."""
        self._decided[job.id] = job
        self._jobs[job.id] = job
        if job.is_final:
            del self._jobs[job.id]
        if entry is not None:
            self._entries.append(entry)

    def measure(self, job: Job, steps: Sequence[MergedStep]) -> None:
        """New measurements of a job: kept in the state, never journalled."""
        self._jobs[job.id] = job
        if steps:
            self._steps.append((job, steps))

    def forget(self, job_id: str) -> None:
        """Nothing of a job that has ended is to be kept."""
        self._forgotten.append(job_id)

    def order(self, command: Command) -> None:
        self._commands.append(command)

    def note(self, entry: Entry) -> None:
        self._entries.append(entry)

    def outcome(self) -> Outcome:
        for job_id, job in self._decided.items():
            self._decided[job_id] = goodput.booked(job, self.now)
            if job_id in self._jobs:
                self._jobs[job_id] = goodput.booked(self._jobs[job_id], self.now)
        return Outcome(
            state=State(self._pods, self._jobs, self.ticked_at),
            commands=tuple(self._commands),
            entries=tuple(self._entries),
            changed_jobs=tuple(self._decided.values()),
            steps=tuple(self._steps),
            forgotten_jobs=tuple(self._forgotten),
        )
