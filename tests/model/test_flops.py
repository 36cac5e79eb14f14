import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from model import flops, palm
from model.config import PRESETS, ModelConfig

PUBLISHED_BILLIONS = [("palm-8b", 8.63), ("palm-62b", 62.50), ("palm-540b", 540.35)]


@pytest.mark.parametrize(("preset", "billions"), PUBLISHED_BILLIONS)
def test_parameter_count_preset_is_the_published_one(preset, billions):
    assert round(flops.parameter_count(PRESETS[preset]) / 1e9, 2) == billions


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_preset_is_that_of_the_abstract_parameters(preset):
    config = PRESETS[preset]
    abstract = jax.eval_shape(lambda: palm.initial_parameters(config, jnp.uint32(0)))
    scales = sum(math.prod(x.shape) for name, x in abstract.items() if name.endswith("scale"))
    everything = sum(math.prod(x.shape) for x in abstract.values())
    assert everything - scales == flops.parameter_count(config)
    assert scales == flops.norm_scale_count(config)


def test_parameter_count_palm_tiny_is_between_one_and_four_million():
    assert 1_000_000 <= flops.parameter_count(PRESETS["palm-tiny"]) <= 4_000_000


# Table 22: TFLOP per token without and with rematerialisation, at 2,048 tokens.
@pytest.mark.parametrize(
    ("preset", "model_tflops", "hardware_tflops", "digits"),
    [
        ("palm-8b", 0.0550, 0.0561, 4),
        ("palm-62b", 0.388, 0.392, 3),
        ("palm-540b", 3.28, 4.10, 2),
    ],
)
def test_flops_per_token_preset_is_table_22(preset, model_tflops, hardware_tflops, digits):
    config = PRESETS[preset]
    assert round(flops.model_flops_per_token(config, 2048) / 1e12, digits) == model_tflops
    assert round(flops.hardware_flops_per_token(config, 2048) / 1e12, digits) == hardware_tflops


def test_hardware_flops_without_remat_equal_model_flops():
    config = PRESETS["palm-tiny"]
    assert flops.hardware_flops_per_token(config, 256) == flops.model_flops_per_token(config, 256)


def xla_forward_flops(config: ModelConfig, length: int) -> float:
    parameters = {
        name: jax.ShapeDtypeStruct(info.shape, info.dtype)
        for name, info in palm.parameter_info(config).items()
    }
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    lowered = jax.jit(lambda p, t: palm.logits(config, p, t)).lower(parameters, tokens)
    return lowered.compile().cost_analysis()["flops"]


def test_forward_flops_agree_with_xla_within_five_percent():
    # XLA counts the body of a scan once, so a model of one layer needs no correction. It also
    # counts what is not a matrix product, which these sizes keep small.
    length = 128
    config = dataclasses.replace(
        PRESETS["palm-tiny"], num_layers=1, model_dim=256, mlp_dim=1024, num_heads=4, head_dim=64
    )
    formula = flops.forward_flops_per_token(config, length) * length
    assert formula == pytest.approx(xla_forward_flops(config, length), rel=0.05)
