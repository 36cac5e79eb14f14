"""Four virtual CPU devices, set before a test initialises jax, and the small model."""

import os
from collections.abc import Callable

os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4".strip()

import jax
import jax.numpy as jnp
import pytest

from model.config import AdafactorConfig, ModelConfig, SlotConfig
from model.palm_program import palm_program
from model.program import Program


@pytest.fixture(scope="session", autouse=True)
def _quick_compiles():
    """These tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def small_model() -> ModelConfig:
    return ModelConfig(
        num_layers=2,
        model_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=64,
        vocab_size=288,
        remat="none",
        compute_dtype="float32",
    )


@pytest.fixture(scope="session")
def small_program(small_model: ModelConfig) -> Program:
    slot = SlotConfig(microbatch=4, sequence_length=16)
    return palm_program("small", small_model, AdafactorConfig(), slot, (1, 1))


@pytest.fixture(scope="session")
def functions(small_program: Program) -> dict[str, Callable[..., tuple[jax.Array, ...]]]:
    return {name: jax.jit(c.function) for name, c in small_program.components.items()}


@pytest.fixture(scope="session")
def initial_state(functions) -> tuple[jax.Array, ...]:
    """Parameters and optimizer state from seed 0, flat."""
    return functions["init"](jnp.uint32(0))


@pytest.fixture(scope="session")
def small_parameters(small_program, initial_state) -> dict[str, jax.Array]:
    params = small_program.groups["params"]
    return {b.name: x for b, x in zip(params, initial_state, strict=False)}
