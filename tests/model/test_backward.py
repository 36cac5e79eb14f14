"""The chain of calls against jax.grad of the whole loss, and what layers keep for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from model import backward, palm
from model.config import AdafactorConfig, ModelConfig, SlotConfig
from model.layout import MESH_AXES
from model.loss import token_losses
from model.palm_program import palm_program
from model.sharding import named_sharding
from tests.model.slots import gradients_by_name, run_slot

SLOT = SlotConfig(microbatch=4, sequence_length=16)
TOKENS = np.random.default_rng(0).integers(0, 256, (4, 17), dtype=np.int32)
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]


def five_layers(**changes) -> ModelConfig:
    return ModelConfig(
        **{
            "num_layers": 5, "model_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64,
            "vocab_size": 288, "compute_dtype": "float32",
            **changes,
        }
    )  # fmt: skip


def gradients(program, mesh_shape, parameters):
    """Run as a worker does: compiled for the manifest's shardings, with its donations."""
    devices = np.array(jax.devices()[: mesh_shape[0] * mesh_shape[1]]).reshape(mesh_shape)
    mesh = Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * 2)

    def compiled(component):
        sizes = [len(program.groups[name]) for name in component.inputs]
        return jax.jit(
            component.function,
            in_shardings=tuple(
                named_sharding(buffer.spec, mesh) for buffer in program.buffers(component.inputs)
            ),
            out_shardings=tuple(
                named_sharding(buffer.spec, mesh) for buffer in program.buffers(component.outputs)
            ),
            donate_argnums=[
                sum(sizes[:at]) + index for at in component.donated for index in range(sizes[at])
            ],
        )

    called = {call.component for call in program.slot}
    functions = {name: compiled(program.components[name]) for name in called}
    params = [parameters[buffer.name] for buffer in program.groups["params"]]
    return gradients_by_name(program, run_slot(program, functions, params, BATCH))


@pytest.fixture(scope="module")
def whole():
    """For a remat policy, the parameters and jax.grad of the whole loss."""

    def of(config):
        parameters = jax.jit(lambda: palm.initial_parameters(config, jnp.uint32(3)))()

        def loss(parameters):
            nll_BL, z_loss_BL = token_losses(palm.logits(config, parameters, BATCH[0]), BATCH[1])
            return nll_BL.mean() + z_loss_BL.mean()

        wanted = jax.jit(jax.grad(loss))(parameters)
        return {name: np.asarray(x) for name, x in parameters.items()}, wanted

    return of


@pytest.mark.parametrize("remat", ["full", "attention", "none"])
@pytest.mark.parametrize("mesh_shape", [(1, 1), (2, 2)])
def test_the_chain_gives_the_gradient_of_the_whole_loss(whole, remat, mesh_shape):
    config = five_layers(remat=remat)
    parameters, wanted = whole(config)
    for count in (1, 2, 5) if mesh_shape == (1, 1) else (3,):
        program = palm_program("chain", config, AdafactorConfig(), SLOT, mesh_shape, count)
        found = gradients(program, mesh_shape, parameters)
        assert sorted(found) == sorted(wanted)
        for name, gradient in found.items():
            error = np.linalg.norm(gradient - wanted[name]) / np.linalg.norm(wanted[name])
            assert error < 1e-6, (count, name)


def test_groups_of_one_size_share_what_is_compiled():
    for count, kinds in ((1, 1), (2, 2), (3, 2), (5, 1)):
        program = palm_program("chain", five_layers(), AdafactorConfig(), SLOT, (1, 1), count)
        assert sum(call.component.startswith("backward_") for call in program.slot) == count
        assert sum(name.startswith("backward_") for name in program.components) == kinds
        assert sum(name.startswith("accumulate_") for name in program.components) == kinds + 1
        assert len(program.segments) == count + 1


INPUT = ("layers", "batch", None, "residual")
PRODUCT = ("layers", "batch", None, "mlp")
HEADS = ("layers", "batch", None, "heads", None)
SHARED_HEAD = ("layers", "batch", None, None)
KEPT = {
    "full": [INPUT],
    # Input and norm; gate, up and their product; queries and attended values; key and value.
    "attention": [INPUT] * 2 + [PRODUCT] * 3 + [HEADS] * 2 + [SHARED_HEAD] * 2,
    # Scores and their sums besides.
    "none": [INPUT] * 2 + [PRODUCT] * 3 + [HEADS] * 4 + [SHARED_HEAD] * 2,
}


@pytest.mark.parametrize("remat", KEPT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_keep_what_their_policy_says(remat, dtype):
    config = five_layers(remat=remat, compute_dtype=dtype)
    kept = backward.residuals(config, SLOT)
    assert sorted(map(str, (r.logical_axes for r in kept))) == sorted(map(str, KEPT[remat]))
    assert all(residual.shape[:3] == (5, 4, 16) for residual in kept)
    # Sums of scores are in float32 always.
    wide = [residual for residual in kept if residual.dtype != dtype]
    assert all(residual.shape[3:] == (4, 1) for residual in wide)


def test_parameters_and_rotary_tables_are_kept_by_no_layer():
    config = five_layers(remat="none")
    shapes = {residual.shape[1:] for residual in backward.residuals(config, SLOT)}
    supplied = [info.shape[1:] for info in palm.stacked(palm.parameter_info(config)).values()]
    tables = jax.eval_shape(lambda: palm.rotary_of(config, SLOT.sequence_length))
    assert not shapes & {*supplied, *(table.shape for table in tables)}


def test_the_embedding_needs_no_parameters_to_end_the_chain():
    program = palm_program("chain", five_layers(), AdafactorConfig(), SLOT, (1, 1))
    assert "params" not in program.components["embed_backward"].inputs
