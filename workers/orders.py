"""What a host is told and what it reports: plain data between the control side and the executor."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Mapping
from typing import Any


class Phase(enum.Enum):
    """What a host does for a job, in order."""

    FETCH = "fetch"
    DATA = "data"
    COMPILE = "compile"
    COMPUTE = "compute"
    EXCHANGE = "exchange"


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """A generation of a job."""

    job: str
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One pod of the gang: its slots [first_slot, end_slot) and its host with this host's index."""

    pod: str
    first_slot: int
    end_slot: int
    link_address: str


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointId:
    """Which checkpoint of a job."""

    step: int
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobOrder:
    """Everything about what to run; grants say how far."""

    assignment: Assignment
    bundle_digest: str
    members: tuple[Member, ...]
    member_index: int
    num_slots: int
    seed: int
    data: Mapping[str, Any]
    digest_every: int
    target_steps: int
    checkpoint_every: int = 0
    """Steps between checkpoints, one more after the last step; 0 writes none."""
    checkpoint_directory: pathlib.Path = pathlib.Path()
    """Storage that all pods share."""
    restore: CheckpointId | None = None
    """The checkpoint to start from; None is the seed."""

    @property
    def first_step(self) -> int:
        """The step to begin with."""
        return self.restore.step + 1 if self.restore else 1

    @property
    def epochs(self) -> int:
        """How often the data may be gone through."""
        return int(self.data.get("epochs", 1))

    @property
    def me(self) -> Member:
        return self.members[self.member_index]


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """The accelerators of this host."""

    platform: str
    device_kind: str
    num_devices: int
    device_memory_bytes: int
    """0 when unknown."""
    peak_flops_per_second: Mapping[str, float]
    """All devices of the host together, by compute dtype; empty when unknown."""
    peak_source: str
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    assignment: Assignment
    ready_seconds: float
    compile_seconds: float
    dataset_digest: str
    data_steps: int
    """Steps that the data lasts for, all epochs together; 0 without data."""
    device_bytes: Mapping[str, int]


@dataclasses.dataclass(slots=True)
class StepRecord:
    """One applied step. Durations in seconds; `values` are in the order of the program's fields.

    Not frozen: freezing triples the cost of making one, and one is made for every step.
    """

    step: int
    time: float
    values: list[float]
    seconds: float
    exchange_seconds: float
    exposed_seconds: float
    data_wait_seconds: float
    link_bytes: int
    state_sha256: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """Consecutive steps, oldest first; `fields` name the values of every record."""

    assignment: Assignment
    fields: list[str]
    records: list[StepRecord]


@dataclasses.dataclass(frozen=True, slots=True)
class Faulted:
    assignment: Assignment
    phase: Phase
    step: int
    message: str
    suspect_pod: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Released:
    assignment: Assignment
    applied_step: int


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """This pod's share, or why there is none. Durations in seconds."""

    assignment: Assignment
    step: int
    state_sha256: bytes
    num_bytes: int
    seconds: float
    stall_seconds: float
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPublished:
    assignment: Assignment
    step: int
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreFailed:
    assignment: Assignment
    message: str


Report = (
    Inventory
    | Ready
    | Applied
    | Faulted
    | Released
    | CheckpointWritten
    | CheckpointPublished
    | RestoreFailed
)
