from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeakSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PEAK_SOURCE_UNSPECIFIED: _ClassVar[PeakSource]
    PEAK_SOURCE_UNKNOWN: _ClassVar[PeakSource]
    PEAK_SOURCE_TABLE: _ClassVar[PeakSource]
    PEAK_SOURCE_CALIBRATED: _ClassVar[PeakSource]
    PEAK_SOURCE_EMULATED: _ClassVar[PeakSource]

class ExchangeDtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXCHANGE_DTYPE_UNSPECIFIED: _ClassVar[ExchangeDtype]
    EXCHANGE_DTYPE_FLOAT32: _ClassVar[ExchangeDtype]
    EXCHANGE_DTYPE_BFLOAT16: _ClassVar[ExchangeDtype]
    EXCHANGE_DTYPE_INT8: _ClassVar[ExchangeDtype]
    EXCHANGE_DTYPE_INT4: _ClassVar[ExchangeDtype]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_FETCH: _ClassVar[Phase]
    PHASE_DATA: _ClassVar[Phase]
    PHASE_COMPILE: _ClassVar[Phase]
    PHASE_COMPUTE: _ClassVar[Phase]
    PHASE_EXCHANGE: _ClassVar[Phase]
    PHASE_HEAL: _ClassVar[Phase]
    PHASE_EVALUATE: _ClassVar[Phase]
    PHASE_SAVE: _ClassVar[Phase]
    PHASE_REST: _ClassVar[Phase]
PEAK_SOURCE_UNSPECIFIED: PeakSource
PEAK_SOURCE_UNKNOWN: PeakSource
PEAK_SOURCE_TABLE: PeakSource
PEAK_SOURCE_CALIBRATED: PeakSource
PEAK_SOURCE_EMULATED: PeakSource
EXCHANGE_DTYPE_UNSPECIFIED: ExchangeDtype
EXCHANGE_DTYPE_FLOAT32: ExchangeDtype
EXCHANGE_DTYPE_BFLOAT16: ExchangeDtype
EXCHANGE_DTYPE_INT8: ExchangeDtype
EXCHANGE_DTYPE_INT4: ExchangeDtype
PHASE_UNSPECIFIED: Phase
PHASE_FETCH: Phase
PHASE_DATA: Phase
PHASE_COMPILE: Phase
PHASE_COMPUTE: Phase
PHASE_EXCHANGE: Phase
PHASE_HEAL: Phase
PHASE_EVALUATE: Phase
PHASE_SAVE: Phase
PHASE_REST: Phase

class HostEvent(_message.Message):
    __slots__ = ("hello", "inventory", "program_ready", "steps_applied", "job_faulted", "job_released", "heartbeat", "checkpoint_written", "checkpoint_published", "restore_failed", "evaluated", "link_conditions", "job_held", "program_warmed", "stacks", "host_leaving")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_READY_FIELD_NUMBER: _ClassVar[int]
    STEPS_APPLIED_FIELD_NUMBER: _ClassVar[int]
    JOB_FAULTED_FIELD_NUMBER: _ClassVar[int]
    JOB_RELEASED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FAILED_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    LINK_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    JOB_HELD_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_WARMED_FIELD_NUMBER: _ClassVar[int]
    STACKS_FIELD_NUMBER: _ClassVar[int]
    HOST_LEAVING_FIELD_NUMBER: _ClassVar[int]
    hello: HostHello
    inventory: HostInventory
    program_ready: ProgramReady
    steps_applied: StepsApplied
    job_faulted: JobFaulted
    job_released: JobReleased
    heartbeat: Heartbeat
    checkpoint_written: CheckpointWritten
    checkpoint_published: CheckpointPublished
    restore_failed: RestoreFailed
    evaluated: Evaluated
    link_conditions: LinkConditions
    job_held: JobHeld
    program_warmed: ProgramWarmed
    stacks: Stacks
    host_leaving: HostLeaving
    def __init__(self, hello: _Optional[_Union[HostHello, _Mapping]] = ..., inventory: _Optional[_Union[HostInventory, _Mapping]] = ..., program_ready: _Optional[_Union[ProgramReady, _Mapping]] = ..., steps_applied: _Optional[_Union[StepsApplied, _Mapping]] = ..., job_faulted: _Optional[_Union[JobFaulted, _Mapping]] = ..., job_released: _Optional[_Union[JobReleased, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., checkpoint_written: _Optional[_Union[CheckpointWritten, _Mapping]] = ..., checkpoint_published: _Optional[_Union[CheckpointPublished, _Mapping]] = ..., restore_failed: _Optional[_Union[RestoreFailed, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ..., link_conditions: _Optional[_Union[LinkConditions, _Mapping]] = ..., job_held: _Optional[_Union[JobHeld, _Mapping]] = ..., program_warmed: _Optional[_Union[ProgramWarmed, _Mapping]] = ..., stacks: _Optional[_Union[Stacks, _Mapping]] = ..., host_leaving: _Optional[_Union[HostLeaving, _Mapping]] = ...) -> None: ...

class HostCommand(_message.Message):
    __slots__ = ("assemble_pod", "prepare_job", "grant_window", "stop_job", "dismiss", "publish_checkpoint", "remove_checkpoint", "save_checkpoint", "set_link_conditions", "change_exchange", "hold_job", "warm_program", "tell_again", "dump_stacks")
    ASSEMBLE_POD_FIELD_NUMBER: _ClassVar[int]
    PREPARE_JOB_FIELD_NUMBER: _ClassVar[int]
    GRANT_WINDOW_FIELD_NUMBER: _ClassVar[int]
    STOP_JOB_FIELD_NUMBER: _ClassVar[int]
    DISMISS_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SAVE_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SET_LINK_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    HOLD_JOB_FIELD_NUMBER: _ClassVar[int]
    WARM_PROGRAM_FIELD_NUMBER: _ClassVar[int]
    TELL_AGAIN_FIELD_NUMBER: _ClassVar[int]
    DUMP_STACKS_FIELD_NUMBER: _ClassVar[int]
    assemble_pod: AssemblePod
    prepare_job: PrepareJob
    grant_window: GrantWindow
    stop_job: StopJob
    dismiss: Dismiss
    publish_checkpoint: PublishCheckpoint
    remove_checkpoint: RemoveCheckpoint
    save_checkpoint: SaveCheckpoint
    set_link_conditions: SetLinkConditions
    change_exchange: ChangeExchange
    hold_job: HoldJob
    warm_program: WarmProgram
    tell_again: TellAgain
    dump_stacks: DumpStacks
    def __init__(self, assemble_pod: _Optional[_Union[AssemblePod, _Mapping]] = ..., prepare_job: _Optional[_Union[PrepareJob, _Mapping]] = ..., grant_window: _Optional[_Union[GrantWindow, _Mapping]] = ..., stop_job: _Optional[_Union[StopJob, _Mapping]] = ..., dismiss: _Optional[_Union[Dismiss, _Mapping]] = ..., publish_checkpoint: _Optional[_Union[PublishCheckpoint, _Mapping]] = ..., remove_checkpoint: _Optional[_Union[RemoveCheckpoint, _Mapping]] = ..., save_checkpoint: _Optional[_Union[SaveCheckpoint, _Mapping]] = ..., set_link_conditions: _Optional[_Union[SetLinkConditions, _Mapping]] = ..., change_exchange: _Optional[_Union[ChangeExchange, _Mapping]] = ..., hold_job: _Optional[_Union[HoldJob, _Mapping]] = ..., warm_program: _Optional[_Union[WarmProgram, _Mapping]] = ..., tell_again: _Optional[_Union[TellAgain, _Mapping]] = ..., dump_stacks: _Optional[_Union[DumpStacks, _Mapping]] = ...) -> None: ...

class HostHello(_message.Message):
    __slots__ = ("protocol_version", "pod", "host_index", "num_hosts", "incarnation", "link_address", "coordinator_address", "pid", "join_token", "assembled_with", "held")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    HOST_INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_HOSTS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LINK_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ASSEMBLED_WITH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    pod: str
    host_index: int
    num_hosts: int
    incarnation: str
    link_address: str
    coordinator_address: str
    pid: int
    join_token: str
    assembled_with: str
    held: HeldJob
    def __init__(self, protocol_version: _Optional[int] = ..., pod: _Optional[str] = ..., host_index: _Optional[int] = ..., num_hosts: _Optional[int] = ..., incarnation: _Optional[str] = ..., link_address: _Optional[str] = ..., coordinator_address: _Optional[str] = ..., pid: _Optional[int] = ..., join_token: _Optional[str] = ..., assembled_with: _Optional[str] = ..., held: _Optional[_Union[HeldJob, _Mapping]] = ...) -> None: ...

class HeldJob(_message.Message):
    __slots__ = ("job", "generation", "granted_step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    GRANTED_STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    granted_step: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., granted_step: _Optional[int] = ...) -> None: ...

class HostInventory(_message.Message):
    __slots__ = ("platform", "device_kind", "num_devices", "device_memory_bytes", "peak_flops_per_second", "peak_source", "versions")
    class PeakFlopsPerSecondEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_FLOPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PEAK_SOURCE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    platform: str
    device_kind: str
    num_devices: int
    device_memory_bytes: int
    peak_flops_per_second: _containers.ScalarMap[str, float]
    peak_source: PeakSource
    versions: _containers.ScalarMap[str, str]
    def __init__(self, platform: _Optional[str] = ..., device_kind: _Optional[str] = ..., num_devices: _Optional[int] = ..., device_memory_bytes: _Optional[int] = ..., peak_flops_per_second: _Optional[_Mapping[str, float]] = ..., peak_source: _Optional[_Union[PeakSource, str]] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AssemblePod(_message.Message):
    __slots__ = ("coordinator_address", "lead_link_address", "heartbeat_interval_seconds", "lead_incarnation")
    COORDINATOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEAD_LINK_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    coordinator_address: str
    lead_link_address: str
    heartbeat_interval_seconds: float
    lead_incarnation: str
    def __init__(self, coordinator_address: _Optional[str] = ..., lead_link_address: _Optional[str] = ..., heartbeat_interval_seconds: _Optional[float] = ..., lead_incarnation: _Optional[str] = ...) -> None: ...

class PrepareJob(_message.Message):
    __slots__ = ("job", "generation", "bundle_digest", "members", "member_index", "phases", "seed", "data_json", "digest_every_steps", "target_steps", "checkpoint_every_steps", "checkpoint_directory", "restore", "skipped", "evaluate_every_steps", "data_start", "exchange", "resume")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MEMBER_INDEX_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DATA_JSON_FIELD_NUMBER: _ClassVar[int]
    DIGEST_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    TARGET_STEPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    DATA_START_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    bundle_digest: str
    members: _containers.RepeatedCompositeFieldContainer[GangMember]
    member_index: int
    phases: _containers.RepeatedCompositeFieldContainer[BatchPhase]
    seed: int
    data_json: str
    digest_every_steps: int
    target_steps: int
    checkpoint_every_steps: int
    checkpoint_directory: str
    restore: CheckpointPlace
    skipped: _containers.RepeatedCompositeFieldContainer[PositionRange]
    evaluate_every_steps: int
    data_start: DataStart
    exchange: Exchange
    resume: Resume
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., members: _Optional[_Iterable[_Union[GangMember, _Mapping]]] = ..., member_index: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[BatchPhase, _Mapping]]] = ..., seed: _Optional[int] = ..., data_json: _Optional[str] = ..., digest_every_steps: _Optional[int] = ..., target_steps: _Optional[int] = ..., checkpoint_every_steps: _Optional[int] = ..., checkpoint_directory: _Optional[str] = ..., restore: _Optional[_Union[CheckpointPlace, _Mapping]] = ..., skipped: _Optional[_Iterable[_Union[PositionRange, _Mapping]]] = ..., evaluate_every_steps: _Optional[int] = ..., data_start: _Optional[_Union[DataStart, _Mapping]] = ..., exchange: _Optional[_Union[Exchange, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("step", "state_sha256", "lacking", "is_save_due", "is_evaluation_due")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    IS_SAVE_DUE_FIELD_NUMBER: _ClassVar[int]
    IS_EVALUATION_DUE_FIELD_NUMBER: _ClassVar[int]
    step: int
    state_sha256: bytes
    lacking: _containers.RepeatedScalarFieldContainer[int]
    is_save_due: bool
    is_evaluation_due: bool
    def __init__(self, step: _Optional[int] = ..., state_sha256: _Optional[bytes] = ..., lacking: _Optional[_Iterable[int]] = ..., is_save_due: _Optional[bool] = ..., is_evaluation_due: _Optional[bool] = ...) -> None: ...

class Exchange(_message.Message):
    __slots__ = ("dtype", "stochastic_rounding", "error_feedback", "overlap", "reproducible")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    STOCHASTIC_ROUNDING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    dtype: ExchangeDtype
    stochastic_rounding: bool
    error_feedback: bool
    overlap: bool
    reproducible: bool
    def __init__(self, dtype: _Optional[_Union[ExchangeDtype, str]] = ..., stochastic_rounding: _Optional[bool] = ..., error_feedback: _Optional[bool] = ..., overlap: _Optional[bool] = ..., reproducible: _Optional[bool] = ...) -> None: ...

class GangMember(_message.Message):
    __slots__ = ("pod", "link_addresses", "link_share")
    POD_FIELD_NUMBER: _ClassVar[int]
    LINK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LINK_SHARE_FIELD_NUMBER: _ClassVar[int]
    pod: str
    link_addresses: _containers.RepeatedScalarFieldContainer[str]
    link_share: int
    def __init__(self, pod: _Optional[str] = ..., link_addresses: _Optional[_Iterable[str]] = ..., link_share: _Optional[int] = ...) -> None: ...

class BatchPhase(_message.Message):
    __slots__ = ("first_step", "num_slots", "slots")
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    first_step: int
    num_slots: int
    slots: _containers.RepeatedCompositeFieldContainer[SlotRange]
    def __init__(self, first_step: _Optional[int] = ..., num_slots: _Optional[int] = ..., slots: _Optional[_Iterable[_Union[SlotRange, _Mapping]]] = ...) -> None: ...

class SlotRange(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class PositionRange(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class DataStart(_message.Message):
    __slots__ = ("after_step", "position")
    AFTER_STEP_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    after_step: int
    position: int
    def __init__(self, after_step: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class CheckpointPlace(_message.Message):
    __slots__ = ("job", "directory", "step", "generation", "state_sha256")
    JOB_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    job: str
    directory: str
    step: int
    generation: int
    state_sha256: bytes
    def __init__(self, job: _Optional[str] = ..., directory: _Optional[str] = ..., step: _Optional[int] = ..., generation: _Optional[int] = ..., state_sha256: _Optional[bytes] = ...) -> None: ...

class ProgramReady(_message.Message):
    __slots__ = ("job", "generation", "ready_seconds", "compile_seconds", "dataset_digest", "data_steps", "device_bytes", "sources")
    class DeviceBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    READY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPILE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_STEPS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    ready_seconds: float
    compile_seconds: float
    dataset_digest: str
    data_steps: int
    device_bytes: _containers.ScalarMap[str, int]
    sources: _containers.RepeatedCompositeFieldContainer[DataSource]
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., ready_seconds: _Optional[float] = ..., compile_seconds: _Optional[float] = ..., dataset_digest: _Optional[str] = ..., data_steps: _Optional[int] = ..., device_bytes: _Optional[_Mapping[str, int]] = ..., sources: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ...) -> None: ...

class DataSource(_message.Message):
    __slots__ = ("name", "num_documents", "num_tokens", "num_sequences", "epoch_sequences")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_documents: int
    num_tokens: int
    num_sequences: int
    epoch_sequences: int
    def __init__(self, name: _Optional[str] = ..., num_documents: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_sequences: _Optional[int] = ..., epoch_sequences: _Optional[int] = ...) -> None: ...

class ProgramWarmed(_message.Message):
    __slots__ = ("bundle_digest",)
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bundle_digest: str
    def __init__(self, bundle_digest: _Optional[str] = ...) -> None: ...

class GrantWindow(_message.Message):
    __slots__ = ("job", "generation", "last_step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    last_step: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class ChangeExchange(_message.Message):
    __slots__ = ("job", "generation", "first_step", "exchange")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    first_step: int
    exchange: Exchange
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., first_step: _Optional[int] = ..., exchange: _Optional[_Union[Exchange, _Mapping]] = ...) -> None: ...

class StopJob(_message.Message):
    __slots__ = ("job", "generation", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    reason: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class HoldJob(_message.Message):
    __slots__ = ("job", "generation", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    reason: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TellAgain(_message.Message):
    __slots__ = ("job", "generation", "after_step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    after_step: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., after_step: _Optional[int] = ...) -> None: ...

class WarmProgram(_message.Message):
    __slots__ = ("bundle_digest",)
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bundle_digest: str
    def __init__(self, bundle_digest: _Optional[str] = ...) -> None: ...

class Dismiss(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StepsApplied(_message.Message):
    __slots__ = ("job", "generation", "first_step", "time_unix_seconds", "loss", "grad_norm", "learning_rate", "seconds", "exchange_seconds", "exposed_seconds", "data_wait_seconds", "link_bytes", "digests", "pause_seconds", "source_sequences", "float32_bytes", "residual_norm")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATA_WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    FLOAT32_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_NORM_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    first_step: int
    time_unix_seconds: _containers.RepeatedScalarFieldContainer[float]
    loss: _containers.RepeatedScalarFieldContainer[float]
    grad_norm: _containers.RepeatedScalarFieldContainer[float]
    learning_rate: _containers.RepeatedScalarFieldContainer[float]
    seconds: _containers.RepeatedScalarFieldContainer[float]
    exchange_seconds: _containers.RepeatedScalarFieldContainer[float]
    exposed_seconds: _containers.RepeatedScalarFieldContainer[float]
    data_wait_seconds: _containers.RepeatedScalarFieldContainer[float]
    link_bytes: _containers.RepeatedScalarFieldContainer[int]
    digests: _containers.RepeatedCompositeFieldContainer[StateDigest]
    pause_seconds: _containers.RepeatedScalarFieldContainer[float]
    source_sequences: _containers.RepeatedScalarFieldContainer[int]
    float32_bytes: _containers.RepeatedScalarFieldContainer[int]
    residual_norm: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., first_step: _Optional[int] = ..., time_unix_seconds: _Optional[_Iterable[float]] = ..., loss: _Optional[_Iterable[float]] = ..., grad_norm: _Optional[_Iterable[float]] = ..., learning_rate: _Optional[_Iterable[float]] = ..., seconds: _Optional[_Iterable[float]] = ..., exchange_seconds: _Optional[_Iterable[float]] = ..., exposed_seconds: _Optional[_Iterable[float]] = ..., data_wait_seconds: _Optional[_Iterable[float]] = ..., link_bytes: _Optional[_Iterable[int]] = ..., digests: _Optional[_Iterable[_Union[StateDigest, _Mapping]]] = ..., pause_seconds: _Optional[_Iterable[float]] = ..., source_sequences: _Optional[_Iterable[int]] = ..., float32_bytes: _Optional[_Iterable[int]] = ..., residual_norm: _Optional[_Iterable[float]] = ...) -> None: ...

class StateDigest(_message.Message):
    __slots__ = ("step", "sha256")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    step: int
    sha256: bytes
    def __init__(self, step: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class JobFaulted(_message.Message):
    __slots__ = ("job", "generation", "phase", "step", "message", "suspect_pod")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_POD_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    phase: Phase
    step: int
    message: str
    suspect_pod: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., step: _Optional[int] = ..., message: _Optional[str] = ..., suspect_pod: _Optional[str] = ...) -> None: ...

class JobReleased(_message.Message):
    __slots__ = ("job", "generation", "applied_step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    applied_step: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., applied_step: _Optional[int] = ...) -> None: ...

class JobHeld(_message.Message):
    __slots__ = ("job", "generation", "applied_step", "state_sha256")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    applied_step: int
    state_sha256: bytes
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., applied_step: _Optional[int] = ..., state_sha256: _Optional[bytes] = ...) -> None: ...

class CheckpointWritten(_message.Message):
    __slots__ = ("job", "generation", "step", "state_sha256", "num_bytes", "seconds", "stall_seconds", "error", "data_position")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    STALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DATA_POSITION_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    state_sha256: bytes
    num_bytes: int
    seconds: float
    stall_seconds: float
    error: str
    data_position: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., state_sha256: _Optional[bytes] = ..., num_bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., stall_seconds: _Optional[float] = ..., error: _Optional[str] = ..., data_position: _Optional[int] = ...) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("job", "generation", "step", "losses", "num_tokens", "num_bytes")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    losses: _containers.RepeatedScalarFieldContainer[float]
    num_tokens: int
    num_bytes: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., losses: _Optional[_Iterable[float]] = ..., num_tokens: _Optional[int] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class CheckpointPublished(_message.Message):
    __slots__ = ("job", "generation", "step", "error")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    error: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class RestoreFailed(_message.Message):
    __slots__ = ("job", "generation", "message")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    message: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class PublishCheckpoint(_message.Message):
    __slots__ = ("job", "generation", "directory", "step", "num_members", "state_sha256", "data_position", "skipped")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATA_POSITION_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    directory: str
    step: int
    num_members: int
    state_sha256: bytes
    data_position: int
    skipped: _containers.RepeatedCompositeFieldContainer[PositionRange]
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., directory: _Optional[str] = ..., step: _Optional[int] = ..., num_members: _Optional[int] = ..., state_sha256: _Optional[bytes] = ..., data_position: _Optional[int] = ..., skipped: _Optional[_Iterable[_Union[PositionRange, _Mapping]]] = ...) -> None: ...

class SaveCheckpoint(_message.Message):
    __slots__ = ("job", "generation", "step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class RemoveCheckpoint(_message.Message):
    __slots__ = ("job", "directory", "step", "generation")
    JOB_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    job: str
    directory: str
    step: int
    generation: int
    def __init__(self, job: _Optional[str] = ..., directory: _Optional[str] = ..., step: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("link_traffic", "activity")
    LINK_TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    link_traffic: _containers.RepeatedCompositeFieldContainer[LinkTraffic]
    activity: Activity
    def __init__(self, link_traffic: _Optional[_Iterable[_Union[LinkTraffic, _Mapping]]] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("job", "generation", "phase", "step", "seconds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    phase: Phase
    step: int
    seconds: float
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., step: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class HostLeaving(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class DumpStacks(_message.Message):
    __slots__ = ("job", "generation")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class Stacks(_message.Message):
    __slots__ = ("job", "generation", "text")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    text: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class LinkTraffic(_message.Message):
    __slots__ = ("peer_pod", "sent_bytes", "sending_seconds", "retries", "rate_bytes_per_second", "rtt_seconds")
    PEER_POD_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENDING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RTT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    peer_pod: str
    sent_bytes: int
    sending_seconds: float
    retries: int
    rate_bytes_per_second: float
    rtt_seconds: float
    def __init__(self, peer_pod: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., sending_seconds: _Optional[float] = ..., retries: _Optional[int] = ..., rate_bytes_per_second: _Optional[float] = ..., rtt_seconds: _Optional[float] = ...) -> None: ...

class SetLinkConditions(_message.Message):
    __slots__ = ("conditions",)
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    conditions: LinkConditions
    def __init__(self, conditions: _Optional[_Union[LinkConditions, _Mapping]] = ...) -> None: ...

class LinkConditions(_message.Message):
    __slots__ = ("bandwidth_bytes_per_second", "latency_seconds", "jitter_seconds", "stall_every_seconds", "stall_seconds", "drop_probability", "is_partitioned")
    BANDWIDTH_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JITTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STALL_EVERY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DROP_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    IS_PARTITIONED_FIELD_NUMBER: _ClassVar[int]
    bandwidth_bytes_per_second: float
    latency_seconds: float
    jitter_seconds: float
    stall_every_seconds: float
    stall_seconds: float
    drop_probability: float
    is_partitioned: bool
    def __init__(self, bandwidth_bytes_per_second: _Optional[float] = ..., latency_seconds: _Optional[float] = ..., jitter_seconds: _Optional[float] = ..., stall_every_seconds: _Optional[float] = ..., stall_seconds: _Optional[float] = ..., drop_probability: _Optional[float] = ..., is_partitioned: _Optional[bool] = ...) -> None: ...
