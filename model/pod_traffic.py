"""Bytes that one gradient step exchanges inside a pod, by arithmetic.

Along `data`, parameters are gathered as they are used, once forward and once backward, and
gradients are summed and scattered (FSDP). Along `model`, a layer needs its whole input and gives
its output in parts, which PaLM's parallel block does once forward and once backward (section 2). A
byte counts as in model.collectives: the whole array, on one device. What a compiler makes of it is
in docs/palm_compile.md.
"""

from __future__ import annotations

import dataclasses

from model.config import MeshConfig, ModelConfig, SlotConfig
from model.memory import ITEM_BYTES, gathered_elements


@dataclasses.dataclass(frozen=True, slots=True)
class PodTraffic:
    """Bytes of one device in the calls of one slot; 0 along an axis of one device."""

    gathered_parameters: int
    scattered_gradients: int
    gathered_activations: int
    scattered_activations: int


def pod_traffic(model: ModelConfig, slot: SlotConfig, mesh: MeshConfig) -> PodTraffic:
    """The least that the sharding of model.layout needs.

    The embedding is gathered once: it is kept for the logits. Activations are gathered forward,
    for the gradient of the layer's output, and once more for those of its kernels, because layers
    keep their input in parts.
    """
    item = ITEM_BYTES[model.compute_dtype]
    layers, embedding = gathered_elements(model, mesh)
    # Its gradient is split over `model` also where the embedding itself is not.
    split_embedding = -(-model.vocab_size // mesh.model) * model.model_dim
    gradients = layers + split_embedding
    across_data = mesh.data > 1
    across_model = mesh.model > 1
    tokens = slot.microbatch * slot.sequence_length // mesh.data
    activation = tokens * model.model_dim * item * model.num_layers * across_model
    return PodTraffic(
        gathered_parameters=(2 * layers + embedding) * item * across_data,
        scattered_gradients=gradients * ITEM_BYTES[model.param_dtype] * across_data,
        gathered_activations=3 * activation,
        scattered_activations=2 * activation,
    )
