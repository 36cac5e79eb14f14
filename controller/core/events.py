"""Everything that can happen to the controller: plain facts, in the past tense."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from controller.core.cluster import Assignment, HostRef, Inventory, Traffic, Withheld
from controller.core.evaluation import Part
from controller.core.job import Job, JobSpec
from controller.core.link import LinkConditions
from controller.core.program import Program
from controller.core.record import StepRecord
from controller.core.sources import DataSource


@dataclasses.dataclass(frozen=True, slots=True)
class JobSubmitted:
    job_id: str
    spec: JobSpec
    idempotency_key: str | None = None
    body_digest: str | None = None
    """sha256 of the request body, to tell a repeated request from another one with its key."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobReloaded:
    """A restarted controller found a job in its store that had not ended."""

    job: Job
    records: tuple[StepRecord, ...] = ()
    """Of its present timeline, the newest: all since its newest checkpoint, within bounds."""


@dataclasses.dataclass(frozen=True, slots=True)
class CancelRequested:
    job_id: str
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class RetryRequested:
    """Somebody wants a job that has ended without success to be tried once more."""

    job: Job
    """As the store has it."""
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointRequested:
    """Somebody wants the state on disk soon."""

    job_id: str
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteRequested:
    """Somebody wants a job that has ended to be forgotten."""

    job_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class LinkChangeRequested:
    """Somebody wants the emulated link of a pod to be another."""

    pod: str
    conditions: LinkConditions
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class DrainRequested:
    """Somebody wants a pod to do nothing more."""

    pod: str
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class UndrainRequested:
    """Somebody wants a pod to be used again, whatever it was withheld for."""

    pod: str
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class PodsReloaded:
    """A restarted controller found in its journal which pods were withheld."""

    withheld: Mapping[str, Withheld]
    """By name."""


@dataclasses.dataclass(frozen=True, slots=True)
class HostLeaving:
    """A host was told by its machine that it must end soon."""

    host: HostRef
    seconds: float
    """It will end by itself after so many."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramLowered:
    assignment: Assignment
    program: Program


@dataclasses.dataclass(frozen=True, slots=True)
class LoweringFailed:
    assignment: Assignment
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class HostAttached:
    host: HostRef
    num_hosts: int
    link_address: str
    coordinator_address: str
    pid: int
    assembled_with: str = ""
    """Incarnation of the lead with which it assembled its pod before; empty when it has not."""
    held: Assignment | None = None
    """What it runs, prepares or stands still with, having dialled before."""
    granted: int = 0
    """Last step that it was granted of that."""


@dataclasses.dataclass(frozen=True, slots=True)
class HostInventoried:
    host: HostRef
    inventory: Inventory


@dataclasses.dataclass(frozen=True, slots=True)
class Doing:
    """What a host does for a job, in its own words."""

    assignment: Assignment
    phase: str
    step: int
    seconds: float
    """For so long."""


@dataclasses.dataclass(frozen=True, slots=True)
class StacksTold:
    """What the threads of a host are at."""

    host: HostRef
    assignment: Assignment
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class HostHeard:
    """A heartbeat."""

    host: HostRef
    traffic: Mapping[str, Traffic]
    doing: Doing | None = None
    """None while it has no job."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkConditionsReported:
    """A host emulates its link, under these conditions from now on."""

    host: HostRef
    conditions: LinkConditions


@dataclasses.dataclass(frozen=True, slots=True)
class HostWarmed:
    """A host has compiled a program that it may need soon."""

    host: HostRef
    bundle_digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class HostDetached:
    """The stream of a host ended, or its process did."""

    host: HostRef
    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramReady:
    host: HostRef
    assignment: Assignment
    ready_seconds: float
    compile_seconds: float
    dataset_digest: str
    data_steps: int
    """0 when the program takes no data."""
    sources: tuple[DataSource, ...] = ()
    """In the order of the specification."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepsApplied:
    host: HostRef
    assignment: Assignment
    records: tuple[StepRecord, ...]
    source_sequences: tuple[int, ...] = ()
    """Trained on through the last of these steps, by source."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobFaulted:
    host: HostRef
    assignment: Assignment
    phase: str
    step: int
    message: str
    suspect_pod: str


@dataclasses.dataclass(frozen=True, slots=True)
class JobHeld:
    """A host stands still at a step boundary and keeps the state."""

    host: HostRef
    assignment: Assignment
    applied_step: int
    state_sha256: str
    """Of what all pods hold alike after it, hex; empty when the program has no digest."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobReleased:
    host: HostRef
    assignment: Assignment
    applied_step: int


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """A pod's share of a checkpoint is on disk, or could not be written."""

    host: HostRef
    assignment: Assignment
    step: int
    state_sha256: str
    num_bytes: int
    seconds: float
    """From the step's end until the share was on disk."""
    stall_seconds: float
    """Of it, those in which no step could run."""
    data_position: int
    """Of the data's stream, where the next step begins."""
    error: str
    """Empty when all went well."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPublished:
    """A checkpoint exists from now on, or could not be made to."""

    host: HostRef
    assignment: Assignment
    step: int
    error: str
    """Empty when all went well."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """A pod has evaluated its share of the held-out text."""

    host: HostRef
    assignment: Assignment
    step: int
    part: Part


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreFailed:
    """A host cannot start from the checkpoint it was told to start from."""

    host: HostRef
    assignment: Assignment
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed."""


Event = (
    JobSubmitted
    | JobReloaded
    | CancelRequested
    | RetryRequested
    | CheckpointRequested
    | DeleteRequested
    | LinkChangeRequested
    | DrainRequested
    | UndrainRequested
    | PodsReloaded
    | HostLeaving
    | ProgramLowered
    | LoweringFailed
    | HostAttached
    | HostInventoried
    | HostHeard
    | LinkConditionsReported
    | HostWarmed
    | HostDetached
    | ProgramReady
    | StepsApplied
    | JobFaulted
    | JobHeld
    | JobReleased
    | CheckpointWritten
    | CheckpointPublished
    | Evaluated
    | RestoreFailed
    | StacksTold
    | Ticked
)
