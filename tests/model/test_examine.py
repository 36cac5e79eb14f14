import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

import model.examine
from model import topology
from model.config import MeshConfig, ModelConfig, SlotConfig
from model.flops import hardware_flops_per_token
from model.memory import shard_elements
from model.pod_traffic import pod_traffic

ROOT = pathlib.Path(model.examine.__file__).parents[1]

REQUEST = {
    "name": "tiny",
    "model": {"preset": "palm-tiny", "num_layers": 2},
    "train": {"microbatch": 4, "sequence_length": 32},
    "mesh": {"data": 2, "model": 2},
    "platform": "tpu",
}

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (extra tpu): there is no compiler for TPU",
)


def examine(tmp_path, request, *arguments):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    process = subprocess.run(
        [sys.executable, "-m", "model.examine", str(path), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
    )
    return process, json.loads(process.stdout.splitlines()[-1])


def test_examine_measures_every_component(tmp_path):
    process, figures = examine(tmp_path, REQUEST)
    assert process.returncode == 0, process.stderr
    assert (figures["name"], figures["mesh"]) == ("tiny", [2, 2])
    assert sorted(figures["components"]) == [
        "accumulate_1", "accumulate_embedding", "apply_update", "backward_1", "digest",
        "embed_backward", "evaluate", "forward", "init",
    ]  # fmt: skip
    for component in figures["components"].values():
        assert component["seconds"] > 0
        assert component["bytes"] > 1_000
    assert "compiled" not in figures


def test_examine_counts_flops_beside_the_formula_and_plans_the_gradient_step(tmp_path):
    _, figures = examine(tmp_path, REQUEST)
    config = ModelConfig.from_spec(REQUEST["model"])
    mesh, slot = MeshConfig(**REQUEST["mesh"]), SlotConfig.from_spec(REQUEST["train"])
    tokens = slot.microbatch * slot.sequence_length
    up, down = (figures["components"][name] for name in ("forward", "backward_1"))
    assert up["flops"] == up["matrix_flops"]
    assert down["flops"] == down["matrix_flops"]
    flops = up["flops"] + config.num_layers * down["flops"]
    assert flops == tokens * hardware_flops_per_token(config, slot.sequence_length)
    assert 0 < up["xla_flops"] < up["flops"]
    assert "flops" not in figures["components"]["init"]
    need = figures["planned"]["bytes_per_device"]
    assert need["params"] == 4 * shard_elements(config, mesh)
    assert need["total"] == need["params"] + need["gradients"] + need["activations"]
    expected = dataclasses.asdict(pod_traffic(config, slot, mesh))
    assert figures["planned"]["pod_traffic"] == expected


def test_examine_wrong_request_exits_three_with_all_problems(tmp_path):
    wrong = REQUEST | {"mesh": {"data": 3}, "platform": "abacus"}
    process, answer = examine(tmp_path, wrong, "--compile", "v4:2x2x1")
    assert process.returncode == 3, process.stderr
    pointers = [problem["pointer"] for problem in answer["problems"]]
    assert pointers == ["/train/microbatch", "/model/model_dim", "/platform"]


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed: nothing to refuse"
)
def test_examine_compile_without_libtpu_says_how_to_install_it(tmp_path):
    process, answer = examine(tmp_path, REQUEST, "--compile", "v4:2x2x1")
    assert process.returncode == 4, process.stderr
    assert "pip install 'landbridge[model,tpu]'" in answer["error"]


@needs_libtpu
@pytest.mark.timeout(300)
def test_examine_compile_reports_the_compilers_plan(tmp_path):
    hlo = tmp_path / "step.hlo"
    process, figures = examine(tmp_path, REQUEST, "--compile", "v4:2x2x1", "--hlo", str(hlo))
    assert process.returncode == 0, process.stderr
    compiled = figures["compiled"]
    assert hlo.read_text().startswith("HloModule")
    assert list(compiled["components"]) == ["forward", "backward_1", "embed_backward"]
    config = ModelConfig.from_spec(REQUEST["model"])
    parameters = 4 * shard_elements(config, MeshConfig(**REQUEST["mesh"]))
    # Arrays as small as these are padded to the TPU's tiles.
    assert parameters < compiled["argument_bytes"] < 2 * parameters
    assert compiled["peak_bytes"] > compiled["argument_bytes"] + compiled["output_bytes"]
    assert compiled["temporary_bytes"] > 0
    assert compiled["matrix_flops"] > compiled["xla_flops"] > 0
    kinds = {found["kind"] for found in compiled["collectives"]}
    assert "all-gather" in kinds
    assert all(found["bytes"] > 0 < found["calls"] for found in compiled["collectives"])


@needs_libtpu
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("topology", "error"),
    [("v4:2x2x2", "has 8 devices and the mesh 2 x 2 = 4"), ("v4", "no topology 'v4'")],
)
def test_examine_topology_that_does_not_fit_is_refused(tmp_path, topology, error):
    process, answer = examine(tmp_path, REQUEST, "--compile", topology)
    assert process.returncode == 4, process.stderr
    assert error in answer["error"]


class Refusing:
    """A program that the compiler does not take as it is."""

    def __init__(self, complaint):
        self._complaint = complaint

    def compile(self, compiler_options=None):
        if not compiler_options:
            raise jax.errors.JaxRuntimeError(self._complaint)
        return "compiled"


def test_a_fusion_the_compiler_lacks_is_left_out_and_told():
    odd = "UNIMPLEMENTED: Encountered AllReduce fusion with 3 sized replica_groups, which is odd"
    options = {"xla_tpu_enable_all_reduce_scatter_fusion": False}
    assert topology.compile_lowered(Refusing(odd)) == ("compiled", options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        topology.compile_lowered(Refusing("out of memory"))
