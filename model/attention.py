"""Causal multi-query attention with a hand-written gradient.

One key and value head serves all query heads, so with scores in the order B, L, H, M every product
is a plain batched matrix product over rows (L, H), without a transpose. The softmax is normalised
after the product with the values, where the rows are shorter. The gradient is the usual one, with
the products written in the orientation that XLA:CPU runs fast.

Suffixes: B batch, L length of the queries, M length of the keys, H heads, K head dim.
"""

import jax
import jax.numpy as jnp

_Saved = tuple[jax.Array, ...]


@jax.custom_vjp
def attend(q_BLHK: jax.Array, k_BMK: jax.Array, v_BMK: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v over the keys at or before each query; softmax in float32."""
    return _attend_forward(q_BLHK, k_BMK, v_BMK)[0]


def _attend_forward(
    q_BLHK: jax.Array, k_BMK: jax.Array, v_BMK: jax.Array
) -> tuple[jax.Array, _Saved]:
    length, head_dim = q_BLHK.shape[1], q_BLHK.shape[3]
    q_BLHK = q_BLHK * head_dim**-0.5
    score_BLHM = jnp.einsum("BLHK,BMK->BLHM", q_BLHK, k_BMK).astype(jnp.float32)
    seen_L1M = jnp.tri(length, dtype=bool)[:, None, :]
    score_BLHM = jnp.where(seen_L1M, score_BLHM, -jnp.inf)
    top_BLH1 = score_BLHM.max(axis=-1, keepdims=True)
    weight_BLHM = jnp.exp(score_BLHM - top_BLH1)
    inverse_BLH1 = 1.0 / weight_BLHM.sum(axis=-1, keepdims=True)
    weight_BLHM = weight_BLHM.astype(v_BMK.dtype)
    mixed_BLHK = jnp.einsum("BLHM,BMK->BLHK", weight_BLHM, v_BMK)
    mixed_BLHK = (mixed_BLHK * inverse_BLH1).astype(v_BMK.dtype)
    return mixed_BLHK, (q_BLHK, k_BMK, v_BMK, weight_BLHM, inverse_BLH1, mixed_BLHK)


def _attend_backward(saved: _Saved, dmixed_BLHK: jax.Array) -> _Saved:
    q_BLHK, k_BMK, v_BMK, weight_BLHM, inverse_BLH1, mixed_BLHK = saved
    dtype = v_BMK.dtype
    # Dividing here once leaves the weights unnormalised in everything below.
    dmixed_BLHK = (dmixed_BLHK * inverse_BLH1).astype(dtype)
    dv_BKM = jnp.einsum("BLHK,BLHM->BKM", dmixed_BLHK, weight_BLHM)
    dweight_BLHM = jnp.einsum("BLHK,BMK->BLHM", dmixed_BLHK, v_BMK)
    centre_BLH1 = (dmixed_BLHK * mixed_BLHK).sum(axis=-1, keepdims=True)
    dscore_BLHM = weight_BLHM * (dweight_BLHM - centre_BLH1)
    dq_BLHK = jnp.einsum("BLHM,BMK->BLHK", dscore_BLHM, k_BMK) * q_BLHK.shape[3] ** -0.5
    dk_BKM = jnp.einsum("BLHK,BLHM->BKM", q_BLHK, dscore_BLHM)
    # Without the barrier XLA folds the transposition into the product, at a third of the speed.
    dk_BKM, dv_BKM = jax.lax.optimization_barrier((dk_BKM, dv_BKM))
    return dq_BLHK, jnp.swapaxes(dk_BKM, 1, 2), jnp.swapaxes(dv_BKM, 1, 2)


attend.defvjp(_attend_forward, _attend_backward)
