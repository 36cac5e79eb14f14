"""Everything the controller can order: plain data, in the imperative."""

from __future__ import annotations

import dataclasses

from controller.core.batch import Range
from controller.core.cluster import Assignment, HostRef
from controller.core.exchange import ExchangeRule
from controller.core.link import LinkConditions


@dataclasses.dataclass(frozen=True, slots=True)
class LowerProgram:
    assignment: Assignment
    request: str
    """Canonical JSON of model, training shape and mesh."""
    platform: str


@dataclasses.dataclass(frozen=True, slots=True)
class AbandonLowering:
    assignment: Assignment


@dataclasses.dataclass(frozen=True, slots=True)
class AssembleHost:
    """All hosts of the pod are there: initialise the accelerators together."""

    host: HostRef
    coordinator_address: str
    lead_link_address: str
    lead_incarnation: str


@dataclasses.dataclass(frozen=True, slots=True)
class TellAgain:
    """Tell what was told of the job to an earlier controller, and go on."""

    host: HostRef
    assignment: Assignment
    after_step: int
    """Steps up to this one are known."""


@dataclasses.dataclass(frozen=True, slots=True)
class GangAddress:
    """How a member of the gang is reached."""

    pod: str
    link_addresses: tuple[str, ...]
    """By host index."""
    link_share: int
    """Of a gradient, how much it adds up for all, of more than two members: together they make
    link_shares.WHOLE."""


@dataclasses.dataclass(frozen=True, slots=True)
class SlotPhase:
    """The global batch from `first_step` on, and which slots are whose."""

    first_step: int
    num_slots: int
    ranges: tuple[Range, ...]
    """By member of the gang."""


@dataclasses.dataclass(frozen=True, slots=True)
class DataStart:
    """Where in its data a job begins: the step after `after_step` at this position."""

    after_step: int
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointId:
    """Which checkpoint of a job."""

    step: int
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPlace:
    """A checkpoint, of any job, and where it lies."""

    job: str
    directory: str
    """Empty means one of the host's own."""
    checkpoint: CheckpointId
    state_sha256: str
    """The state that must be found there, hex; empty is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Resume:
    """State that members of the gang hold, and that the others get from them."""

    step: int
    """After which it was taken."""
    state_sha256: str
    """Of what all pods hold alike of it, hex; empty when the program has no digest."""
    lacking: tuple[int, ...]
    """Members that do not hold it."""
    is_save_due: bool
    """Whether a share of a checkpoint of it is still to be written."""
    is_evaluation_due: bool
    """Whether it is still to be evaluated."""


@dataclasses.dataclass(frozen=True, slots=True)
class WarmHost:
    """Compile a program that may be needed soon."""

    host: HostRef
    bundle_digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class PrepareHost:
    host: HostRef
    assignment: Assignment
    bundle_digest: str
    members: tuple[GangAddress, ...]
    member_index: int
    phases: tuple[SlotPhase, ...]
    seed: int
    data: str
    data_start: DataStart
    skipped: tuple[Range, ...]
    """Positions of the data that are passed over."""
    digest_every: int
    target_steps: int
    checkpoint_every: int
    """Steps between checkpoints, one more after the last step; 0 writes none."""
    checkpoint_directory: str
    """Empty means one of the host's own."""
    evaluate_every: int
    """Steps between evaluations, one more after the last step; 0 makes none."""
    exchange: ExchangeRule
    restore: CheckpointPlace | None
    """Start from this one instead of from the seed."""
    resume: Resume | None
    """Go on with this instead of either."""


@dataclasses.dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Write a share after this step, whenever checkpoints are due otherwise."""

    host: HostRef
    assignment: Assignment
    step: int


@dataclasses.dataclass(frozen=True, slots=True)
class PublishCheckpoint:
    """All shares of the step are written: make them a checkpoint."""

    host: HostRef
    assignment: Assignment
    directory: str
    step: int
    num_members: int
    state_sha256: str
    data_position: int
    skipped: tuple[Range, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveCheckpoint:
    host: HostRef
    assignment: Assignment
    directory: str
    checkpoint: CheckpointId


@dataclasses.dataclass(frozen=True, slots=True)
class GrantWindow:
    host: HostRef
    assignment: Assignment
    last_step: int


@dataclasses.dataclass(frozen=True, slots=True)
class ChangeExchange:
    """Exchange in this way from `first_step` on, which no host has been granted yet."""

    host: HostRef
    assignment: Assignment
    first_step: int
    exchange: ExchangeRule


@dataclasses.dataclass(frozen=True, slots=True)
class HoldHost:
    """Stop at the next step boundary and keep the state."""

    host: HostRef
    assignment: Assignment
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class StopHost:
    """Leave the job at the next step boundary and drop its state."""

    host: HostRef
    assignment: Assignment
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class DumpStacks:
    """Tell what all threads are at."""

    host: HostRef
    assignment: Assignment


@dataclasses.dataclass(frozen=True, slots=True)
class SetLinkConditions:
    """Send under these conditions from now on."""

    host: HostRef
    conditions: LinkConditions


@dataclasses.dataclass(frozen=True, slots=True)
class DismissHost:
    """Close the host's stream; the process ends."""

    host: HostRef
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class RestartPod:
    """End these processes of the pod and start it anew, where a launcher can."""

    pod: str
    pids: tuple[int, ...]
    """Named, so that processes a launcher has already started in their place are left alone."""
    reason: str


Command = (
    LowerProgram
    | AbandonLowering
    | AssembleHost
    | TellAgain
    | WarmHost
    | PrepareHost
    | GrantWindow
    | ChangeExchange
    | SaveCheckpoint
    | PublishCheckpoint
    | RemoveCheckpoint
    | HoldHost
    | StopHost
    | DumpStacks
    | SetLinkConditions
    | DismissHost
    | RestartPod
)
