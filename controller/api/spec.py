"""The shape of a job specification, version 1: the one source of JSON Schema, API and reference.

Everything the format knows is described here, also what this version cannot run yet: `availability`
refuses that by name. Defaults are values that can run. The sections `model` and `train.optimizer`
belong to model.config, whose dataclasses carry their own rules. Rules between fields are in
`validation`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

_MAX_COUNT = 1 << 48
"""Above every count anybody trains with, and exact in JSON readers that know only doubles."""

Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
Path = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=1024)]
Duration = Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m|h|d)$", max_length=16)]
LabelValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=255)]


class Section(BaseModel):
    """A part of the specification: unknown keys are errors, and "3" is not 3."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        use_attribute_docstrings=True,
    )


Weight = Annotated[float, Field(gt=0, le=1e6)]
"""How often one epoch goes through a source: 1 once, 2 twice, 0.5 through half of it, and through
the other half in the epoch after."""


class TextSource(Section):
    """Files of plain text; every file is a document."""

    kind: Literal["text"]
    paths: Annotated[list[Path], Field(min_length=1, max_length=1000)]
    """Paths or globs; `python-stdlib:GLOB` looks in the interpreter's own library."""
    name: Name | None = None
    """What it is called on pages and in metrics; by default source-0 and so on."""
    weight: Weight = 1.0
    """How often one epoch goes through it: 1 once, 2 twice, 0.5 through half of it, and through
    the other half in the epoch after."""


class JsonLinesSource(Section):
    """Files with one JSON object a line; the string in its field is a document."""

    kind: Literal["jsonl"]
    paths: Annotated[list[Path], Field(min_length=1, max_length=1000)]
    """Paths or globs."""
    name: Name | None = None
    """What it is called on pages and in metrics; by default source-0 and so on."""
    weight: Weight = 1.0
    """How often one epoch goes through it: 1 once, 2 twice, 0.5 through half of it, and through
    the other half in the epoch after."""
    field: Annotated[str, Field(min_length=1, max_length=255)] = "text"
    """Of each object."""


class ArrayRecordSource(Section):
    """ArrayRecord files, whose records are UTF-8 text; every record is a document."""

    kind: Literal["array_record"]
    paths: Annotated[list[Path], Field(min_length=1, max_length=1000)]
    """Paths or globs."""
    name: Name | None = None
    """What it is called on pages and in metrics; by default source-0 and so on."""
    weight: Weight = 1.0
    """How often one epoch goes through it: 1 once, 2 twice, 0.5 through half of it, and through
    the other half in the epoch after."""


class BytesTokenizer(Section):
    """One token per byte, and 256 for the end of a document."""

    kind: Literal["bytes"]


class SentencePieceTokenizer(Section):
    """A trained SentencePiece model, such as `landbridge tokenizer train` makes."""

    kind: Literal["sentencepiece"]
    path: Path
    """Of the model file, the same on all hosts."""


Source = Annotated[TextSource | JsonLinesSource | ArrayRecordSource, Discriminator("kind")]


class Data(Section):
    """What is read."""

    sources: Annotated[list[Source], Field(min_length=1, max_length=100)]
    """Each with a `kind`; together they are an epoch."""
    tokenizer: Annotated[BytesTokenizer | SentencePieceTokenizer, Discriminator("kind")] = (
        BytesTokenizer(kind="bytes")
    )
    """How text becomes numbers below model.vocab_size."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """After which the data is used up and the job ends, if train.steps did not end it before."""


def _batch_kind(value: Any) -> str:
    return "schedule" if isinstance(value, list) else "number"


Batch = Annotated[int, Field(ge=1, le=1 << 24)]
BatchSchedule = Annotated[
    list[Annotated[list[int], Field(min_length=2, max_length=2)]], Field(min_length=1)
]


class Evaluate(Section):
    """How it does on text that nobody trains on: loss, and bits per byte."""

    every: Count = 100
    """Steps between evaluations; the state after the last step is evaluated, too."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of every source, its end, is held out of training."""
    sources: Annotated[list[Source], Field(min_length=1, max_length=100)] | None = None
    """Text of its own instead."""
    sequences: Annotated[int, Field(ge=1, le=1 << 24)] = 256
    """Evaluated each time at most, spread over what is held out."""


class Spikes(Section):
    """What is done about loss spikes: back to a checkpoint, and past the batches after it."""

    threshold: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """A spike is so many deviations above the median of the losses before (1.48 median absolute
    deviations, at least 1% of the median)."""
    window: Annotated[int, Field(ge=4, le=1024)] = 64
    """Losses that are looked back at; a spike is seen after 16 of them, or after all of a shorter
    window."""
    rewind_steps: Count = 100
    """The checkpoint is at least so much older than the spike, if there is one."""
    skip_steps: Count = 200
    """Batches that are passed over, from rewind_steps before the spike on, or from the checkpoint
    when that is nearer; more than rewind_steps, so that the spike's own is one of them."""
    max_rewinds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Spikes after so many rewinds are trained through; a loss that is no number ends the job."""


class Train(Section):
    """What is done with it."""

    steps: Count
    """Updates of the parameters."""
    global_batch: Annotated[
        Annotated[Batch, Tag("number")] | Annotated[BatchSchedule, Tag("schedule")],
        Discriminator(_batch_kind),
    ]
    """Sequences per step, all pods together; or [[after step, sequences], ...], as in
    [[0, 512], [50000, 1024]]: 1024 from step 50001 on."""
    sequence_length: Annotated[int, Field(ge=1, le=1 << 20)]
    """Tokens."""
    microbatch: Annotated[int, Field(ge=1, le=1 << 20)]
    """Sequences per slot. Results depend on it, so there is no default."""
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0
    """Of the parameters, the order of the data, and stochastic rounding."""
    optimizer: Any = Field(default_factory=lambda: {"kind": "adafactor"})
    """With a `kind`: adafactor or adamw."""
    digest_every: Annotated[int, Field(ge=0, le=_MAX_COUNT)] = 10
    """Steps between two at which pods tell the digest of their state; 0 is never but at the end."""
    eval: Evaluate | None = None
    """Without it, nothing is held out."""
    spikes: Spikes | None = None
    """Without it, spikes are trained through."""


class Mesh(Section):
    """The devices of a pod: `data` ways to split the batch times `model` ways to split layers."""

    data: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Ways to split a slot's sequences, and parameters where they are fully sharded."""
    model: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Ways to split every layer."""


Pods = Annotated[int, Field(ge=1, le=1024)]


class PodRange(Section):
    """As many pods as are free, within bounds."""

    min: Pods = 1
    """The job waits until so many are free."""
    max: Pods
    """Of those that are free, no more than so many are taken."""


def _pods_kind(value: Any) -> str:
    return "range" if isinstance(value, (dict, PodRange)) else "number"


class Placement(Section):
    """Where it runs."""

    pods: Annotated[
        Annotated[Pods, Tag("number")] | Annotated[PodRange, Tag("range")],
        Discriminator(_pods_kind),
    ] = 1
    """How many, or {min, max}."""
    mesh: Mesh = Mesh()
    """Of each pod; data times model devices."""
    on_pod_loss: Literal["wait", "shrink", "fail"] = "fail"
    """What happens when a pod is lost. wait: the others stand still with their state until another
    pod is there, and give it what they have. shrink: they go on at once without it, and take in
    another pod when there is one. fail: the job ends. Where pods train on their own in between
    (diloco), wait and shrink go back to the newest checkpoint."""
    wait_timeout: Duration | None = None
    """How long they stand still, 10m by default; then the job goes on with those that are left, if
    they are as many as it may start with, or ends. Not with fail."""
    selector: dict[str, str] | None = None
    """Labels that pods must have."""


class Outer(Section):
    """How pods synchronise that train on their own in between: an outer optimizer, SGD with
    Nesterov momentum, moves an anchor by how far they came on average."""

    every: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    """Steps between two synchronisations of the same parameters, 25 by default. All are
    synchronised after the last step."""
    fragments: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Parts that are synchronised one after the other, layer i in part i modulo their number;
    streaming_diloco only; by default 4, or as many as there are layers."""
    delay: Annotated[int, Field(ge=0, le=1 << 24)] | None = None
    """Steps that go on while a fragment travels; at most every / fragments. streaming_diloco only;
    by default 5, or that many."""
    learning_rate: Annotated[float, Field(ge=0, le=10)] | None = None
    """0.7 by default."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """0.9 by default."""
    mixing: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of its own parameters in what a pod goes on with, the rest being the anchor;
    streaming_diloco only, 0.5 by default."""


class Exchange(Section):
    """How gradients cross the link."""

    mode: Literal["full", "diloco", "streaming_diloco", "auto"] = "full"
    """Gradients after every step, so that all pods hold the same bits; or every so many steps how
    far each pod came, whose parameters differ in between. auto is full, in the dtype that the link
    as it is measured asks for."""
    budget: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of auto: the share of a step that may wait for the link, round trips not counted; 0.03 by
    default."""
    allow: Annotated[list[Literal["bfloat16", "int8"]], Field(max_length=2)] | None = None
    """Of auto: what may be chosen beside float32, which is taken whenever it keeps to the budget.
    By default nothing, and auto only reports. With anything here, bits depend on the link."""
    outer: Outer | None = None
    """Of diloco and streaming_diloco."""
    dtype: Literal["float32", "bfloat16", "int8", "int4"] = "float32"
    """What numbers cross the link as: a half, a quarter or an eighth of the bytes of float32. int4
    is for diloco and streaming_diloco. auto chooses it itself."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of int8 and int4."""
    error_feedback: bool = True
    """Whether what fewer bits than float32 lose is added to what is sent next. What is lost is in
    checkpoints; a job that goes on from one and keeps no losses adds it to its first step."""
    overlap: bool = True
    """Gradients of a segment travel while the next is computed; else all of them after the last.
    The bits are the same."""
    segments: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Groups of layers whose gradients become ready, and are summed, one after the other; by
    default as many as the model's size suggests."""
    reproducible: bool = True
    """The same bits for any number of pods, in float32: a pod whose slots are several nodes of the
    slot tree sends a sum of each. false sends one sum. Where bits depend on the number of pods or
    on the link in any case, true is an error; leave it out."""


class ResumeFrom(Section):
    """A checkpoint of another job."""

    job: Name
    """Its id."""
    step: Count | None = None
    """Its newest one, if not said."""
    data: Literal["continue", "anew"] = "continue"
    """Go on in that job's data where the checkpoint was taken, which must then be the same, or
    begin at the beginning of other data."""


class Checkpoint(Section):
    """What is kept on disk. Without this section, nothing is."""

    every: Count = 1000
    """Steps between checkpoints; the state after the last step is one, too."""
    keep: Count = 3
    """The newest so many; older ones are deleted."""
    keep_every: Count | None = None
    """Those of multiples of so many steps stay as well."""
    keep_best: bool = False
    """The one with the lowest held-out loss stays as well; needs train.eval."""
    resume_from: ResumeFrom | None = None
    """A checkpoint of another job to start from: of the same model and optimizer, on any mesh and
    any number of pods."""
    directory: Path | None = None
    """Storage that all pods share; without it, `checkpoints` in the hosts' state folder."""


class Restarts(Section):
    """How often a job may start over."""

    on_error: Annotated[int, Field(ge=0, le=1000)] = 0
    """After an error of its own."""


class Assume(Section):
    """What a plan takes for granted where no pod has said it."""

    device: str | None = None
    """An accelerator by name, such as tpu-v4; without it, the devices of the pods there are."""
    link_bytes_per_second: Annotated[float, Field(gt=0)] | None = None
    """What one host sends to its peers in the other pods."""
    mfu: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of a pod while it computes."""
    tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    """Of the whole job, the link included; wins over `mfu`."""
    tokens: Annotated[float, Field(gt=0)] | None = None
    """To train on; without it, those of train.steps."""


class Spec(Section):
    """A training job."""

    version: Literal[1]
    """Of this format."""
    name: Name
    """For people; jobs have ids of their own."""
    model: Any
    """A preset with fields overridden, or all fields."""
    data: Data
    """What is read."""
    train: Train
    """What is done with it."""
    placement: Placement = Placement()
    """Where it runs."""
    exchange: Exchange = Exchange()
    """How gradients cross the link."""
    checkpoint: Checkpoint | None = None
    """What is kept on disk; without it, nothing is."""
    queue: Name = "default"
    """In which the job waits."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Within its queue; higher ones go first."""
    labels: Annotated[dict[Name, LabelValue], Field(max_length=64)] = Field(default_factory=dict)
    """For people and tools to find it by."""
    max_duration: Duration | None = None
    """After which it is stopped."""
    restarts: Restarts | None = None
    """How often it may start over."""
    assume: Assume | None = None
    """What a plan takes for granted; a job that runs does not look at it."""
