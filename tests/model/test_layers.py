import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.layers import Block, rotary_table, rotate


def plain_norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale


def plain_rotation(x, position):
    """One vector at one position, pair by pair, as complex numbers."""
    half = len(x) // 2
    angle = position * 10_000.0 ** (-np.arange(half) / half)
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag])


def plain_block(block: Block, x_LD: np.ndarray) -> np.ndarray:
    """y = x + MLP(Norm(x)) + Attention(Norm(x)) in float64, one head and one query at a time."""
    attention, mlp = block.attention, block.mlp
    weights = {
        name: np.asarray(value[...], np.float64)
        for name, value in [
            ("query", attention.query), ("key", attention.key), ("value", attention.value),
            ("out", attention.out), ("gate", mlp.gate), ("up", mlp.up), ("down", mlp.down),
            ("scale", block.norm.scale),
        ]
    }  # fmt: skip
    normal_LD = plain_norm(x_LD, weights["scale"])
    gate_LF, up_LF = normal_LD @ weights["gate"], normal_LD @ weights["up"]
    y_LD = x_LD + (gate_LF / (1 + np.exp(-gate_LF)) * up_LF) @ weights["down"]
    k_MK = np.stack([plain_rotation(k, m) for m, k in enumerate(normal_LD @ weights["key"])])
    v_MK = normal_LD @ weights["value"]
    for position in range(len(x_LD)):
        for head in range(weights["query"].shape[1]):
            q_K = plain_rotation(normal_LD[position] @ weights["query"][:, head], position)
            score_M = k_MK[: position + 1] @ q_K / np.sqrt(len(q_K))
            weight_M = np.exp(score_M - score_M.max())
            mixed_K = weight_M @ v_MK[: position + 1] / weight_M.sum()
            y_LD[position] += mixed_K @ weights["out"][head]
    return y_LD


def test_block_small_model_equals_the_formula_written_out(small_model):
    block = Block(small_model, rngs=nnx.Rngs(params=jax.random.key(3)))
    block.norm.scale[...] = 1.0 + 0.1 * jax.random.normal(jax.random.key(4), (32,))
    x_BLD = jax.random.normal(jax.random.key(5), (2, 10, 32))
    got_BLD = jax.jit(lambda x: block(x, rotary_table(10, small_model.head_dim)))(x_BLD)
    for got_LD, x_LD in zip(got_BLD, np.asarray(x_BLD, np.float64), strict=True):
        np.testing.assert_allclose(got_LD, plain_block(block, x_LD), rtol=1e-4, atol=1e-5)


def test_block_parameters_have_no_bias_and_one_key_value_head(small_model):
    block = nnx.eval_shape(lambda: Block(small_model, rngs=nnx.Rngs(params=jax.random.key(0))))
    shapes = {"/".join(map(str, path)): v.shape for path, v in nnx.to_flat_state(nnx.state(block))}
    assert shapes == {
        "attention/key": (32, 8),
        "attention/out": (4, 8, 32),
        "attention/query": (32, 4, 8),
        "attention/value": (32, 8),
        "mlp/down": (64, 32),
        "mlp/gate": (32, 64),
        "mlp/up": (32, 64),
        "norm/scale": (32,),
    }


@pytest.mark.parametrize("shift", [1, 7, 20])
def test_rotate_both_positions_shifted_keeps_the_score(shift):
    q_K, k_K = jax.random.normal(jax.random.key(6), (2, 16))
    table = rotary_table(40, 16)
    q_LK = rotate(jnp.broadcast_to(q_K, (1, 40, 1, 16)), table)[0, :, 0]
    k_LK = rotate(jnp.broadcast_to(k_K, (1, 40, 1, 16)), table)[0, :, 0]
    score_LM = np.asarray(q_LK @ k_LK.T)
    np.testing.assert_allclose(score_LM[:-shift, :-shift], score_LM[shift:, shift:], atol=2e-5)
    assert np.std(np.diagonal(score_LM, 1) - np.diagonal(score_LM, 0)[1:]) < 1e-4
    assert abs(score_LM[5, 0] - score_LM[9, 0]) > 1e-3


def test_rotate_first_position_changes_nothing():
    x = jax.random.normal(jax.random.key(7), (2, 3, 4, 8))
    np.testing.assert_array_equal(rotate(x, rotary_table(3, 8))[:, 0], x[:, 0])
