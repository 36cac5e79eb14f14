"""What a host is told and what it reports: plain data between the control side and the executor."""

from __future__ import annotations

import bisect
import dataclasses
import enum
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workers.data.report import SourceReport
from workers.exchange.base import StepKey


class Phase(enum.Enum):
    """What a host does for a job."""

    FETCH = "fetch"
    DATA = "data"
    COMPILE = "compile"
    COMPUTE = "compute"
    EXCHANGE = "exchange"
    HEAL = "heal"
    EVALUATE = "evaluate"
    SAVE = "save"
    REST = "rest"
    """Nothing: it waits to be told how far it may run, or is leaving."""


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """A generation of a job."""

    job: str
    generation: int


class Activity(NamedTuple):
    """What a host does for a job. A tuple, since one is made for every step."""

    assignment: Assignment
    phase: Phase
    step: int
    """Under way, or last one applied where none is; 0 before the first."""
    since: float
    """Monotonic seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One pod of the gang, and its host with this host's index."""

    pod: str
    link_address: str
    link_share: int = 1
    """Of a float32 gradient, how much it adds up for all, of more than two members, in proportion
    to those of the others."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchPhase:
    """The global batch from `first_step` on, until the next phase."""

    first_step: int
    num_slots: int
    slots: tuple[range, ...]
    """By member of the gang; together 0..num_slots."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPlace:
    """A checkpoint, of any job, and where that job's checkpoints lie."""

    job: str
    directory: pathlib.Path
    step: int
    generation: int
    state_sha256: str = ""
    """The state that must be found there, hex; empty is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Resume:
    """State that members of the gang hold, and that the others get from them."""

    step: int
    """After which it was taken."""
    state_sha256: bytes
    """Of what all pods hold alike of it; empty when the program has no digest."""
    lacking: frozenset[int]
    """Members that do not hold it."""
    is_save_due: bool = False
    """Whether a share of a checkpoint of it is still to be written."""
    is_evaluation_due: bool = False
    """Whether it is still to be evaluated."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExchangeRule:
    """How gradients cross the link."""

    dtype: str = "float32"
    """float32, bfloat16, int8 or int4; sums are float32 whatever it is."""
    stochastic_rounding: bool = False
    """Of int8 and int4; else to the nearest."""
    error_feedback: bool = True
    """Whether what encoding lost is added to what is sent next."""
    overlap: bool = True
    """Whether a segment travels while the next is computed."""
    reproducible: bool = True
    """Whether the sum has the same bits on any number of pods; float32 only."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobOrder:
    """Everything about what to run; grants say how far."""

    assignment: Assignment
    bundle_digest: str
    members: tuple[Member, ...]
    member_index: int
    phases: tuple[BatchPhase, ...]
    """Ascending; the first begins at step 1."""
    seed: int
    data: Mapping[str, Any]
    digest_every: int
    target_steps: int
    checkpoint_every: int = 0
    """Steps between checkpoints, one more after the last step; 0 writes none."""
    checkpoint_directory: pathlib.Path = pathlib.Path()
    """Storage that all pods share."""
    restore: CheckpointPlace | None = None
    """The checkpoint to start from; None is the seed."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Positions [first, end) of the data that are passed over, ascending and disjoint."""
    evaluate_every: int = 0
    """Steps between evaluations, one more after the last step; 0 makes none."""
    exchange: ExchangeRule = ExchangeRule()
    data_start: tuple[int, int] = (0, 0)
    """(step, position): the job's first step is the one after `step`, and begins there."""
    resume: Resume | None = None
    """What to go on with instead of `restore` or the seed."""

    @property
    def first_step(self) -> int:
        """The step to begin with."""
        start = self.resume or self.restore
        return start.step + 1 if start else 1

    @property
    def epochs(self) -> int:
        """How often the data may be gone through."""
        return int(self.data.get("epochs", 1))

    def phase(self, step: int) -> BatchPhase:
        """The one that `step` is in."""
        return self.phases[bisect.bisect_right(self.phases, step, key=_first_step) - 1]

    def key(self, step: int, segment: int) -> StepKey:
        """What this job sends is known by."""
        return StepKey(self.assignment.job, self.assignment.generation, step, segment)

    def my_slots(self, step: int) -> range:
        """This pod's slots of a step."""
        return self.phase(step).slots[self.member_index]


def _first_step(phase: BatchPhase) -> int:
    return phase.first_step


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
class Warmed:
    """A program is compiled and kept ahead of need."""

    bundle_digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    assignment: Assignment
    ready_seconds: float
    compile_seconds: float
    dataset_digest: str
    data_steps: int
    """Steps that the data lasts for, all epochs together; 0 without data."""
    device_bytes: Mapping[str, int]
    sources: Sequence[SourceReport] = ()
    """In the order of the specification; none without data."""


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
    pause_seconds: float
    link_bytes: int
    float32_bytes: int
    """What an exchange in float32 has this host send at least."""
    residual_norm: float | None
    """Of what encoding has lost and is carried on; None where nothing is or it was not taken."""
    state_sha256: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """Consecutive steps, oldest first; `fields` name the values of every record."""

    assignment: Assignment
    fields: list[str]
    records: list[StepRecord]
    source_sequences: tuple[int, ...] = ()
    """Trained on by the whole gang through the last of these steps, by source."""


@dataclasses.dataclass(frozen=True, slots=True)
class Faulted:
    assignment: Assignment
    phase: Phase
    step: int
    message: str
    suspect_pod: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """The job stands still here, and its state is kept."""

    assignment: Assignment
    applied_step: int
    state_sha256: bytes
    """Of what all pods hold alike; empty when the program has no digest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Released:
    """The job was let go, and nothing of it is kept."""

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
    data_position: int = 0
    """Of the data's stream, where the next step begins."""
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """This pod's share of the held-out text. `losses` are means of slots, nats per token."""

    assignment: Assignment
    step: int
    losses: tuple[float, ...]
    num_tokens: int
    num_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPublished:
    assignment: Assignment
    step: int
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreFailed:
    assignment: Assignment
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stacks:
    """What the threads of this host are at."""

    assignment: Assignment
    text: str


Report = (
    Inventory
    | Warmed
    | Ready
    | Applied
    | Faulted
    | Held
    | Released
    | CheckpointWritten
    | CheckpointPublished
    | Evaluated
    | RestoreFailed
    | Stacks
)
