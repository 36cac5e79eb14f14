import jax
import jax.numpy as jnp
import numpy as np

from model.attention import attend

B, L, H, K = 2, 12, 3, 4


def plain_attention(q_BLHK, k_BMK, v_BMK):
    score_BHLM = jnp.einsum("blhk,bmk->bhlm", q_BLHK, k_BMK) / jnp.sqrt(K)
    seen_LM = jnp.tril(jnp.ones((L, L), bool))
    weight_BHLM = jax.nn.softmax(jnp.where(seen_LM[None, None], score_BHLM, -jnp.inf), axis=-1)
    return jnp.einsum("bhlm,bmk->blhk", weight_BHLM, v_BMK)


def inputs():
    rng = np.random.default_rng(1)
    shapes = [(B, L, H, K), (B, L, K), (B, L, K), (B, L, H, K)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def value_and_gradients(attention, qkv, dmixed):
    @jax.jit
    def both(qkv, dmixed):
        mixed, gradient = jax.vjp(attention, *qkv)
        return mixed, gradient(dmixed)

    return both(tuple(qkv), dmixed)


def test_attend_value_and_gradients_are_those_of_the_plain_formula():
    *qkv, dmixed = inputs()
    ours, our_gradients = value_and_gradients(attend, qkv, dmixed)
    plain, plain_gradients = value_and_gradients(plain_attention, qkv, dmixed)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(our_gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_attend_huge_scores_stay_finite():
    q, k, v, dmixed = inputs()
    mixed, gradients = value_and_gradients(attend, (q * 1e4, k * 1e4, v), dmixed)
    assert all(np.isfinite(x).all() for x in (mixed, *gradients))


def test_attend_first_position_copies_its_own_value():
    q, k, v, _ = inputs()
    first_BHK = jax.jit(attend)(q, k, v)[:, 0]
    np.testing.assert_allclose(first_BHK, np.broadcast_to(v[:, :1], (B, H, K)), rtol=1e-6)


def test_attend_query_heads_share_one_key_and_value_head():
    q, k, v, _ = inputs()
    same_q = np.broadcast_to(q[:, :, :1], q.shape)
    mixed = jax.jit(attend)(same_q, k, v)
    np.testing.assert_allclose(mixed, np.broadcast_to(mixed[:, :, :1], mixed.shape), rtol=1e-6)
