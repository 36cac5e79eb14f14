"""The product of activations with a kernel, its gradients in the orientation that runs fast.

Left to itself, jax computes the gradient of a kernel as a transposed product, which XLA:CPU runs at
half the speed of the same sum written the other way round (25 against 50 GFLOP/s on one core). The
mathematics is that of `jnp.tensordot`; on an accelerator both orientations cost the same.
"""

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x: jax.Array, kernel: jax.Array, num_contracted: int = 1) -> jax.Array:
    """Contracts the last `num_contracted` dims of x with the first of the kernel, in x's dtype.

    The kernel's gradient is accumulated in the kernel's own dtype.
    """
    return jnp.tensordot(x, kernel.astype(x.dtype), num_contracted)


def _project_forward(
    x: jax.Array, kernel: jax.Array, num_contracted: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return project(x, kernel, num_contracted), (x, kernel)


def _project_backward(
    num_contracted: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    num_out = kernel.ndim - num_contracted
    dy_dims = tuple(range(dy.ndim - num_out, dy.ndim))
    kernel_dims = tuple(range(num_contracted, kernel.ndim))
    dx = jax.lax.dot_general(dy, kernel.astype(dy.dtype), ((dy_dims, kernel_dims), ((), ())))
    return dx, _kernel_gradient(x, dy, num_contracted, kernel.dtype)


def _kernel_gradient(
    x: jax.Array, dy: jax.Array, num_contracted: int, dtype: jnp.dtype
) -> jax.Array:
    num_rows = x.ndim - num_contracted
    rows = tuple(range(num_rows))
    dims = ((rows, rows), ((), ()))
    # XLA copies the first operand into columns, so the narrower one goes first.
    if math.prod(x.shape[num_rows:]) <= math.prod(dy.shape[num_rows:]):
        return jax.lax.dot_general(x, dy, dims, preferred_element_type=dtype)
    flipped = jax.lax.dot_general(dy, x, dims, preferred_element_type=dtype)
    # Without the barrier XLA folds the transposition back into the product.
    flipped = jax.lax.optimization_barrier(flipped)
    num_out = dy.ndim - num_rows
    return jnp.transpose(flipped, (*range(num_out, flipped.ndim), *range(num_out)))


project.defvjp(_project_forward, _project_backward)
