"""The parts of a PaLM layer (section 2): norm, rotary embedding, attention, SwiGLU, parallel block.

Parameters are nnx.Param with the logical axes of their dims beside them; they are cast to the
compute dtype where they are used. Stacking, scanning and recomputation are model.palm's; placement
is model.sharding's.

Suffixes: B batch, L length of the queries, M length of the keys, D model dim, H heads, K head dim,
F feed-forward.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from model.attention import attend
from model.config import ModelConfig
from model.products import project

_NORM_EPSILON = 1e-6
_ROTARY_BASE = 10_000.0

# Cosines and sines [1, L, 1, P], P = K / 2, in the compute dtype.
Rotary = tuple[jax.Array, jax.Array]


def kernel(
    rngs: nnx.Rngs,
    config: ModelConfig,
    shape: tuple[int, ...],
    logical_axes: tuple[str | None, ...],
    fan_in: int,
) -> nnx.Param:
    """A kernel drawn from N(0, 1/sqrt(n_in)) (section 5)."""
    values = jax.random.normal(rngs.params(), shape, jnp.dtype(config.param_dtype))
    return nnx.Param(values * fan_in**-0.5, logical_axes=logical_axes)


# Recomputed in the backward pass, always: keeping its parts would store three more [B, L, D], in
# float32. Inside a scan there is nothing that could be shared with the recomputation.
@functools.partial(jax.checkpoint, prevent_cse=False)
def normalise(x_BLD: jax.Array, scale_D: jax.Array) -> jax.Array:
    """Layer norm over the model dim with a scale and no bias; computed in float32."""
    wide_BLD = x_BLD.astype(jnp.float32)
    centred_BLD = wide_BLD - wide_BLD.mean(axis=-1, keepdims=True)
    variance_BL1 = jnp.square(centred_BLD).mean(axis=-1, keepdims=True)
    normal_BLD = centred_BLD * jax.lax.rsqrt(variance_BL1 + _NORM_EPSILON)
    return (normal_BLD * scale_D).astype(x_BLD.dtype)


class Norm(nnx.Module):
    """The scale of one layer norm, and its application."""

    def __init__(self, config: ModelConfig) -> None:
        ones = jnp.ones((config.model_dim,), jnp.dtype(config.param_dtype))
        self.scale = nnx.Param(ones, logical_axes=("embed",))

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return normalise(x_BLD, self.scale[...])


def rotary_table(length: int, head_dim: int, dtype: str = "float32") -> Rotary:
    """Cosines and sines of the angles l / base^(2i/K); computed once for all layers.

    Their shape and dtype are those they are multiplied in: what a layer keeps for its backward pass
    is then the table itself and no copy of its own.
    """
    frequency_P = _ROTARY_BASE ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle_LP = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_P
    angle_1L1P = angle_LP[None, :, None, :]
    return jnp.cos(angle_1L1P).astype(dtype), jnp.sin(angle_1L1P).astype(dtype)


def rotate(x_BLHK: jax.Array, rotary: Rotary) -> jax.Array:
    """Rotary position embedding: turns the pair (i, i + K/2) at position l by the table's angle."""
    cos_1L1P, sin_1L1P = rotary
    first_BLHP, second_BLHP = jnp.split(x_BLHK, 2, axis=-1)
    turned = (
        first_BLHP * cos_1L1P - second_BLHP * sin_1L1P,
        second_BLHP * cos_1L1P + first_BLHP * sin_1L1P,
    )
    return jnp.concatenate(turned, axis=-1)


class Attention(nnx.Module):
    """Multi-query attention: `num_heads` queries share one key and one value head."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, H, K = config.model_dim, config.num_heads, config.head_dim
        self.remat = config.remat
        self.query = kernel(rngs, config, (D, H, K), ("embed", "heads", None), D)
        self.key = kernel(rngs, config, (D, K), ("embed", None), D)
        self.value = kernel(rngs, config, (D, K), ("embed", None), D)
        self.out = kernel(rngs, config, (H, K, D), ("heads", None, "embed"), H * K)

    def __call__(self, x_BLD: jax.Array, rotary: Rotary) -> jax.Array:
        q_BLHK = rotate(project(x_BLD, self.query[...]), rotary)
        k_BM1K = jnp.expand_dims(project(x_BLD, self.key[...]), 2)
        k_BMK = rotate(k_BM1K, rotary)[:, :, 0]
        v_BMK = project(x_BLD, self.value[...])
        core = jax.checkpoint(attend) if self.remat == "attention" else attend
        return project(core(q_BLHK, k_BMK, v_BMK), self.out[...], 2)


# Recomputed in the backward pass, always: keeping its parts would store three more [B, L, F].
@jax.checkpoint
def _gated(gate_BLF: jax.Array, up_BLF: jax.Array) -> jax.Array:
    return jax.nn.silu(gate_BLF) * up_BLF


class SwiGlu(nnx.Module):
    """Feed-forward layer Swish(xW) * xV, projected back to the model dim."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, F = config.model_dim, config.mlp_dim
        self.gate = kernel(rngs, config, (D, F), ("embed", "mlp"), D)
        self.up = kernel(rngs, config, (D, F), ("embed", "mlp"), D)
        self.down = kernel(rngs, config, (F, D), ("mlp", "embed"), F)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        gate_BLF, up_BLF = project(x_BLD, self.gate[...]), project(x_BLD, self.up[...])
        return project(_gated(gate_BLF, up_BLF), self.down[...])


class Block(nnx.Module):
    """The parallel block: y = x + MLP(Norm(x)) + Attention(Norm(x)), one norm for both."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.norm = Norm(config)
        self.attention = Attention(config, rngs=rngs)
        self.mlp = SwiGlu(config, rngs=rngs)

    def __call__(self, x_BLD: jax.Array, rotary: Rotary) -> jax.Array:
        normal_BLD = self.norm(x_BLD)
        return x_BLD + self.mlp(normal_BLD) + self.attention(normal_BLD, rotary)
