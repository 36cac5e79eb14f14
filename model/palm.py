"""PaLM as a function of a flat dictionary of parameters: initialise, describe, map to logits.

The layers are one nnx module, stacked along a leading dim and scanned, so that tracing and
compiling cost the same for 4 layers and for 118. The parts of the function are here one by one,
for the backward pass that goes layer by layer (model.backward). Names of parameters are paths such
as `layers/attention/query`; everything outside this module sees only those names. No loss, no
optimizer and no mesh size here.

Suffixes: B batch, L length, D model dim, V vocabulary; N layers (the leading dim of everything
under `layers/`).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from model.config import ModelConfig
from model.layers import Block, Norm, Rotary, normalise, rotary_table
from model.shapes import STACKED_PREFIX, ParameterInfo
from model.sharding import constrain

Parameters = dict[str, jax.Array]

# A parameter, or what is known of it.
Described = TypeVar("Described")

ENDS = ("embedding", "final_norm/scale")
"""The parameters outside the layers."""

RESIDUAL_AXES = ("batch", None, "residual")
"""Logical axes of what goes from layer to layer, [B, L, D]."""


class Palm(nnx.Module):
    """The parameters: embedding, stacked parallel blocks, final norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        shape, dtype = ((config.vocab_size, config.model_dim), jnp.dtype(config.param_dtype))
        # N(0, 1): no norm follows the embedding (section 5).
        values = jax.random.normal(rngs.params(), shape, dtype)
        self.embedding = nnx.Param(values, logical_axes=("vocab", "embed"))
        self.layers = _stacked_blocks(config, rngs)
        self.final_norm = Norm(config)


def initial_parameters(config: ModelConfig, seed: jax.Array) -> Parameters:
    """Fresh parameters; a function of the seed (uint32 scalar) alone, whatever the sharding."""
    model = Palm(config, rngs=nnx.Rngs(params=jax.random.key(seed)))
    return {_name(path): variable[...] for path, variable in _variables(model)}


def parameter_info(config: ModelConfig) -> dict[str, ParameterInfo]:
    """What `initial_parameters` would return, by name, without computing it."""
    found = {}
    for path, variable in _variables(_abstract_model(config)):
        name, axes = _name(path), variable.get_metadata()["logical_axes"]
        if name.startswith(STACKED_PREFIX):
            axes = ("layers", *axes)
        found[name] = ParameterInfo(tuple(variable.shape), str(variable.dtype), axes)
    return found


def logits(
    config: ModelConfig,
    parameters: Parameters,
    tokens_BL: jax.Array,
    mesh: AbstractMesh | None = None,
) -> jax.Array:
    """Next-token logits [B, L, V] in the compute dtype for int32 tokens [B, L]."""
    rotary = rotary_of(config, tokens_BL.shape[1])

    def apply(x_BLD: jax.Array, layer: Parameters) -> tuple[jax.Array, None]:
        return block(config, layer, x_BLD, rotary, mesh), None

    x_BLD = embed(config, parameters["embedding"], tokens_BL, mesh)
    x_BLD, _ = jax.lax.scan(apply, x_BLD, stacked(parameters))
    return readout(config, parameters, x_BLD, mesh)


def embed(
    config: ModelConfig,
    embedding_VD: jax.Array,
    tokens_BL: jax.Array,
    mesh: AbstractMesh | None = None,
) -> jax.Array:
    """The first layer's input [B, L, D] in the compute dtype; linear in the embedding."""
    x_BLD = embedding_VD.astype(config.compute_dtype)[tokens_BL]
    return constrain(x_BLD, RESIDUAL_AXES, mesh)


def block(
    config: ModelConfig,
    layer: Parameters,
    x_BLD: jax.Array,
    rotary: Rotary,
    mesh: AbstractMesh | None = None,
) -> jax.Array:
    """One layer's output [B, L, D], of its own parameters (names without `layers/`)."""

    def apply(layer: Parameters, x_BLD: jax.Array, rotary: Rotary) -> jax.Array:
        return constrain(_block(config, layer)(x_BLD, rotary), RESIDUAL_AXES, mesh)

    if config.remat == "full":
        # Inside a scan there is nothing that could be shared with the recomputation.
        apply = jax.checkpoint(apply, prevent_cse=False)
    return apply(layer, x_BLD, rotary)


def readout(
    config: ModelConfig,
    parameters: Parameters,
    x_BLD: jax.Array,
    mesh: AbstractMesh | None = None,
) -> jax.Array:
    """Logits [B, L, V] of the last layer's output; reads the parameters named in ENDS."""
    x_BLD = normalise(x_BLD, parameters["final_norm/scale"])
    # 1/sqrt(D) because the same matrix embeds with unit variance (section 5).
    scaled_BLD = x_BLD * config.model_dim**-0.5
    embedding_VD = parameters["embedding"].astype(config.compute_dtype)
    logits_BLV = jnp.einsum("BLD,VD->BLV", scaled_BLD, embedding_VD)
    return constrain(logits_BLV, ("batch", None, "vocab"), mesh)


def rotary_of(config: ModelConfig, length: int) -> Rotary:
    """The rotary tables of all layers."""
    return rotary_table(length, config.head_dim, config.compute_dtype)


def stacked(parameters: Mapping[str, Described]) -> dict[str, Described]:
    """Those of all layers [N, ...], by their names inside a layer."""
    return {
        name.removeprefix(STACKED_PREFIX): parameter
        for name, parameter in parameters.items()
        if name.startswith(STACKED_PREFIX)
    }


def _stacked_blocks(config: ModelConfig, rngs: nnx.Rngs) -> Block:
    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs)

    return make(rngs)


def _block(config: ModelConfig, layer: Parameters) -> Block:
    graph, abstract = nnx.split(_abstract_block(config))
    leaves = [(path, layer[_name(path)]) for path, _ in nnx.to_flat_state(abstract)]
    nnx.replace_by_pure_dict(abstract, nnx.traversals.unflatten_mapping(dict(leaves)))
    return nnx.merge(graph, abstract)


@functools.cache
def _abstract_block(config: ModelConfig) -> Block:
    return nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(params=jax.random.key(0))))


@functools.cache
def _abstract_model(config: ModelConfig) -> Palm:
    return nnx.eval_shape(lambda: Palm(config, rngs=nnx.Rngs(params=jax.random.key(0))))


def _variables(model: Palm) -> list[tuple[Sequence[Any], nnx.Variable]]:
    return list(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))
