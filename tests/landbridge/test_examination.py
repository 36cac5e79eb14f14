"""`landbridge plan` with --lower and --compile: what is there is measured, what is not is told."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from typing import Any

import pytest
import typer

from landbridge.cli import examination, examined_table
from tests.controller.rig import spec
from tests.landbridge.conftest import Run

COMPONENTS = [
    "accumulate_1", "accumulate_embedding", "apply_update", "backward_1", "digest",
    "embed_backward", "evaluate", "forward", "init",
]  # fmt: skip


@pytest.fixture
def spec_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "spec.json"
    placement = {"mesh": {"data": 2, "model": 2}}
    path.write_text(json.dumps(spec(placement=placement, assume={"device": "tpu-v4"})))
    return str(path)


def planned(device: str | None = None, data: int = 1, model: int = 1) -> dict[str, Any]:
    return {
        "program_request": {"mesh": {"data": data, "model": model}},
        "spec": {"assume": {"device": device}} if device else {},
    }


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    """As where these packages are not installed."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in absent else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.timeout(120)
async def test_lower_lowers_every_component(run: Run, address: str, spec_file: str) -> None:
    ran = await run("plan", spec_file, "--lower", "--json", "--address", address)
    assert ran.code == 0, ran.out
    plan = json.loads(ran.out)
    examined = plan["examined"]
    assert sorted(examined["components"]) == COMPONENTS
    assert all(found["bytes"] > 1000 for found in examined["components"].values())
    assert all(found["seconds"] > 0 for found in examined["components"].values())
    up, down = (examined["components"][name] for name in ("forward", "backward_1"))
    layers = plan["spec"]["exchange"]["segments"]
    flops = 4 * 256 * plan["hardware_flops_per_token"]  # of one slot
    assert up["flops"] + layers * down["flops"] == flops
    assert (up["flops"], down["flops"]) == (up["matrix_flops"], down["matrix_flops"])
    assert 0 < up["xla_flops"] < up["flops"]  # loop bodies once
    need = examined["planned"]["bytes_per_device"]
    assert need["params"] == plan["bytes_per_device"]["params"]
    assert "compiled" not in examined


@pytest.mark.timeout(120)
async def test_lower_is_a_table_behind_the_plan(run: Run, address: str, spec_file: str) -> None:
    ran = await run("plan", spec_file, "--lower", "--address", address)
    plan, _, table = ran.out.partition("\nCOMPONENT")
    assert plan.startswith("PLAN")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
    assert sorted(rows) == COMPONENTS
    assert "+0.0%" in rows["forward"]


async def test_compile_without_the_compiler_says_how_to_install_it(
    run: Run, address: str, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "libtpu")
    ran = await run("plan", spec_file, "--compile", "--address", address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: libtpu not installed here; pip install 'landbridge[model,tpu]'\n"


async def test_lower_without_jax_says_how_to_install_it(
    run: Run, address: str, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "jax", "libtpu")
    ran = await run("plan", spec_file, "--lower", "--json", "--address", address)
    detail = json.loads(ran.out)["error"]["detail"]
    assert ran.code == 1
    assert detail == "jax not installed here; pip install 'landbridge[model]'"


async def test_a_topology_belongs_to_compile(run: Run, address: str, spec_file: str) -> None:
    ran = await run("plan", spec_file, "v4:2x2x1", "--lower", "--address", address)
    assert ran.code == 2
    assert "a topology is what --compile compiles for" in ran.err


@pytest.mark.timeout(300)
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (extra tpu): there is no compiler for TPU",
)
async def test_compile_shows_the_compilers_plan(run: Run, address: str, spec_file: str) -> None:
    ran = await run("plan", spec_file, "--compile", "--address", address)
    assert ran.code == 0, ran.err
    assert "forward, backward_1, embed_backward compiled for v4:2x2x1" in ran.out
    assert "reduce-scatter" in ran.out


async def test_a_compiler_that_refuses_is_quoted(
    run: Run, address: str, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither with the compiler nor without it is there such a topology.
    monkeypatch.setattr(examination, "check_installed", lambda **_: None)
    ran = await run("plan", spec_file, "v0:1x1x1", "--compile", "--json", "--address", address)
    assert ran.code == 1
    detail = json.loads(ran.out)["error"]["detail"]
    assert "no topology 'v0:1x1x1'" in detail or "needs the package libtpu" in detail


@pytest.mark.parametrize(
    ("device", "mesh", "topology"),
    [
        ("tpu-v4", (2, 2), "v4:2x2x1"),
        ("tpu-v4", (4, 4), "v4:2x2x4"),
        ("tpu-v4", (256, 1), "v4:4x8x8"),
        ("tpu-v4", (512, 4), "v4:8x16x16"),
        ("tpu-v4", (256, 12), "v4:12x16x16"),
        ("tpu-v5p", (8, 1), "v5p:2x2x2"),
    ],
)
def test_the_topology_of_a_mesh_is_the_most_compact(
    device: str, mesh: tuple[int, int], topology: str
) -> None:
    assert examination.topology_of(planned(device, *mesh)) == topology


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (planned(None, 2, 2), "assume.device is tpu-v4 or tpu-v5p; this one's is not given"),
        (planned("h100", 2, 2), "this one's is h100"),
        (planned("tpu-v4", 3, 2), "a mesh of 6 devices fills no hosts of four chips"),
    ],
)
def test_a_topology_that_cannot_be_known_is_asked_for(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        examination.topology_of(plan)
    assert words in str(refused.value)


def test_what_was_compiled_stands_beside_what_was_planned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gathers = {"kind": "all-gather", "group": 4, "calls": 3, "bytes": 2_000_000}
    examined_table.show(
        {
            "mesh": [4, 2],
            "components": {},
            "planned": {
                "bytes_per_device": {
                    "params": 1 << 30, "gradients": 1 << 30, "activations": 1 << 31,
                    "total": 4 << 30,
                },
                "pod_traffic": {
                    "gathered_parameters": 2_000_000, "scattered_gradients": 1_000_000,
                    "gathered_activations": 0, "scattered_activations": 0,
                },
            },
            "compiled": {
                "components": {"forward": {}}, "topology": "v4:2x2x2", "seconds": 61.0,
                "compiler_options": {"xla_tpu_some_fusion": False},
                "argument_bytes": 1 << 30, "output_bytes": 1 << 30, "temporary_bytes": 3 << 30,
                "peak_bytes": 5 << 30, "collectives": [gathers],
            },
            "held_in_a_step": {
                "gradient_step": 5 << 30, "optimizer": 2 << 30, "other_gradients": 1 << 30,
                "total": 8 << 30, "device_memory_bytes": 10 << 30,
            },
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "only with LIBTPU_INIT_ARGS=--xla_tpu_some_fusion=false" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["peak,", "all", "5.00", "GiB", "4.00", "GiB", "-20.0%"] in lines
    held = ["held", "by", "a", "device", "8.00", "GiB", "fits:", "80.0%", "of", "10.00", "GiB"]
    assert held in lines
    assert ["all-gather", "4", "(data)", "3", "2", "MB", "2", "MB"] in lines
    assert ["reduce-scatter", "4", "(data)", "0", "0", "B", "1", "MB"] in lines


@pytest.mark.parametrize(
    ("topology", "codes"),
    [
        ("v4:2x2x1", ["LinkBound"]),
        ("v5e:2x2", ["LinkBound", "OutOfMemory"]),
        ("v9:2x2", ["LinkBound"]),
    ],
)
def test_the_compiler_has_the_last_word_on_memory(topology: str, codes: list[str]) -> None:
    """On the devices that were compiled for, whichever the spec assumes."""
    warned = [{"code": code, "message": "", "hint": ""} for code in ("OutOfMemory", "LinkBound")]
    plan = {
        "bytes_per_device": {"optimizer": 12 << 30, "gradients": 3 << 30, "residuals": 0},
        "device_memory_bytes": 64 << 30,
        "warnings": warned,
    }
    compiled = {
        "topology": topology,
        "argument_bytes": 1 << 30, "output_bytes": 1 << 30, "temporary_bytes": 4 << 30,
    }  # fmt: skip
    examined = {"compiled": compiled, "planned": {"bytes_per_device": {"gradients": 1 << 30}}}
    held = examination.held_in_a_step(plan, examined)
    assert held["total"] == sum((6 << 30, 12 << 30, 2 << 30))
    warnings = examination.warnings_of_compiler(plan, held)
    assert [warning["code"] for warning in warnings] == codes
    if "OutOfMemory" in codes:
        assert "20.00 GiB a device of 16.00 GiB" in warnings[-1]["message"]
