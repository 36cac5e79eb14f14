import jax
import jax.numpy as jnp
import pytest

from model import flops
from model.config import AdafactorConfig, ModelConfig, SlotConfig
from model.matrix_flops import matrix_flops
from model.palm_program import palm_program

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONE = 2 * 8**3


def counted(function, *shapes):
    return matrix_flops(jax.make_jaxpr(function)(*shapes).jaxpr)


def test_products_in_scans_count_every_turn():
    def function(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=7)[0] @ x

    assert counted(jax.jit(function), SQUARE) == 8 * ONE


def test_batched_product_counts_its_batch():
    shapes = [jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)] * 2
    assert counted(lambda a, b: jnp.einsum("blk,bmk->blm", a, b), *shapes) == 2 * 3 * 4 * 4 * 5


def test_recomputation_counts_as_traced():
    def loss(x):
        return jnp.tanh(jnp.tanh(x @ x) @ x).sum()

    plain, again = (counted(jax.grad(f), SQUARE) for f in (loss, jax.checkpoint(loss)))
    assert plain == 6 * ONE
    assert again == 8 * ONE


def test_a_conditional_counts_its_dearest_branch():
    def function(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert counted(function, SQUARE) == 2 * ONE


def test_a_loop_of_unknown_length_is_refused_only_with_products():
    def function(x, step):
        return jax.lax.while_loop(lambda x: x.sum() < 9, step, x)

    assert counted(lambda x: function(x, jnp.tanh), SQUARE) == 0
    with pytest.raises(ValueError, match="unknown length"):
        counted(lambda x: function(x, lambda x: x @ x), SQUARE)


@pytest.mark.parametrize("remat", ["none", "attention", "full"])
def test_palm_costs_what_the_formulas_say(remat):
    spec = {"preset": "palm-tiny", "remat": remat, "model_dim": 64, "mlp_dim": 256}
    model = ModelConfig.from_spec(spec)
    slot = SlotConfig(microbatch=2, sequence_length=64)
    program = palm_program("tiny", model, AdafactorConfig(), slot, (1, 1))
    formula = flops.model_flops_per_token(model, 64)
    attention = 4 * model.num_layers * model.num_heads * model.head_dim * 64
    # A layer's last two products are not computed again: no gradient needs what they give.
    into_layer = 2 * model.mlp_dim + (model.num_heads + 2) * model.head_dim
    again = {
        "none": 0,
        "attention": attention,
        "full": attention + 2 * model.num_layers * model.model_dim * into_layer,
    }[remat]
    traced = 0
    for call in program.slot:
        component = program.components[call.component]
        inputs = [buffer.abstract for buffer in program.buffers(component.inputs)]
        traced += counted(component.function, *inputs)
    assert traced == pytest.approx(128 * (formula + again), rel=0.01)
