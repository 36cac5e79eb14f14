"""What a user can choose about model, optimizer and slot, and what is wrong with a choice.

Standard library only, so that the controller can validate a spec and plan a job without jax. The
fields carry their own rules (model.fields); rules between fields, and between the model and the
mesh, are in `problems`. Counting parameters and FLOPs is model.flops; what the fields mean
numerically is model.palm and model.optimizer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from model.fields import (
    Problem,
    choice,
    field_problems,
    integer,
    missing_problems,
    real,
    unknown_key,
    variant,
    variant_problems,
)
from model.outer_config import OUTER_MODES, outer_fit_problems, outer_problems
from model.schedule import (
    SCHEDULES,
    ConstantSchedule,
    RsqrtSchedule,
    Schedule,
    schedule_problems,
)

RematPolicy = Literal["full", "attention", "none"]

# Far above any published model; low enough that arithmetic on a hostile spec stays quick.
_MAX_DIM = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A PaLM: sizes, recomputation in the backward pass, and the two dtypes."""

    num_layers: int = integer(at_least=1, at_most=4096)
    """Attention and MLP side by side in each."""
    model_dim: int = integer(at_least=1, at_most=_MAX_DIM)
    """Width of the residual stream."""
    num_heads: int = integer(at_least=1, at_most=_MAX_DIM)
    """Of queries; keys and values have one."""
    head_dim: int = integer(at_least=2, at_most=_MAX_DIM)
    """Width of a head."""
    vocab_size: int = integer(at_least=2, at_most=1 << 24)
    """Tokens that the tokenizer may give, or more."""
    mlp_dim: int = integer(at_least=1, at_most=4 * _MAX_DIM)
    """4 * model_dim unless a spec says otherwise, as in every published size."""
    remat: RematPolicy = choice("full", "attention", "none", default="full")
    """What the backward pass computes again instead of keeping it: whole layers, attention, or
    nothing."""
    compute_dtype: str = choice("float32", "bfloat16", default="bfloat16")
    """Of matrix products."""
    param_dtype: str = choice("float32", "bfloat16", default="float32")
    """Of parameters."""

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """The configuration a spec's `model` section describes; raises KeyError/TypeError unless
        `problems` found nothing."""
        return cls(**_resolved(spec))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdafactorConfig:
    """Adafactor without factoring, with the constants of PaLM section 5."""

    learning_rate: float = real(at_least=0.0, at_most=1.0, default=1e-2)
    """Relative to the RMS of each parameter."""
    schedule: Schedule = variant(SCHEDULES, default=RsqrtSchedule())
    """What the learning rate is multiplied by, step by step."""
    beta1: float = real(at_least=0.0, at_most=0.9999, default=0.9)
    """How much of the mean of gradients is kept at every step."""
    beta2_exponent: float = real(at_least=0.1, at_most=1.0, default=0.8)
    """beta2 of step k is 1 - k^-beta2_exponent."""
    clip_norm: float = real(at_least=1e-6, at_most=1e9, default=1.0)
    """Gradients of a larger norm, all together, are scaled down to it."""
    weight_decay_exponent: float = real(at_least=1.0, at_most=10.0, default=2.0)
    """Parameters shrink by learning_rate^weight_decay_exponent at every step."""
    min_parameter_scale: float = real(at_least=1e-8, at_most=1.0, default=1e-3)
    """Floor of the RMS that scales the update, so that a zero parameter can move."""
    epsilon: float = real(at_least=0.0, at_most=1.0, default=1e-30)
    """Added to squared gradients."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig:
    """AdamW; unless a spec says otherwise, with a linear warm-up and then a constant rate."""

    learning_rate: float = real(at_least=0.0, at_most=1.0, default=1e-3)
    """The largest."""
    schedule: Schedule = variant(SCHEDULES, default=ConstantSchedule())
    """What the learning rate is multiplied by, step by step."""
    beta1: float = real(at_least=0.0, at_most=0.9999, default=0.9)
    """How much of the mean of gradients is kept at every step."""
    beta2: float = real(at_least=0.0, at_most=0.999999, default=0.99)
    """And of the mean of their squares."""
    clip_norm: float = real(at_least=1e-6, at_most=1e9, default=1.0)
    """Gradients of a larger norm, all together, are scaled down to it."""
    weight_decay: float = real(at_least=0.0, at_most=10.0, default=0.1)
    """Parameters shrink by so much times the learning rate at every step."""
    epsilon: float = real(at_least=0.0, at_most=1.0, default=1e-8)
    """Added to the root of the mean of squares."""


OptimizerConfig = AdafactorConfig | AdamWConfig
OPTIMIZERS: dict[str, type[OptimizerConfig]] = {"adafactor": AdafactorConfig, "adamw": AdamWConfig}
_DEFAULT_OPTIMIZER = "adafactor"


def optimizer_from_spec(spec: Mapping[str, Any]) -> OptimizerConfig:
    """The optimizer of a spec's `train.optimizer` section; adafactor when it names no kind, and a
    schedule of the optimizer's default kind when the schedule names none. Raises KeyError/TypeError
    unless `problems` found nothing."""
    fields = dict(spec)
    optimizer = OPTIMIZERS[fields.pop("kind", _DEFAULT_OPTIMIZER)]
    if "schedule" not in fields:
        return optimizer(**fields)
    schedule = dict(fields.pop("schedule"))
    kind = schedule.pop("kind", optimizer().schedule.kind)
    return optimizer(schedule=SCHEDULES[kind](**schedule), **fields)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlotConfig:
    """One microbatch slot: how many sequences, of how many tokens."""

    microbatch: int = integer(at_least=1, at_most=1 << 20)
    sequence_length: int = integer(at_least=1, at_most=1 << 20)

    @classmethod
    def from_spec(cls, train: Mapping[str, Any]) -> Self:
        """The slot a spec's `train` section describes; its other keys are not ours to read."""
        return cls(microbatch=train["microbatch"], sequence_length=train["sequence_length"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """In how many segments the layers' gradients become ready, where None leaves it to the model;
    and how pods synchronise. The rest of the outer modes is model.outer_config's."""

    segments: int | None = integer(at_least=1, at_most=4096, default=None)
    mode: str = choice("full", *OUTER_MODES, "auto", default="full")

    @classmethod
    def from_spec(cls, exchange: Mapping[str, Any]) -> Self:
        """What a spec's `exchange` section says of it; its other keys are not ours to read."""
        return cls(segments=exchange.get("segments"), mode=exchange.get("mode", "full"))


_PRESET_FIELDS: dict[str, dict[str, Any]] = {
    # A byte vocabulary: 256 bytes, end-of-document 256, padded to a multiple of 32.
    "palm-tiny": {
        "num_layers": 4, "model_dim": 128, "num_heads": 4, "head_dim": 64, "vocab_size": 288,
        "remat": "none", "compute_dtype": "float32",
    },
    "palm-8b": {
        "num_layers": 32, "model_dim": 4096, "num_heads": 16, "head_dim": 256,
        "vocab_size": 256_000, "remat": "attention",
    },
    "palm-62b": {
        "num_layers": 64, "model_dim": 8192, "num_heads": 32, "head_dim": 256,
        "vocab_size": 256_000, "remat": "attention",
    },
    "palm-540b": {
        "num_layers": 118, "model_dim": 18_432, "num_heads": 48, "head_dim": 256,
        "vocab_size": 256_000, "remat": "full",
    },
}  # fmt: skip


def _resolved(spec: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(spec)
    preset = fields.pop("preset", None)
    fields = {**_PRESET_FIELDS.get(preset, {}), **fields}
    if isinstance(fields.get("model_dim"), int):
        fields.setdefault("mlp_dim", 4 * fields["model_dim"])
    return fields


PRESETS: dict[str, ModelConfig] = {
    name: ModelConfig.from_spec({"preset": name}) for name in _PRESET_FIELDS
}


def problems(request: Mapping[str, Any], *, mesh_pointer: str = "/mesh") -> list[Problem]:
    """Everything wrong with a lowering request, at once; an empty list means it can be lowered.

    `request` has `model`, `train` (only microbatch, sequence_length and optimizer are read),
    `mesh` ({data, model}) and, if it likes, `exchange` (only segments, mode and outer are read). A
    job spec keeps its mesh elsewhere, so `mesh_pointer` says what to call it.
    """
    sections = {"model": "/model", "train": "/train", "mesh": mesh_pointer}
    found = [
        Problem(pointer, "expected a mapping", "see the job spec in the documentation")
        for name, pointer in sections.items()
        if not isinstance(request.get(name), Mapping)
    ]
    exchange = request.get("exchange", {})
    if not isinstance(exchange, Mapping):
        found.append(Problem("/exchange", "expected a mapping", "{segments: 4}, or leave it out"))
    if found:
        return found
    model, train, mesh = (request[name] for name in sections)
    found = [
        *_model_problems(model),
        *_train_problems(train),
        *field_problems(mesh, MeshConfig, mesh_pointer),
        *_exchange_problems(exchange),
    ]
    # Sums that involve two fields only make sense on fields that are sound by themselves.
    if found:
        return found
    sizes = ModelConfig.from_spec(model)
    return [
        *_mesh_fit_problems(sizes, SlotConfig.from_spec(train), MeshConfig(**mesh), mesh_pointer),
        *_segment_problems(sizes, ExchangeConfig.from_spec(exchange)),
        *outer_fit_problems(exchange, sizes.num_layers),
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """A pod's devices: `data` groups split the batch, `model` devices in each split the layers."""

    data: int = integer(at_least=1, at_most=1 << 20, default=1)
    model: int = integer(at_least=1, at_most=1 << 20, default=1)

    @property
    def shape(self) -> tuple[int, int]:
        """Sizes in the order of the mesh axes ("data", "model")."""
        return self.data, self.model


def _model_problems(model: Mapping[str, Any]) -> list[Problem]:
    preset = model.get("preset")
    if preset is not None and preset not in list(PRESETS):
        near = unknown_key(str(preset), PRESETS, "/model")
        return [Problem("/model/preset", f"unknown preset {str(preset)[:60]!r}", near.hint)]
    found = field_problems(model, ModelConfig, "/model", also=["preset"])
    hint = "name a preset (" + ", ".join(PRESETS) + ") or give the field"
    resolved = _resolved(model)
    if "model_dim" not in resolved:
        resolved["mlp_dim"] = None
    found += missing_problems(resolved, ModelConfig, "/model", hint)
    head_dim = resolved.get("head_dim")
    if isinstance(head_dim, int) and head_dim % 2:
        found.append(
            Problem("/model/head_dim", f"{head_dim} is odd", "rotary embeddings need pairs")
        )
    return found


def _train_problems(train: Mapping[str, Any]) -> list[Problem]:
    slot = {name: train[name] for name in ("microbatch", "sequence_length") if name in train}
    found = field_problems(slot, SlotConfig, "/train")
    found += missing_problems(slot, SlotConfig, "/train", "give the field")
    optimizer, pointer = train.get("optimizer", {}), "/train/optimizer"
    wrong = variant_problems(optimizer, OPTIMIZERS, pointer, default=_DEFAULT_OPTIMIZER)
    # Sums that involve two fields only make sense on fields that are sound by themselves.
    return [
        *found,
        *(
            wrong
            or schedule_problems(optimizer_from_spec(optimizer).schedule, f"{pointer}/schedule")
        ),
    ]


def _exchange_problems(exchange: Mapping[str, Any]) -> list[Problem]:
    names = ("segments", "mode")
    given = {name: exchange[name] for name in names if exchange.get(name) is not None}
    return [*field_problems(given, ExchangeConfig, "/exchange"), *outer_problems(exchange)]


def _segment_problems(model: ModelConfig, exchange: ExchangeConfig) -> list[Problem]:
    if exchange.segments is None or exchange.segments <= model.num_layers:
        return []
    detail = f"{exchange.segments} segments of {model.num_layers} layers (/model/num_layers)"
    hint = f"from 1 to {model.num_layers}, or leave it out"
    return [Problem("/exchange/segments", detail, hint)]


def _mesh_fit_problems(
    model: ModelConfig, slot: SlotConfig, mesh: MeshConfig, mesh_pointer: str
) -> list[Problem]:
    # The vocabulary is absent on purpose: an embedding that the model axis does not divide is
    # replicated along it, as PaLM-540B's 256,000 entries must be on its 12-way axis.
    divided = [
        ("/train/microbatch", slot.microbatch, "data", mesh.data),
        ("/model/model_dim", model.model_dim, "data", mesh.data),
        ("/model/model_dim", model.model_dim, "model", mesh.model),
        ("/model/num_heads", model.num_heads, "model", mesh.model),
        ("/model/mlp_dim", model.mlp_dim, "model", mesh.model),
    ]
    return [
        Problem(
            pointer,
            f"{size} is not divisible by {mesh_pointer}/{axis} = {ways}",
            f"a multiple of {ways}, or another {mesh_pointer}/{axis}",
        )
        for pointer, size, axis, ways in divided
        if size % ways
    ]
