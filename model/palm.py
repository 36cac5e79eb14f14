"""PaLM as a function of a flat dictionary of parameters: initialise, describe, map to logits.

The layers are one nnx module, stacked along a leading dim and scanned, so that tracing and
compiling cost the same for 4 layers and for 118. Names of parameters are paths such as
`layers/attention/query`; everything outside this module sees only those names. No loss, no
optimizer and no mesh size here.

Suffixes: B batch, L length, D model dim, V vocabulary; N layers (the leading dim of everything
under `layers/`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from model.config import ModelConfig
from model.layers import Block, Norm, rotary_table
from model.shapes import STACKED_PREFIX, ParameterInfo
from model.sharding import constrain

Parameters = dict[str, jax.Array]


class Palm(nnx.Module):
    """Embedding, stacked parallel blocks, final norm; the embedding also projects to logits."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        shape, dtype = ((config.vocab_size, config.model_dim), jnp.dtype(config.param_dtype))
        # N(0, 1): no norm follows the embedding (section 5).
        values = jax.random.normal(rngs.params(), shape, dtype)
        self.embedding = nnx.Param(values, logical_axes=("vocab", "embed"))
        self.layers = _stacked_blocks(config, rngs)
        self.final_norm = Norm(config)

    def __call__(self, tokens_BL: jax.Array, mesh: AbstractMesh | None) -> jax.Array:
        dtype = jnp.dtype(self.config.compute_dtype)
        embedding_VD = self.embedding[...].astype(dtype)
        x_BLD = constrain(embedding_VD[tokens_BL], ("batch", None, "residual"), mesh)
        x_BLD = self.final_norm(self._apply_layers(x_BLD, mesh))
        # 1/sqrt(D) because the same matrix embeds with unit variance (section 5).
        scaled_BLD = x_BLD * self.config.model_dim**-0.5
        logits_BLV = jnp.einsum("BLD,VD->BLV", scaled_BLD, embedding_VD)
        return constrain(logits_BLV, ("batch", None, "vocab"), mesh)

    def _apply_layers(self, x_BLD: jax.Array, mesh: AbstractMesh | None) -> jax.Array:
        graph, stacked = nnx.split(self.layers)
        rotary_LP = rotary_table(x_BLD.shape[1], self.config.head_dim)

        def apply_block(x_BLD: jax.Array, block: nnx.State) -> tuple[jax.Array, None]:
            y_BLD = nnx.merge(graph, block)(x_BLD, rotary_LP)
            return constrain(y_BLD, ("batch", None, "residual"), mesh), None

        if self.config.remat == "full":
            apply_block = jax.checkpoint(apply_block, prevent_cse=False)
        return jax.lax.scan(apply_block, x_BLD, stacked)[0]


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
    graph, abstract = nnx.split(_abstract_model(config))
    leaves = [(path, parameters[_name(path)]) for path, _ in nnx.to_flat_state(abstract)]
    nnx.replace_by_pure_dict(abstract, nnx.traversals.unflatten_mapping(dict(leaves)))
    return nnx.merge(graph, abstract)(tokens_BL, mesh)


def _stacked_blocks(config: ModelConfig, rngs: nnx.Rngs) -> Block:
    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs)

    return make(rngs)


@functools.cache
def _abstract_model(config: ModelConfig) -> Palm:
    return nnx.eval_shape(lambda: Palm(config, rngs=nnx.Rngs(params=jax.random.key(0))))


def _variables(model: Palm) -> list[tuple[Sequence[Any], nnx.Variable]]:
    return list(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))
