"""Small programs of the bundle format, and one process of four CPU devices to run them on."""

import os

# Before jax is imported anywhere in this process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from model.bundle import bundle_bytes, bundle_digest
from model.outer import OuterOptimizer
from model.outer_config import OuterConfig
from model.program import Buffer, Call, Component, Program, Segment

VOCABULARY = 257
WIDTH = 16
SEQUENCE = 8


@dataclasses.dataclass(frozen=True)
class Bundle:
    digest: str
    data: bytes


def bigram_program(
    mesh: tuple[int, int], microbatch: int = 4, learning_rate: float = 0.5
) -> Program:
    """Predicts the next byte from this one, with every kind of sharding in it."""
    table = Buffer("table", (VOCABULARY, WIDTH), "float32", (None, ("data",)))
    head = Buffer("head", (WIDTH, VOCABULARY), "float32", (("data",), None))
    count = Buffer.replicated("count", (), "int32")
    rows = (microbatch, SEQUENCE)

    def loss(params, inputs, targets):
        logits = params[0][inputs] @ params[1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
        return -picked.mean()

    def init(seed):
        keys = jax.random.split(jax.random.key(seed))
        table_init = jax.random.normal(keys[0], table.shape)
        return table_init, jax.random.normal(keys[1], head.shape) * 0.1, jnp.int32(0)

    def forward(table, head, inputs, targets):
        value, grads = jax.value_and_grad(loss)((table, head), inputs, targets)
        return *grads, value, jnp.float32(1.0)

    def backward(scale, carried):
        return (carried * scale,)

    def accumulate(*arrays):
        half = len(arrays) // 2
        return tuple(a + b for a, b in zip(arrays[:half], arrays[half:], strict=True))

    def apply_update(table, head, count, head_grad, table_grad, value, weight):
        rate = learning_rate / weight
        new = (table - rate * table_grad, head - rate * head_grad, count + 1)
        return *new, jnp.stack([value / weight])

    def digest(table, head, count):
        words = [jax.lax.bitcast_convert_type(x, jnp.uint32).ravel() for x in (table, head)]
        sums = [jnp.sum(w * (2 * jnp.arange(w.size, dtype=jnp.uint32) + 1)) for w in words]
        return (jnp.stack([*sums, count.astype(jnp.uint32)]),)

    return Program(
        name="bigram",
        mesh_shape=mesh,
        groups={
            "params": (table, head),
            "optimizer": (count,),
            "batch": tuple(
                Buffer(name, rows, "int32", (("data",), None)) for name in ("inputs", "targets")
            ),
            "carried": (table,),
            "scale": (Buffer.replicated("scale", (), "int32"),),
            "grads_head": (head,),
            "grads_table": (table,),
            "metrics": tuple(Buffer.replicated(n, (), "float32") for n in ("loss", "weight")),
            "record": (Buffer.replicated("record", (1,), "float32", ("loss",)),),
            "seed": (Buffer.replicated("seed", (), "uint32"),),
            "digest": (Buffer.replicated("digest", (3,), "uint32"),),
        },
        components={
            "init": Component(init, ("seed",), ("params", "optimizer")),
            "forward": Component(
                forward, ("params", "batch"), ("carried", "grads_head", "metrics"), flops=1000
            ),
            "backward": Component(backward, ("scale", "carried"), ("grads_table",), donated=(1,)),
            "add_head": Component(
                accumulate, ("grads_head", "grads_head"), ("grads_head",), donated=(0,)
            ),
            "add_table": Component(
                accumulate,
                ("grads_table", "metrics", "grads_table", "metrics"),
                ("grads_table", "metrics"),
                donated=(0, 1),
            ),
            "apply_update": Component(
                apply_update,
                ("params", "optimizer", "grads_head", "grads_table", "metrics"),
                ("params", "optimizer", "record"),
                donated=(0, 1),
            ),
            "digest": Component(digest, ("params", "optimizer"), ("digest",)),
        },
        slot=(
            Call("forward", ("params", "batch"), ("carried", "grads_head", "metrics")),
            Call("backward", ("scale", "carried"), ("grads_table",), {"scale": 1}),
        ),
        segments=(
            Segment(("grads_head",), "add_head"),
            Segment(("grads_table", "metrics"), "add_table"),
        ),
        facts={"tokens_per_slot": microbatch * SEQUENCE},
    )


def with_outer(program: Program, config: OuterConfig) -> Program:
    """The same, synchronised by an outer optimizer; rows of the table play the layers."""
    table, head = program.groups["params"]
    layered = dataclasses.replace(table, name="layers/table")
    outer = OuterOptimizer((layered, head), config)
    return dataclasses.replace(
        program,
        groups={**program.groups, **outer.groups()},
        components={**program.components, **outer.components()},
        outer=outer.plan(),
    )


def bundle_of(program: Program) -> Bundle:
    data = bundle_bytes(program, "cpu")
    return Bundle(bundle_digest(data), data)


@pytest.fixture(scope="session")
def bigram() -> Bundle:
    """For the (2, 2) mesh of this process's four devices."""
    return bundle_of(bigram_program((2, 2)))
