import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from model.config import AdafactorConfig, SlotConfig
from model.layout import MESH_AXES, dim_spec
from model.palm_program import palm_program
from model.sharding import named_sharding
from tests.model.slots import contribution


@pytest.mark.parametrize(
    ("logical_axes", "shape", "mesh_shape", "expected"),
    [
        (
            ("layers", "embed", "heads", None), (2, 32, 4, 8), (2, 2),
            (None, ("data",), ("model",), None),
        ),
        (("layers", "mlp", "embed"), (2, 64, 32), (2, 2), (None, ("model",), ("data",))),
        (("layers", "embed", None), (2, 32, 8), (2, 2), (None, ("data",), None)),
        (("batch", None), (4, 16), (2, 1), (("data",), None)),
        # PaLM-540B: 12 does not divide 256,000.
        (("vocab", "embed"), (256_000, 18_432), (256, 12), (None, ("data",))),
        ((), (), (2, 2), ()),
    ],
)  # fmt: skip
def test_dim_spec_array_is_split_by_the_table(logical_axes, shape, mesh_shape, expected):
    assert dim_spec(logical_axes, shape, mesh_shape) == expected


def train(model, mesh_shape, initial_state, steps=5):
    """Losses of a few updates on one fixed batch; arrays placed as the manifest says."""
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", model, AdafactorConfig(), slot, mesh_shape)
    devices = np.array(jax.devices()[: mesh_shape[0] * mesh_shape[1]]).reshape(mesh_shape)
    mesh = jax.sharding.Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * 2)

    def compiled(name):
        component = program.components[name]
        shardings = [
            tuple(named_sharding(buffer.spec, mesh) for buffer in program.buffers(groups))
            for groups in (component.inputs, component.outputs)
        ]
        return jax.jit(component.function, in_shardings=shardings[0], out_shardings=shardings[1])

    functions = {name: compiled(name) for name in program.components}
    state = initial_state
    num_params = len(program.groups["params"])
    tokens = np.random.default_rng(0).integers(0, 256, (4, 17), dtype=np.int32)
    losses = []
    for _ in range(steps):
        batch = tokens[:, :-1], tokens[:, 1:]
        sums = contribution(program, functions, state[:num_params], batch)
        *state, record = functions["apply_update"](*state, *sums)
        losses.append(float(jax.block_until_ready(record)[0]))
    return losses, state


def test_training_on_a_two_by_two_mesh_follows_the_unsharded_losses(small_model, initial_state):
    placed = [np.asarray(array) for array in initial_state]
    unsharded, _ = train(small_model, (1, 1), placed)
    sharded, state = train(small_model, (2, 2), placed)
    np.testing.assert_allclose(sharded, unsharded, rtol=1e-5)
    assert unsharded[-1] < unsharded[0]
    assert state[-1].sharding.shard_shape(state[-1].shape) != state[-1].shape
