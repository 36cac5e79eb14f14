import subprocess
import sys

import pytest

from model.config import (
    PRESETS,
    AdafactorConfig,
    AdamWConfig,
    ModelConfig,
    optimizer_from_spec,
    problems,
)


def request(**sections):
    return {
        "model": {"preset": "palm-tiny"},
        "train": {"microbatch": 4, "sequence_length": 256},
        "mesh": {"data": 2, "model": 1},
    } | sections


def pointers(found):
    return sorted(problem.pointer for problem in found)


def test_problems_sound_request_finds_none():
    assert problems(request()) == []


@pytest.mark.parametrize("mesh", [{"data": 256, "model": 12}, {"data": 64, "model": 8}])
def test_problems_palm_540b_on_its_own_mesh_finds_none(mesh):
    train = {"microbatch": 1024, "sequence_length": 2048}
    assert problems(request(model={"preset": "palm-540b"}, train=train, mesh=mesh)) == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {"preset": "palm-tiny", "num_layer": 3}}, ["/model/num_layer"]),
        ({"model": {"preset": "palm-tony"}}, ["/model/preset"]),
        ({"model": {"preset": ["palm-tiny"]}}, ["/model/preset"]),
        ({"model": {"preset": "palm-tiny", "num_layers": 0}}, ["/model/num_layers"]),
        ({"model": {"preset": "palm-tiny", "num_layers": True}}, ["/model/num_layers"]),
        ({"model": {"preset": "palm-tiny", "num_layers": 2.5}}, ["/model/num_layers"]),
        ({"model": {"preset": "palm-tiny", "num_layers": 10**400}}, ["/model/num_layers"]),
        ({"model": {"preset": "palm-tiny", "head_dim": 33}}, ["/model/head_dim"]),
        ({"model": {"preset": "palm-tiny", "remat": "ful"}}, ["/model/remat"]),
        ({"model": {"preset": "palm-tiny", "remat": {}}}, ["/model/remat"]),
        ({"model": "palm-tiny"}, ["/model"]),
        ({"train": {"microbatch": 3, "sequence_length": 256}}, ["/train/microbatch"]),
        ({"train": {}}, ["/train/microbatch", "/train/sequence_length"]),
        (
            {"mesh": {"data": 1, "model": 3}},
            ["/model/mlp_dim", "/model/model_dim", "/model/num_heads"],
        ),
        ({"mesh": {"data": 1, "tensor": 3}}, ["/mesh/tensor"]),
        ({"mesh": {"data": 1, "a/b": 3}}, ["/mesh/a~1b"]),
        ({"exchange": {"segments": 0}}, ["/exchange/segments"]),
        ({"exchange": {"segments": "all"}}, ["/exchange/segments"]),
        ({"exchange": {"segments": 5}}, ["/exchange/segments"]),
        ({"exchange": {"segments": 4, "dtype": "float32"}}, []),
        ({"exchange": {"segments": None}}, []),
        ({"exchange": 4}, ["/exchange"]),
    ],
)  # fmt: skip
def test_problems_wrong_value_points_at_it(sections, expected):
    assert pointers(problems(request(**sections))) == expected


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"kind": "sgd"}, "/train/optimizer/kind"),
        ({"kind": ["adamw"]}, "/train/optimizer/kind"),
        ({"kind": "adamw", "beta2": 1.0}, "/train/optimizer/beta2"),
        ({"kind": "adamw", "beta2_exponent": 0.8}, "/train/optimizer/beta2_exponent"),
        ({"learning_rate": float("nan")}, "/train/optimizer/learning_rate"),
        ({"learning_rate": "fast"}, "/train/optimizer/learning_rate"),
        ("adamw", "/train/optimizer"),
    ],
)
def test_problems_wrong_optimizer_points_at_it(optimizer, expected):
    train = {"microbatch": 4, "sequence_length": 256, "optimizer": optimizer}
    assert pointers(problems(request(train=train))) == [expected]


def test_problems_many_mistakes_are_all_found_at_once():
    found = problems(
        request(model={"preset": "palm-tiny", "vocab": 1, "num_heads": -1}, train={"microbatch": 0})
    )
    assert pointers(found) == [
        "/model/num_heads",
        "/model/vocab",
        "/train/microbatch",
        "/train/sequence_length",
    ]


def test_problems_unknown_field_suggests_the_nearest():
    (found,) = problems(request(model={"preset": "palm-tiny", "num_layer": 3}))
    assert found.hint == "did you mean 'num_layers'?"


def test_problems_mesh_elsewhere_is_named_as_the_caller_says():
    (found,) = problems(request(mesh={"data": 0}), mesh_pointer="/placement/mesh")
    assert found.pointer == "/placement/mesh/data"


def test_problems_mesh_that_does_not_divide_names_both_numbers():
    (found,) = problems(request(train={"microbatch": 3, "sequence_length": 8}))
    assert found.detail == "3 is not divisible by /mesh/data = 2"


def test_problems_more_segments_than_layers_name_both_numbers():
    (found,) = problems(request(exchange={"segments": 5}))
    assert found.detail == "5 segments of 4 layers (/model/num_layers)"
    assert found.hint == "from 1 to 4, or leave it out"


def test_from_spec_preset_with_override_keeps_the_rest():
    config = ModelConfig.from_spec({"preset": "palm-8b", "num_layers": 2})
    assert (config.num_layers, config.model_dim) == (2, PRESETS["palm-8b"].model_dim)


def test_from_spec_model_dim_override_carries_mlp_dim_along():
    assert ModelConfig.from_spec({"preset": "palm-tiny", "model_dim": 64}).mlp_dim == 256
    spec = {"preset": "palm-tiny", "model_dim": 64, "mlp_dim": 100}
    assert ModelConfig.from_spec(spec).mlp_dim == 100


def test_optimizer_from_spec_without_kind_is_adafactor():
    assert optimizer_from_spec({}) == AdafactorConfig()
    assert optimizer_from_spec({"kind": "adamw", "beta1": 0.8}) == AdamWConfig(beta1=0.8)


def test_config_and_flops_import_without_jax_or_numpy():
    code = (
        "import sys, model.config, model.flops; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "set()"
