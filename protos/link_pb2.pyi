from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Chunk(_message.Message):
    __slots__ = ("job", "generation", "step", "segment", "member_index", "offset_bytes", "total_bytes", "crc32", "data", "round")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    MEMBER_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    segment: int
    member_index: int
    offset_bytes: int
    total_bytes: int
    crc32: int
    data: bytes
    round: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., segment: _Optional[int] = ..., member_index: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., data: _Optional[bytes] = ..., round: _Optional[int] = ...) -> None: ...

class SendSummary(_message.Message):
    __slots__ = ("accepted_bytes",)
    ACCEPTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    accepted_bytes: int
    def __init__(self, accepted_bytes: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AgreeStepRequest(_message.Message):
    __slots__ = ("job", "generation", "step", "host_index", "holds_all")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HOST_INDEX_FIELD_NUMBER: _ClassVar[int]
    HOLDS_ALL_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    step: int
    host_index: int
    holds_all: bool
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., host_index: _Optional[int] = ..., holds_all: _Optional[bool] = ...) -> None: ...

class AgreeStepResponse(_message.Message):
    __slots__ = ("apply", "leave")
    APPLY_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    apply: bool
    leave: bool
    def __init__(self, apply: _Optional[bool] = ..., leave: _Optional[bool] = ...) -> None: ...
