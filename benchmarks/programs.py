"""Programs that cost next to nothing, to see what everything around them costs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.bundle import bundle_bytes, bundle_digest
from model.program import Buffer, Component, Program

_DIM = 96
"""Square matrices of 36 KiB, 1.8 MFLOP a product: some tens of microseconds on a core."""


def scalar_add() -> Program:
    """A step adds one to one number."""
    return _program("scalar-add", Buffer.replicated("x", (), "float32"), lambda x: x + 1.0)


def busy(products: int) -> Program:
    """A step is a chain of matrix products, to be sized to the time wanted."""

    def chain(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, products, lambda _, y: (y @ y) * (1.0 / _DIM), x)

    return _program("busy", Buffer.replicated("x", (_DIM, _DIM), "float32"), chain)


def write(program: Program) -> tuple[str, bytes]:
    """(digest, bytes) of the bundle for CPUs."""
    data = bundle_bytes(program, "cpu")
    return bundle_digest(data), data


def _program(name: str, state: Buffer, advance: object) -> Program:
    """No data and no gradients: apply_update is the whole step."""

    def init(seed: jax.Array) -> tuple[jax.Array, ...]:
        return (jnp.ones(state.shape, state.dtype) + 0.0 * seed.astype(state.dtype),)

    def apply_update(x: jax.Array) -> tuple[jax.Array, ...]:
        new = advance(x)  # type: ignore[operator]
        return new, new.reshape(-1)[:1]

    def digest(x: jax.Array) -> tuple[jax.Array, ...]:
        return (jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)[:1],)

    return Program(
        name=name,
        mesh_shape=(1, 1),
        groups={
            "params": (state,),
            "optimizer": (),
            "batch": (),
            "record": (Buffer.replicated("record", (1,), "float32", ("loss",)),),
            "seed": (Buffer.replicated("seed", (), "uint32"),),
            "digest": (Buffer.replicated("digest", (1,), "uint32"),),
        },
        components={
            "init": Component(init, ("seed",), ("params", "optimizer")),
            "apply_update": Component(
                apply_update, ("params", "optimizer"), ("params", "optimizer", "record"), (0,)
            ),
            "digest": Component(digest, ("params", "optimizer"), ("digest",)),
        },
    )
