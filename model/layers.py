"""The parts of a PaLM layer (section 2): norm, rotary embedding, attention, SwiGLU, parallel block.

Parameters are nnx.Param with the logical axes of their dims beside them; they are cast to the
compute dtype where they are used. Stacking, scanning and recomputation are model.palm's; placement
is model.sharding's.

Suffixes: B batch, L length of the queries, M length of the keys, D model dim, H heads, K head dim,
F feed-forward.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig

_NORM_EPSILON = 1e-6
_ROTARY_BASE = 10_000.0


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


class Norm(nnx.Module):
    """Layer norm over the model dim with a scale and no bias; computed in float32."""

    def __init__(self, config: ModelConfig) -> None:
        ones = jnp.ones((config.model_dim,), jnp.dtype(config.param_dtype))
        self.scale = nnx.Param(ones, logical_axes=("embed",))

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        wide_BLD = x_BLD.astype(jnp.float32)
        centred_BLD = wide_BLD - wide_BLD.mean(axis=-1, keepdims=True)
        variance_BL1 = jnp.square(centred_BLD).mean(axis=-1, keepdims=True)
        normal_BLD = centred_BLD * jax.lax.rsqrt(variance_BL1 + _NORM_EPSILON)
        return (normal_BLD * self.scale[...]).astype(x_BLD.dtype)


def rotate(x_BLHK: jax.Array) -> jax.Array:
    """Rotary position embedding: pair (i, i + K/2) of position l turns by l / base^(2i/K)."""
    length, head_dim = x_BLHK.shape[1], x_BLHK.shape[3]
    frequency_P = _ROTARY_BASE ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle_LP = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_P
    cos_L1P = jnp.cos(angle_LP)[:, None, :].astype(x_BLHK.dtype)
    sin_L1P = jnp.sin(angle_LP)[:, None, :].astype(x_BLHK.dtype)
    first_BLHP, second_BLHP = jnp.split(x_BLHK, 2, axis=-1)
    return jnp.concatenate(
        [
            first_BLHP * cos_L1P - second_BLHP * sin_L1P,
            second_BLHP * cos_L1P + first_BLHP * sin_L1P,
        ],
        axis=-1,
    )


def attend(q_BLHK: jax.Array, k_BMK: jax.Array, v_BMK: jax.Array) -> jax.Array:
    """Causal attention of many query heads to one key and value head; softmax in float32.

    Scores keep the order B, L, H, M: with one key head both products are then plain batched matrix
    products, without transposes.
    """
    length, head_dim = q_BLHK.shape[1], q_BLHK.shape[3]
    score_BLHM = jnp.einsum("BLHK,BMK->BLHM", q_BLHK * head_dim**-0.5, k_BMK)
    seen_L1M = jnp.tri(length, dtype=bool)[:, None, :]
    masked_BLHM = jnp.where(seen_L1M, score_BLHM.astype(jnp.float32), -jnp.inf)
    weight_BLHM = jax.nn.softmax(masked_BLHM, axis=-1).astype(v_BMK.dtype)
    return jnp.einsum("BLHM,BMK->BLHK", weight_BLHM, v_BMK)


class Attention(nnx.Module):
    """Multi-query attention: `num_heads` queries share one key and one value head."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, H, K = config.model_dim, config.num_heads, config.head_dim
        self.remat = config.remat
        self.query = kernel(rngs, config, (D, H, K), ("embed", "heads", None), D)
        self.key = kernel(rngs, config, (D, K), ("embed", None), D)
        self.value = kernel(rngs, config, (D, K), ("embed", None), D)
        self.out = kernel(rngs, config, (H, K, D), ("heads", None, "embed"), H * K)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        dtype = x_BLD.dtype
        q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, self.query[...].astype(dtype))
        k_BMK = jnp.einsum("BMD,DK->BMK", x_BLD, self.key[...].astype(dtype))
        v_BMK = jnp.einsum("BMD,DK->BMK", x_BLD, self.value[...].astype(dtype))
        core = jax.checkpoint(attend) if self.remat == "attention" else attend
        k_BMK = rotate(k_BMK[:, :, None, :])[:, :, 0, :]
        mixed_BLHK = core(rotate(q_BLHK), k_BMK, v_BMK)
        return jnp.einsum("BLHK,HKD->BLD", mixed_BLHK, self.out[...].astype(dtype))


class SwiGlu(nnx.Module):
    """Feed-forward layer Swish(xW) * xV, projected back to the model dim."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, F = config.model_dim, config.mlp_dim
        self.gate = kernel(rngs, config, (D, F), ("embed", "mlp"), D)
        self.up = kernel(rngs, config, (D, F), ("embed", "mlp"), D)
        self.down = kernel(rngs, config, (F, D), ("mlp", "embed"), F)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        dtype = x_BLD.dtype
        gate_BLF = x_BLD @ self.gate[...].astype(dtype)
        up_BLF = x_BLD @ self.up[...].astype(dtype)
        return (jax.nn.silu(gate_BLF) * up_BLF) @ self.down[...].astype(dtype)


class Block(nnx.Module):
    """The parallel block: y = x + MLP(Norm(x)) + Attention(Norm(x)), one norm for both."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.norm = Norm(config)
        self.attention = Attention(config, rngs=rngs)
        self.mlp = SwiGlu(config, rngs=rngs)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        normal_BLD = self.norm(x_BLD)
        return x_BLD + self.mlp(normal_BLD) + self.attention(normal_BLD)
