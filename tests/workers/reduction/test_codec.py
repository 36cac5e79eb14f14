import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workers.reduction.codec import BLOCK, Integers

KEY = jax.random.key(0)


def decoded(codec, x_RN, key=KEY, block_RC=None):
    if block_RC is None:
        block_RC = np.arange(x_RN.size // BLOCK, dtype=np.uint32).reshape(x_RN.shape[0], -1)
    encoded = codec.encode(jnp.asarray(x_RN, jnp.float32), key, block_RC)
    assert encoded.dtype == jnp.uint8
    assert encoded.shape == (x_RN.shape[0], codec.row_bytes(x_RN.shape[1]))
    return np.asarray(codec.decode(encoded, x_RN.shape[1]))


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_integers_are_within_half_a_scale(bits, most):
    x_RN = np.random.default_rng(0).normal(size=(3, 4 * BLOCK)).astype(np.float32)
    scale_RC = np.abs(x_RN.reshape(3, 4, BLOCK)).max(axis=-1) / most
    error_RN = np.abs(decoded(Integers(bits, False), x_RN) - x_RN)
    assert (error_RN.reshape(3, 4, BLOCK) <= scale_RC[..., None] * 0.5001).all()


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_integers_hold_every_multiple_of_the_scale(bits, most):
    multiples = np.resize(np.arange(-most, most + 1), 2 * BLOCK).astype(np.float32)
    x_RN = 0.5 * np.stack([multiples, multiples[::-1]])
    np.testing.assert_array_equal(decoded(Integers(bits, False), x_RN), x_RN)


def test_int4_takes_half_a_byte_and_a_scale_for_a_block():
    assert Integers(4, False).row_bytes(8 * BLOCK) == 8 * (BLOCK // 2 + 4)
    assert Integers(8, False).row_bytes(8 * BLOCK) == 8 * (BLOCK + 4)


@pytest.mark.parametrize("bits", [8, 4])
def test_random_rounding_is_right_on_average(bits):
    codec = Integers(bits, True)
    x_RN = np.random.default_rng(1).uniform(-1, 1, size=(1, BLOCK)).astype(np.float32)
    keys = jax.random.split(KEY, 2000)
    mean = np.mean([decoded(codec, x_RN, key) for key in keys[:400]], axis=0)
    scale = np.abs(x_RN).max() / (2 ** (bits - 1) - 1)
    # 400 roundings: a standard error of at most 0.5 / 20 of the scale, here five of them.
    assert np.abs(mean - x_RN).max() < 0.125 * scale
    assert np.abs(decoded(Integers(bits, False), x_RN) - x_RN).max() > 0.25 * scale


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_and_what_is_not_finite_stay_visible(bits):
    x_RN = np.zeros((1, 2 * BLOCK), np.float32)
    x_RN[0, 3] = np.inf
    back = decoded(Integers(bits, False), x_RN)
    assert not np.isfinite(back[0, :BLOCK]).all()
    np.testing.assert_array_equal(back[0, BLOCK:], 0)


def test_a_block_is_rounded_by_its_number_wherever_it_lies():
    codec = Integers(8, True)
    x_RN = np.random.default_rng(2).normal(size=(1, 3 * BLOCK)).astype(np.float32)
    there = np.concatenate([x_RN[:, 2 * BLOCK :], x_RN[:, :BLOCK]], axis=1)
    here = decoded(codec, x_RN, block_RC=np.array([[7, 8, 9]], np.uint32))
    moved = decoded(codec, there, block_RC=np.array([[9, 7]], np.uint32))
    np.testing.assert_array_equal(moved[:, :BLOCK], here[:, 2 * BLOCK :])
    np.testing.assert_array_equal(moved[:, BLOCK:], here[:, :BLOCK])
    others = decoded(codec, x_RN, block_RC=np.array([[1, 2, 3]], np.uint32))
    assert (others != here).any()
