import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.products import project


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "num_contracted"),
    [
        ((2, 3, 8), (8, 16), 1),
        ((2, 3, 16), (16, 4), 1),
        ((2, 3, 8), (8, 4, 2), 1),
        ((2, 3, 4, 2), (4, 2, 6), 2),
    ],
)
def test_project_value_and_gradients_are_those_of_tensordot(x_shape, kernel_shape, num_contracted):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)
    plain, plain_gradient = jax.vjp(lambda x, k: jnp.tensordot(x, k, num_contracted), x, kernel)
    ours, our_gradient = jax.vjp(lambda x, k: project(x, k, num_contracted), x, kernel)
    dy = jax.random.normal(keys[2], plain.shape)
    np.testing.assert_allclose(ours, plain, rtol=1e-6)
    for got, wanted in zip(our_gradient(dy), plain_gradient(dy), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_project_bfloat16_activations_give_a_gradient_in_the_kernels_dtype():
    x, kernel = jnp.ones((2, 8), jnp.bfloat16), jnp.ones((8, 4), jnp.float32)
    y, gradient = jax.vjp(project, x, kernel)
    dx, dkernel = gradient(y)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
