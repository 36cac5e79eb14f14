"""The layers forward, keeping what the backward pass needs, and backward, any run of them.

A layer's backward pass is its vjp, a pytree: its leaves are what the layer keeps. The forward scan
returns those leaves, stacked, but for those that are the layer's parameters or the rotary tables;
the backward pass supplies these again. So what is kept is what the layer's remat policy says, and
this module knows neither the policy nor the layer.

Suffixes: B batch, L length, D model dim; N layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from model import palm
from model.config import ModelConfig, SlotConfig
from model.layers import Rotary
from model.palm import Parameters

Arrays = tuple[jax.Array, ...]

# A model in which no two dims that are sharded have one size, so that a size names its dim. What
# is kept has the same dims at any size.
_BATCH, _LENGTH = 3, 5
_DISTINCT: dict[str, int] = {"model_dim": 7, "num_heads": 11, "head_dim": 26, "mlp_dim": 17}
_AXIS_OF_SIZE = {_BATCH: "batch", 7: "residual", 11: "heads", 17: "mlp"}


class Residual(NamedTuple):
    """An array that the layers keep for their backward pass, stacked over all of them."""

    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]


def residuals(config: ModelConfig, slot: SlotConfig) -> list[Residual]:
    """What `forward` keeps, in its order."""
    distinct = dataclasses.replace(config, **_DISTINCT)
    axes = [
        ("layers", *(_AXIS_OF_SIZE.get(size) for size in kept.shape))
        for kept in _Pullback(distinct, _BATCH, _LENGTH, None).kept
    ]
    pullback = _Pullback(config, slot.microbatch, slot.sequence_length, None)
    return [
        Residual((config.num_layers, *kept.shape), str(kept.dtype), names)
        for kept, names in zip(pullback.kept, axes, strict=True)
    ]


def forward(
    config: ModelConfig,
    parameters: Parameters,
    tokens_BL: jax.Array,
    mesh: AbstractMesh | None = None,
) -> tuple[jax.Array, Arrays]:
    """The last layer's output [B, L, D] for int32 tokens [B, L], and the residuals [N, ...]."""
    rotary = palm.rotary_of(config, tokens_BL.shape[1])

    def apply(x_BLD: jax.Array, layer: Parameters) -> tuple[jax.Array, Arrays]:
        y_BLD, taken_apart = _apply(config, layer, x_BLD, rotary, mesh)
        return y_BLD, taken_apart.kept

    x_BLD = palm.embed(config, parameters["embedding"], tokens_BL, mesh)
    return jax.lax.scan(apply, x_BLD, palm.stacked(parameters))


def backward(
    config: ModelConfig,
    parameters: Parameters,
    first_layer: jax.Array,
    num_layers: int,
    dy_BLD: jax.Array,
    kept: Sequence[jax.Array],
    mesh: AbstractMesh | None = None,
) -> tuple[jax.Array, Parameters]:
    """From the gradient of the output of layers [first_layer, first_layer + num_layers) to that of
    their input [B, L, D] and those of their parameters [num_layers, ...], by their names inside a
    layer.

    Layers are reached by index, so that one compiled function serves every run of so many layers,
    and no part of the parameters is copied for it.
    """
    batch, length, _ = dy_BLD.shape
    rotary = palm.rotary_of(config, length)
    pullback = _Pullback(config, batch, length, mesh)
    layers = palm.stacked(parameters)

    def apply(dy_BLD: jax.Array, offset: jax.Array) -> tuple[jax.Array, Parameters]:
        def of_layer(array: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(array, first_layer + offset, keepdims=False)

        layer, kept_here = jax.tree.map(of_layer, (layers, tuple(kept)))
        dlayer, dx_BLD = pullback(layer, rotary, kept_here)(dy_BLD)
        return dx_BLD, dlayer

    return jax.lax.scan(apply, dy_BLD, jnp.arange(num_layers), reverse=True)


class _TakenApart(NamedTuple):
    """A vjp as its structure, where each leaf comes from (the known arrays, then what is kept), and
    what is kept."""

    structure: Any
    sources: list[int]
    kept: Arrays


def _apply(
    config: ModelConfig,
    layer: Parameters,
    x_BLD: jax.Array,
    rotary: Rotary,
    mesh: AbstractMesh | None,
) -> tuple[jax.Array, _TakenApart]:
    y_BLD, vjp = jax.vjp(
        lambda layer, x_BLD: palm.block(config, layer, x_BLD, rotary, mesh), layer, x_BLD
    )
    leaves, structure = jax.tree.flatten(vjp)
    known = _known(layer, rotary)
    num_known = len(known)
    places = {id(array): place for place, array in enumerate(known)}
    for leaf in leaves:
        if id(leaf) not in places:
            places[id(leaf)] = len(known)
            known.append(leaf)
    sources = [places[id(leaf)] for leaf in leaves]
    return y_BLD, _TakenApart(structure, sources, tuple(known[num_known:]))


class _Pullback:
    """The vjp of a layer, from its traced structure; nothing is computed to get it."""

    def __init__(
        self, config: ModelConfig, batch: int, length: int, mesh: AbstractMesh | None
    ) -> None:
        found = []

        def trace(layer: Parameters, x_BLD: jax.Array, rotary: Rotary) -> Arrays:
            found.append(_apply(config, layer, x_BLD, rotary, mesh)[1])
            return found[0].kept

        layer = {
            name: jax.ShapeDtypeStruct(info.shape[1:], info.dtype)
            for name, info in palm.stacked(palm.parameter_info(config)).items()
        }
        x_BLD = jax.ShapeDtypeStruct((batch, length, config.model_dim), config.compute_dtype)
        rotary = jax.eval_shape(lambda: palm.rotary_of(config, length))
        self.kept: tuple[jax.ShapeDtypeStruct, ...] = jax.eval_shape(trace, layer, x_BLD, rotary)
        self._structure, self._sources, _ = found[0]

    def __call__(self, layer: Parameters, rotary: Rotary, kept: Arrays) -> Any:
        """The vjp of one layer: from the output's gradient to those of (layer, input)."""
        known = [*_known(layer, rotary), *kept]
        return self._structure.unflatten(known[source] for source in self._sources)


def _known(layer: Parameters, rotary: Rotary) -> list[jax.Array]:
    return jax.tree.leaves((layer, rotary))
