"""Four virtual CPU devices, set before any test initialises jax, and the small model of these tests."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4".strip()

import jax
import pytest

from model.config import AdafactorConfig, ModelConfig, SlotConfig
from model.palm_program import palm_program
from model.program import Program




@pytest.fixture(scope="session", autouse=True)
def _quick_compiles():
    """These tests compile much and compute little; what XLA optimises is not their subject."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
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


@pytest.fixture
def small_program(small_model: ModelConfig) -> Program:
    slot = SlotConfig(microbatch=4, sequence_length=16)
    return palm_program("small", small_model, AdafactorConfig(), slot, (1, 1))
