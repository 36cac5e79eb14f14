"""What was there when the snapshot was asked for, whatever becomes of the originals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from workers.checkpoint.snapshot import snapshot_of


@pytest.mark.parametrize("num_devices", [1, 4])
def test_originals_may_be_donated_at_once(num_devices: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",), axis_types=(AxisType.Auto,))
    cut, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in ("data", None))
    first = {
        "params/key": jax.device_put(np.arange(1 << 20, dtype=np.float32), cut),
        "optimizer/steps": jax.device_put(np.int32(7), NamedSharding(mesh, PartitionSpec())),
        "params/scale": jax.device_put(np.ones((64, 3), np.float32), whole),
    }
    arrays = first
    structs = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in arrays.items()
    }
    snapshot = snapshot_of(structs)
    go_on = jax.jit(lambda arrays: jax.tree.map(lambda x: x + 1, arrays), donate_argnums=0)
    copies = []
    for _ in range(20):
        copies.append(snapshot(arrays))
        arrays = go_on(arrays)
    assert all(array.is_deleted() for array in first.values())
    for step, copy in enumerate(copies):
        assert {name: array.sharding for name, array in copy.items()} == {
            name: struct.sharding for name, struct in structs.items()
        }
        expected = np.arange(1 << 20, dtype=np.float32) + step
        np.testing.assert_array_equal(copy["params/key"], expected)
        assert int(copy["optimizer/steps"]) == 7 + step
        assert bool(jnp.all(copy["params/scale"] == 1 + step))


def test_a_member_without_arrays_has_an_empty_one() -> None:
    assert snapshot_of({})({}) == {}
