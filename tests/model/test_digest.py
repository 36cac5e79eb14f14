import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from model.digest import LANES, digest

DIGEST = jax.jit(lambda *arrays: digest(arrays))


def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(8, 4, 6)).astype(np.float32),
        rng.normal(size=(16, 4)).astype(jnp.bfloat16),
        np.int32(7),
    ]


def flip(array, index, bit):
    words = np.array(array, copy=True).reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
    words[index] ^= np.array(1 << bit, words.dtype)
    return words.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize(("which", "bits"), [(0, 32), (1, 16), (2, 32)])
def test_digest_one_flipped_bit_changes_every_lane_of_its_array_only(which, bits):
    before = np.asarray(DIGEST(*arrays())).reshape(-1, LANES)
    for bit in range(bits):
        changed = arrays()
        changed[which] = flip(changed[which], changed[which].size // 2, bit)
        differs = np.asarray(DIGEST(*changed)).reshape(-1, LANES) != before
        assert differs[which].all()
        assert differs.sum() == LANES


@pytest.mark.parametrize(
    "pair", [((0, 0, 0), (0, 0, 1)), ((0, 0, 0), (0, 1, 0)), ((1, 2, 3), (7, 3, 5))]
)
def test_digest_swapped_pair_of_elements_changes_it(pair):
    changed, (first, second) = arrays(), pair
    changed[0][first], changed[0][second] = changed[0][second], changed[0][first]
    assert (np.asarray(DIGEST(*changed)) != np.asarray(DIGEST(*arrays())))[:LANES].all()


def test_digest_swapped_arrays_of_one_shape_change_it():
    a, b = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    assert not np.array_equal(DIGEST(a, b), DIGEST(b, a))


def test_digest_negative_zero_and_nan_payloads_count_as_bits():
    zero, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert not np.array_equal(DIGEST(zero), DIGEST(-zero))
    assert not np.array_equal(DIGEST(nan), DIGEST(flip(nan, 0, 3)))


@pytest.mark.parametrize(
    "spec", [("data",), (None, "model"), ("model", "data"), (("data", "model"),)]
)
def test_digest_any_sharding_gives_the_same_value(spec):
    wanted = np.asarray(DIGEST(*arrays()))
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placed = [
        jax.device_put(
            array, NamedSharding(mesh, PartitionSpec(*spec) if array.ndim else PartitionSpec())
        )
        for array in arrays()
    ]
    np.testing.assert_array_equal(jax.block_until_ready(DIGEST(*placed)), wanted)
