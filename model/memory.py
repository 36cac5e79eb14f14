"""Bytes per device of one training job, by arithmetic.

State is counted exactly, array by array, as model.layout places it. Activations are counted from
what the backward pass keeps under each remat policy plus what one layer needs while it is worked
on; tests hold the sum within a fifth of what XLA's compiler plans for palm-tiny, and the TPU
compiler's plans for the published sizes are in docs/palm_compile.md. Where the exact answer
matters, compile (model.examine).

Symbols: D model dim, F feed-forward, H heads, K head dim, L sequence length, V vocabulary; the mesh
splits heads, feed-forward and vocabulary `model` ways and sequences `data` ways.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from model.config import MeshConfig, ModelConfig, SlotConfig
from model.layout import MESH_AXES, dim_spec
from model.shapes import STACKED_PREFIX, ParameterInfo, parameter_shapes

ITEM_BYTES = {"float32": 4, "bfloat16": 2}

LESS_MEMORY = (
    "more devices a pod (placement.mesh), a smaller train.microbatch, or more recomputation "
    "(model.remat: full)"
)
"""What to do when a device cannot hold a job."""

OPTIMIZER_MOMENTS = 2
"""Both optimizers keep two float32 moments for every parameter."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceBytes:
    """What one device holds at the moment it holds most."""

    params: int
    optimizer: int
    gradients: int
    activations: int
    residuals: int
    """What encoding gradients for the link has lost and keeps for the next step."""
    outer: int = 0
    """Anchor, momentum and the fragment under way, where pods synchronise every so often."""

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def device_bytes(
    model: ModelConfig,
    slot: SlotConfig,
    mesh: MeshConfig,
    *,
    gradients: int = 1,
    residuals: float = 0.0,
    fragments: int | None = None,
) -> DeviceBytes:
    """The need of one device that holds so many gradients at once, and so many float32 residuals of
    a gradient's size. `fragments` are those of the outer optimizer, None without one."""
    elements = shard_elements(model, mesh)
    item = ITEM_BYTES[model.param_dtype]
    return DeviceBytes(
        params=elements * item,
        optimizer=OPTIMIZER_MOMENTS * elements * 4,
        gradients=gradients * elements * item,
        activations=_activation_bytes(model, slot, mesh),
        residuals=round(residuals * elements * 4),
        outer=4 * (2 * elements + -(-elements // fragments)) if fragments else 0,
    )


def shard_elements(model: ModelConfig, mesh: MeshConfig) -> int:
    """Trained numbers that one device holds."""
    return sum(
        math.prod(_shard_shape(info, mesh.shape)) for info in parameter_shapes(model).values()
    )


def gathered_elements(model: ModelConfig, mesh: MeshConfig) -> tuple[int, int]:
    """Numbers of all layers and of the embedding that a device has when `data` splits nothing.

    An embedding that the model axis does not divide, as PaLM-540B's on 12, is then whole: 9.4 GB.
    """
    whole = {
        name: math.prod(_shard_shape(info, (1, mesh.model)))
        for name, info in parameter_shapes(model).items()
    }
    layers = sum(size for name, size in whole.items() if name.startswith(STACKED_PREFIX))
    return layers, whole["embedding"]


def _shard_shape(info: ParameterInfo, mesh_shape: tuple[int, int]) -> Iterator[int]:
    ways: dict[str, int] = dict(zip(MESH_AXES, mesh_shape, strict=True))
    spec = dim_spec(info.logical_axes, info.shape, mesh_shape)
    for size, axes in zip(info.shape, spec, strict=True):
        yield size // math.prod(ways[axis] for axis in axes or ())


def _activation_bytes(model: ModelConfig, slot: SlotConfig, mesh: MeshConfig) -> int:
    item = ITEM_BYTES[model.compute_dtype]
    tokens = slot.microbatch * slot.sequence_length / mesh.data
    kept = tokens * item * kept_per_token(model, model.remat, slot.sequence_length, mesh)
    layer = tokens * item * _layer_per_token(model, slot.sequence_length, mesh)
    # Logits, softmax and gradient, as on a CPU; the TPU compiler finds a way with two.
    logits = tokens * (model.vocab_size / mesh.model) * 3 * item
    if mesh.data > 1:
        # One phase gathers the embedding, the other a layer's parameters, and has its gradients
        # whole until they are summed.
        layers, embedding = gathered_elements(model, mesh)
        layer += 2 * layers / model.num_layers * item
        # Where the model axis does not divide it, its gradient is whole on every device, too.
        logits += embedding * item * (2 if model.vocab_size % mesh.model else 1)
    return round(model.num_layers * kept + max(layer, logits))


def kept_per_token(model: ModelConfig, remat: str, length: int, mesh: MeshConfig) -> float:
    """Numbers a layer keeps for its backward pass."""
    # A fully sharded activation per layer (PaLM, section 4): the layer's input.
    kept = model.model_dim / mesh.model
    if remat == "full":
        return kept
    heads = model.num_heads * model.head_dim / mesh.model
    feed_forward = model.mlp_dim / mesh.model
    # The norm; queries and attended values; key and value; gate, up, their product.
    kept += model.model_dim / mesh.model + 2 * heads + 2 * model.head_dim + 3 * feed_forward
    if remat == "none":
        # Attention weights and their sums.
        kept += model.num_heads / mesh.model * (length + 1)
    return kept


def _layer_per_token(model: ModelConfig, length: int, mesh: MeshConfig) -> float:
    """Numbers of the layer that is worked on: all it may keep, and gradients of scores and MLP."""
    everything = kept_per_token(model, "none", length, mesh)
    return everything + (model.num_heads * length + 2 * model.mlp_dim) / mesh.model
