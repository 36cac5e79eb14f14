"""What a job is, and the only table that says how its state may change.

Two rules: everything that decides whether a job may move from one state to another is in
TRANSITIONS, and nothing in this file knows about pods, hosts or the wire. A pair that is missing
from the table is the error. docs/job-states.md is drawn from the table.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from controller.core import batch, errors
from controller.core.account import Account
from controller.core.batch import BatchPhase, Range
from controller.core.checkpoint import Checkpoints, Origin
from controller.core.choosing import Choice, ChoicePolicy
from controller.core.evaluation import Evaluations
from controller.core.exchange import ExchangeRule
from controller.core.program import Program, slot_ranges
from controller.core.sources import DataSource
from controller.core.spikes import Spike, SpikePolicy
from controller.core.step import Progress
from controller.core.totals import Totals


class JobState(enum.StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    """Waits for pods; the reason says for which."""
    ADMITTED = "ADMITTED"
    """Holds its pods; its program is being lowered."""
    STARTING = "STARTING"
    """Hosts fetch, compile and initialise."""
    RUNNING = "RUNNING"
    """Steps are granted and applied."""
    RECOVERING = "RECOVERING"
    """A member was lost, or one more is there; the gang is being made whole."""
    SUSPENDED = "SUSPENDED"
    """Put aside by a person or by preemption."""
    CANCELLING = "CANCELLING"
    """Somebody asked to stop; pods are letting go."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Move(enum.StrEnum):
    """What makes a job change its state."""

    ADMIT = "admit"
    LOWERED = "lowered"
    READY = "ready"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    RELEASED = "released"
    REWIND = "rewind"
    GATHER = "gather"
    REQUEUE = "requeue"
    RETRY = "retry"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""Where jobs end. Only a person's retry leads out, and not of success."""

TRANSITIONS: Mapping[tuple[JobState, Move], JobState] = {
    (JobState.PENDING, Move.ADMIT): JobState.ADMITTED,
    (JobState.PENDING, Move.CANCEL): JobState.CANCELLED,
    (JobState.ADMITTED, Move.LOWERED): JobState.STARTING,
    (JobState.ADMITTED, Move.FAIL): JobState.FAILED,
    (JobState.ADMITTED, Move.CANCEL): JobState.CANCELLING,
    (JobState.ADMITTED, Move.REQUEUE): JobState.PENDING,
    (JobState.STARTING, Move.READY): JobState.RUNNING,
    (JobState.STARTING, Move.FAIL): JobState.FAILED,
    (JobState.STARTING, Move.CANCEL): JobState.CANCELLING,
    (JobState.STARTING, Move.REQUEUE): JobState.PENDING,
    (JobState.RUNNING, Move.FINISH): JobState.SUCCEEDED,
    (JobState.RUNNING, Move.FAIL): JobState.FAILED,
    (JobState.RUNNING, Move.CANCEL): JobState.CANCELLING,
    (JobState.RUNNING, Move.REWIND): JobState.STARTING,
    (JobState.RUNNING, Move.GATHER): JobState.RECOVERING,
    (JobState.RUNNING, Move.REQUEUE): JobState.PENDING,
    (JobState.RECOVERING, Move.READY): JobState.RUNNING,
    (JobState.RECOVERING, Move.FAIL): JobState.FAILED,
    (JobState.RECOVERING, Move.CANCEL): JobState.CANCELLING,
    (JobState.RECOVERING, Move.REQUEUE): JobState.PENDING,
    (JobState.CANCELLING, Move.RELEASED): JobState.CANCELLED,
    (JobState.CANCELLING, Move.REQUEUE): JobState.CANCELLED,
    (JobState.FAILED, Move.RETRY): JobState.PENDING,
    (JobState.CANCELLED, Move.RETRY): JobState.PENDING,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why something is as it is: a code for machines, a sentence with numbers for people."""

    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class JobSpec:
    """The part of a specification that decisions need; the whole of it stays in the store."""

    name: str
    steps: int
    """Optimizer updates to apply."""
    phases: tuple[BatchPhase, ...]
    """The global batch, ascending; the first phase begins at step 1."""
    microbatch: int
    """Sequences of a slot."""
    sequence_length: int
    digest_every: int
    """Steps between state digests; 0 takes none."""
    seed: int
    min_pods: int
    max_pods: int
    devices_per_pod: int
    """Product of the mesh; a pod with another number of devices does not fit."""
    compute_dtype: str
    program_request: str
    """What the lowerer gets, canonical JSON."""
    data: str
    """The data section, canonical JSON."""
    checkpoint_every: int = dataclasses.field(default=0, kw_only=True)
    """Steps between checkpoints, one more after the last step; 0 writes none."""
    checkpoint_keep: int = dataclasses.field(default=3, kw_only=True)
    """Published checkpoints that are kept, the newest."""
    checkpoint_keep_every: int = dataclasses.field(default=0, kw_only=True)
    """Those of multiples of so many steps are kept as well; 0 keeps no others."""
    checkpoint_keep_best: bool = dataclasses.field(default=False, kw_only=True)
    """The one with the lowest held-out loss is kept as well."""
    checkpoint_directory: str = dataclasses.field(default="", kw_only=True)
    """Empty means one of the hosts' own."""
    evaluate_every: int = dataclasses.field(default=0, kw_only=True)
    """Steps between evaluations on held-out text, one more after the last step; 0 makes none."""
    exchange: ExchangeRule = dataclasses.field(default=ExchangeRule(), kw_only=True)
    choice: ChoicePolicy | None = dataclasses.field(default=None, kw_only=True)
    """What takes the place of `exchange` while the job runs; None is nothing."""
    spikes: SpikePolicy | None = dataclasses.field(default=None, kw_only=True)
    on_pod_loss: str = dataclasses.field(default="fail", kw_only=True)
    """wait, shrink or fail."""
    least_pods: int = dataclasses.field(default=1, kw_only=True)
    """It may go on with so many once it runs; it starts with min_pods."""
    wait_timeout: float = dataclasses.field(default=600.0, kw_only=True)
    """Seconds to wait for a pod in place of a lost one."""
    origin: Origin | None = dataclasses.field(default=None, kw_only=True)
    """The checkpoint of another job that this one starts from."""
    document: str
    """The whole specification as submitted and as normalised, JSON; never looked into here."""
    queue: str = "default"
    priority: int = 0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tokens_through(self, step: int) -> int:
        """Tokens of all steps up to `step`, itself included; those before a checkpoint of another
        job as that job trained them."""
        before = self.origin.tokens if self.origin else 0
        return before + self._own_sequences(step) * self.sequence_length

    def sequences_through(self, step: int) -> int:
        """Sequences of this job's data up to `step`, itself included; another job's, too, where its
        data is gone on with."""
        origin = self.origin
        before = batch.kept_before(origin.skipped, origin.data_position) if origin else 0
        return before + self._own_sequences(step)

    def _own_sequences(self, step: int) -> int:
        after = self.origin.step if self.origin else 0
        return batch.slots_between(self.phases, after, max(after, step)) * self.microbatch

    def tokens_of(self, step: int) -> int:
        return batch.num_slots(self.phases, step) * self.microbatch * self.sequence_length


@dataclasses.dataclass(frozen=True, slots=True)
class Suspicion:
    """A host lost its link to a peer; the peer's own end may explain it in a moment."""

    since: float
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True)
class Hang:
    """Hosts are alive and do not get on; what their threads are at is being asked."""

    since: float
    told: frozenset[str] = frozenset()
    """Who has said so."""


@dataclasses.dataclass(frozen=True, slots=True)
class Divergence:
    """Pods held different states after a step, which is being run again."""

    step: int
    digests: Mapping[str, str]
    """What each told, by name; sha256, hex."""
    attempts: int
    """How often that has happened and nobody was found out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A generation that goes on with state which some of its members hold."""

    state_sha256: str
    """Of what all pods hold alike, hex; empty when the program has no digest."""
    lacking: tuple[int, ...]
    """Members that get it from the others."""


@dataclasses.dataclass(frozen=True, slots=True)
class Healing:
    """A gang that stands still to go on with other members."""

    since: float
    """When the first of them was lost."""
    gathering_since: float
    """When the others were last told to stand still."""
    cause: Reason
    is_growing: bool = False
    """Nobody was lost: there is one more."""
    begun: Begun | None = None
    """The generation that goes on, while its hosts prepare for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setbacks:
    """How often the job lost pods."""

    total: int = 0
    in_a_row: int = 0
    """Since it last applied a step."""
    handovers: int = 0
    """How often it left a pod because that was withheld: no setback, and no end to it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One training job. Times are Unix seconds; unknown ones are None."""

    id: str
    spec: JobSpec
    state: JobState
    reason: Reason
    created_at: float
    attempt: int = 1
    generation: int = 0
    gang: tuple[str, ...] = ()
    """Names of its pods, in the order of their slots."""
    program: Program | None = None
    progress: Progress | None = None
    checkpoints: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    skipped: tuple[Range, ...] = ()
    """Positions of the data that are passed over."""
    rewinds: int = 0
    choosing: Choice | None = None
    """Which way to exchange holds, where one is chosen; None before the first start."""
    spike: Spike | None = None
    """Waits for the checkpoint to go back to."""
    losses: tuple[float, ...] = ()
    """Of the last steps, to judge the next one by."""
    evaluations: Evaluations = dataclasses.field(default_factory=Evaluations)
    data_digest: str | None = None
    """Of the tokens it trains on, once known; every later generation must find the same."""
    sources: tuple[DataSource, ...] = ()
    """Of the data, in the order of the specification, once its hosts have opened it."""
    peak_flops_per_second: float | None = None
    """Peak of all devices of the gang for the compute dtype; None when any is unknown."""
    peak_source: str | None = None
    suspicion: Suspicion | None = None
    hang: Hang | None = None
    awaited_since: float | None = None
    """Since when a restarted controller waits to hear which hosts still run it."""
    healing: Healing | None = None
    divergence: Divergence | None = None
    setbacks: Setbacks = Setbacks()
    account: Account = dataclasses.field(default_factory=Account)
    """Where its time went."""
    admitted_at: float | None = None
    """For the first time; its time is counted from then on."""
    started_at: float | None = None
    rewound_at: float | None = None
    """Since when it goes back to a checkpoint; None while it does not."""
    finished_at: float | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def is_gathering(self) -> bool:
        """Whether its pods are being told to stand still, or do and wait."""
        healing, is_awaited = self.healing, self.awaited_since is not None
        return healing is not None and healing.begun is None and not is_awaited

    @property
    def target_steps(self) -> int:
        """Steps it will apply: those asked for, or those the data lasts for."""
        return self.progress.target_steps if self.progress else self.spec.steps

    @property
    def exchange(self) -> ExchangeRule:
        """How gradients cross the link, as it was last decided."""
        if self.spec.choice is None:
            return self.spec.exchange
        return self.spec.choice.candidates[self.choosing.index if self.choosing else 0].rule

    @property
    def totals(self) -> Totals:
        """Sums over the steps of all attempts."""
        return self.progress.totals if self.progress else self.account.totals

    def slots(self, step: int) -> dict[str, int]:
        """How many every pod of the gang has of a step."""
        ranges = slot_ranges(batch.num_slots(self.spec.phases, step), len(self.gang))
        return {pod: end - first for pod, (first, end) in zip(self.gang, ranges, strict=True)}

    def moved(self, move: Move, reason: Reason) -> Job:
        """The job after `move`, of which nothing that was suspected before is; InvalidTransition
        when the table has no such row."""
        state = TRANSITIONS.get((self.state, move))
        if state is None:
            raise errors.InvalidTransition(f"job {self.id}", self.state, move)
        return dataclasses.replace(self, state=state, reason=reason, suspicion=None, hang=None)


def diagram() -> str:
    """The transition table as a Mermaid state diagram."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (source, move), target in TRANSITIONS.items():
        arrows.setdefault((source, target), []).append(move)
    lines = ["stateDiagram-v2", f"    [*] --> {JobState.PENDING}"]
    lines += [f"    {a} --> {b}: {', '.join(moves)}" for (a, b), moves in arrows.items()]
    lines += [f"    {state} --> [*]" for state in JobState if state in FINAL_STATES]
    return "\n".join(lines) + "\n"
