"""The gradient of one PaLM slot as a chain of calls whose parts are ready one after the other.

`forward` goes up through all layers, keeps what the backward pass needs and turns around at the
loss; `backward_N` goes down through a group of N layers, the top group first; `embed_backward`
ends at the embedding. Groups of one size share a compiled component. Group k, from the bottom up,
has the gradients `grads_k`; those of the parameters outside the layers are `grads_embedding`.

Suffixes: B batch, L length, D model dim, V vocabulary.
"""

import dataclasses
import operator
from collections.abc import Callable

import jax

from model import backward, flops, palm
from model.config import ModelConfig, SlotConfig
from model.layout import dim_spec
from model.loss import token_losses
from model.program import Buffer, Call, Component, Group, Segment
from model.segments import layer_groups
from model.shapes import STACKED_PREFIX
from model.sharding import abstract_mesh

METRICS = ("loss", "weight", "z_loss")

Arrays = tuple[jax.Array, ...]


class PalmGradient:
    """Groups, components, calls and segments, for a number of segments of the layers."""

    def __init__(
        self,
        model: ModelConfig,
        slot: SlotConfig,
        mesh_shape: tuple[int, int],
        num_segments: int,
    ) -> None:
        self.model = model
        self.slot = slot
        self.mesh_shape = mesh_shape
        self.mesh = abstract_mesh(mesh_shape)
        self.params = _parameter_group(model, mesh_shape)
        self.layers = layer_groups(model.num_layers, num_segments)
        # The first group of every size speaks for its component.
        self.kinds = {size: k for k, (_, size) in reversed(list(enumerate(self.layers)))}

    def groups(self) -> dict[str, Group]:
        """Everything that a slot's calls take and return, by name."""
        shape = (self.slot.microbatch, self.slot.sequence_length)
        batch = dim_spec(("batch", None), shape, self.mesh_shape)
        activation = (*shape, self.model.model_dim)
        kept = backward.residuals(self.model, self.slot)
        ends = tuple(buffer for buffer in self.params if buffer.name in palm.ENDS)
        return {
            "params": self.params,
            "batch": tuple(Buffer(name, shape, "int32", batch) for name in ("inputs", "targets")),
            "first_layer": (Buffer.replicated("first_layer", (), "int32"),),
            "residuals": tuple(
                self._buffer(f"residual_{index}", *residual) for index, residual in enumerate(kept)
            ),
            "cotangent": (
                self._buffer("cotangent", activation, self.model.compute_dtype, palm.RESIDUAL_AXES),
            ),
            "grads_readout": ends,
            **{f"grads_{k}": self._stacked(size) for k, (_, size) in enumerate(self.layers)},
            "grads_embedding": ends,
            "metrics": tuple(Buffer.replicated(name, (), "float32") for name in METRICS),
        }

    def components(self) -> dict[str, Component]:
        """One of every kind."""
        tokens = self.slot.microbatch * self.slot.sequence_length
        length = self.slot.sequence_length
        up = flops.forward_and_readout_flops_per_token(self.model, length)
        down = flops.hardware_flops_per_token(self.model, length) - up
        kept = ("residuals", "cotangent", "grads_readout", "metrics")
        components = {
            "forward": Component(self._forward, ("params", "batch"), kept, flops=tokens * up)
        }
        for size, k in self.kinds.items():
            components[f"backward_{size}"] = Component(
                self._backward_of(size),
                ("params", "first_layer", "cotangent", "residuals"),
                ("cotangent", f"grads_{k}"),
                # No result is as large as the residuals, so none could take their memory.
                donated=(2,),
                flops=tokens * down * size // self.model.num_layers,
            )
        components["embed_backward"] = Component(
            self._embed_backward,
            ("batch", "cotangent", "grads_readout"),
            ("grads_embedding",),
            donated=(2,),
        )
        for size, k in self.kinds.items():
            components[f"accumulate_{size}"] = _accumulate((f"grads_{k}",))
        components["accumulate_embedding"] = _accumulate(("grads_embedding", "metrics"))
        return components

    def calls(self) -> tuple[Call, ...]:
        """What computes the gradient of a slot, in order."""
        components = self.components()
        up, end = (
            Call(name, components[name].inputs, components[name].outputs)
            for name in ("forward", "embed_backward")
        )
        down = [
            Call(
                f"backward_{size}",
                components[f"backward_{size}"].inputs,
                ("cotangent", f"grads_{k}"),
                {"first_layer": first},
            )
            for k, (first, size) in enumerate(self.layers)
        ]
        return up, *reversed(down), end

    def segments(self) -> tuple[Segment, ...]:
        """What is ready together, in the order in which it becomes ready."""
        layers = [
            Segment((f"grads_{k}",), f"accumulate_{size}", first)
            for k, (first, size) in enumerate(self.layers)
        ]
        embedding = Segment(("grads_embedding", "metrics"), "accumulate_embedding")
        return *reversed(layers), embedding

    def joined(self, arrays: Arrays) -> tuple[palm.Parameters, Arrays]:
        """The gradients of all parameters, from the arrays of all segments in order; and the
        metrics."""
        left = list(arrays)
        groups = self.groups()
        named: dict[str, palm.Parameters] = {}
        for segment in self.segments():
            for name in segment.groups:
                named[name] = {buffer.name: left.pop(0) for buffer in groups[name]}
        parts = [named[f"grads_{k}"] for k in range(len(self.layers))]
        stacked = {
            name: jax.lax.concatenate([part[name] for part in parts], 0) for name in parts[0]
        }
        return {**stacked, **named["grads_embedding"]}, tuple(named["metrics"].values())

    def parameters(self, flat: Arrays) -> palm.Parameters:
        """The arrays of the group `params`, by name."""
        return dict(zip((buffer.name for buffer in self.params), flat, strict=True))

    def metrics(self, logits_BLV: jax.Array, targets_BL: jax.Array) -> Arrays:
        """Mean loss, weight and mean z-loss of a slot."""
        nll_BL, z_loss_BL = token_losses(logits_BLV, targets_BL)
        return nll_BL.mean(), jax.numpy.float32(1.0), z_loss_BL.mean()

    def _forward(self, *arrays: jax.Array) -> Arrays:
        *flat, inputs_BL, targets_BL = arrays
        parameters = self.parameters(tuple(flat))
        x_BLD, kept = backward.forward(self.model, parameters, inputs_BL, self.mesh)

        def loss(ends: palm.Parameters, x_BLD: jax.Array) -> tuple[jax.Array, Arrays]:
            logits_BLV = palm.readout(self.model, ends, x_BLD, self.mesh)
            metrics = self.metrics(logits_BLV, targets_BL)
            return metrics[0] + metrics[2], metrics

        ends = {name: parameters[name] for name in palm.ENDS}
        (dends, dx_BLD), metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(ends, x_BLD)
        return *kept, dx_BLD, *(dends[name] for name in sorted(dends)), *metrics

    def _backward_of(self, size: int) -> Callable[..., Arrays]:
        def backward_of(*arrays: jax.Array) -> Arrays:
            num_params = len(self.params)
            parameters = self.parameters(arrays[:num_params])
            first_layer, dy_BLD, *kept = arrays[num_params:]
            dx_BLD, gradients = backward.backward(
                self.model, parameters, first_layer, size, dy_BLD, kept, self.mesh
            )
            return dx_BLD, *(gradients[name] for name in sorted(gradients))

        return backward_of

    def _embed_backward(self, *arrays: jax.Array) -> Arrays:
        inputs_BL, _, dx_BLD, dembedding_VD, dscale_D = arrays

        def embed(embedding_VD: jax.Array) -> jax.Array:
            return palm.embed(self.model, embedding_VD, inputs_BL, self.mesh)

        # Linear, so the embedding itself is not needed.
        (looked_up_VD,) = jax.linear_transpose(embed, dembedding_VD)(dx_BLD)
        return dembedding_VD + looked_up_VD, dscale_D

    def _stacked(self, size: int) -> Group:
        return tuple(
            dataclasses.replace(buffer, shape=(size, *buffer.shape[1:]))
            for buffer in self.params
            if buffer.name.startswith(STACKED_PREFIX)
        )

    def _buffer(
        self, name: str, shape: tuple[int, ...], dtype: str, axes: tuple[str | None, ...]
    ) -> Buffer:
        return Buffer(name, shape, dtype, dim_spec(axes, shape, self.mesh_shape))


def _accumulate(groups: tuple[str, ...]) -> Component:
    donated = tuple(range(len(groups)))
    return Component(_added, (*groups, *groups), groups, donated=donated)


def _added(*arrays: jax.Array) -> Arrays:
    half = len(arrays) // 2
    return tuple(map(operator.add, arrays[:half], arrays[half:]))


def _parameter_group(model: ModelConfig, mesh_shape: tuple[int, int]) -> Group:
    return tuple(
        Buffer(name, info.shape, info.dtype, dim_spec(info.logical_axes, info.shape, mesh_shape))
        for name, info in sorted(palm.parameter_info(model).items())
    )
