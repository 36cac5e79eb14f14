import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import palm
from model.config import PRESETS

TOKENS = np.random.default_rng(0).integers(0, 288, (2, 12), dtype=np.int32)


def logits_of_embeddings(config, params, embedded_LD):
    """Logits [L, V] as a function of what each position is embedded to.

    Position l gets token l, so the first rows of the embedding are the positions.
    """
    length = len(embedded_LD)
    table_VD = params["embedding"].at[:length].set(embedded_LD)
    return palm.logits(config, params | {"embedding": table_VD}, jnp.arange(length)[None])[0]


@pytest.mark.parametrize("jit", [True, False])
def test_logits_gradient_to_later_positions_is_exactly_zero(small_model, small_parameters, jit):
    params, length, query = small_parameters, 8, 4
    # Scores of tokens outside the sequence, so that the tied output projection adds no path.
    readout = jnp.zeros((288,)).at[100:120].set(1.0)

    def score(embedded_LD):
        return logits_of_embeddings(small_model, params, embedded_LD)[query] @ readout

    gradient = jax.grad(jax.jit(score) if jit else score)(params["embedding"][:length])
    reach = np.abs(gradient).max(axis=-1)
    assert (reach[query + 1 :] == 0).all()
    assert (reach[: query + 1] > 1e-6).all()


def test_logits_changed_token_leaves_earlier_positions_alone(small_model, small_parameters):
    params, changed = small_parameters, TOKENS.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 288
    forward = jax.jit(lambda t: palm.logits(small_model, params, t))
    before, after = forward(TOKENS), forward(changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3


def test_logits_jit_and_no_jit_agree(small_model, small_parameters):
    params = small_parameters
    jitted = jax.jit(lambda p, t: palm.logits(small_model, p, t))(params, TOKENS)
    with jax.disable_jit():
        undone = palm.logits(small_model, params, TOKENS)
    np.testing.assert_allclose(undone, jitted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["full", "attention"])
def test_logits_gradients_do_not_depend_on_the_remat_policy(small_model, small_parameters, remat):
    params = small_parameters

    def gradients(config):
        return jax.jit(jax.grad(lambda p: jnp.square(palm.logits(config, p, TOKENS)).mean()))(
            params
        )

    wanted = gradients(small_model)
    for name, got in gradients(dataclasses.replace(small_model, remat=remat)).items():
        np.testing.assert_allclose(got, wanted[name], rtol=1e-4, atol=1e-6)


def test_logits_bfloat16_compute_keeps_float32_parameters(small_model, small_parameters):
    config = dataclasses.replace(small_model, compute_dtype="bfloat16")
    params = small_parameters
    wide, narrow = (
        jax.jit(functools.partial(palm.logits, c))(params, TOKENS) for c in (small_model, config)
    )
    assert {str(x.dtype) for x in params.values()} == {"float32"}
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, atol=0.15)


def test_initial_parameters_palm_tiny_have_the_papers_deviations():
    config = PRESETS["palm-tiny"]
    params = jax.jit(lambda s: palm.initial_parameters(config, s))(jnp.uint32(11))
    fan_in = {
        "query": 128,
        "key": 128,
        "value": 128,
        "out": 256,
        "gate": 128,
        "up": 128,
        "down": 512,
    }
    expected = {name: size**-0.5 for name, size in fan_in.items()} | {"embedding": 1.0}
    for name, values in params.items():
        last = name.split("/")[-1]
        if last == "scale":
            assert (values == 1.0).all()
        else:
            assert np.std(values) == pytest.approx(expected[last], rel=0.02)
            assert abs(np.mean(values)) < 0.02 * expected[last]


def test_initial_parameters_layers_and_seeds_differ(functions, small_parameters):
    names, query = list(small_parameters), small_parameters["layers/attention/query"]
    again, other = functions["init"](jnp.uint32(0)), functions["init"](jnp.uint32(1))
    index = names.index("layers/attention/query")
    assert not (query[0] == query[1]).any()
    assert not (query == other[index]).any()
    np.testing.assert_array_equal(query, again[index])


def test_parameter_info_agrees_with_the_parameters(small_model, small_parameters):
    info, params = palm.parameter_info(small_model), small_parameters
    assert {n: (i.shape, i.dtype) for n, i in info.items()} == {
        name: (x.shape, str(x.dtype)) for name, x in params.items()
    }
    assert all(len(i.logical_axes) == len(i.shape) for i in info.values())
