"""`landbridge export` finds the checkpoint it is asked for, or says what to give it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.core.checkpoint import Saved
from landbridge.client import Client
from tests.controller.rig import Rig, spec
from tests.landbridge.conftest import Ran, Run

SHA256 = "ab" * 32

Make = Callable[..., Any]
"""Submits a job that writes checkpoints; returns Trained."""


@dataclasses.dataclass
class Trained:
    """A job that the controller knows, and how to save and export its state."""

    id: str
    directory: pathlib.Path
    save: Callable[..., pathlib.Path]
    export: Callable[..., Any]


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def trained(
    run: Run,
    address: str,
    controller: Rig,
    home: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    """Submits a job; its checkpoints are what is saved, whatever its pods did."""
    saved: list[dict[str, Any]] = []
    monkeypatch.setattr(Client, "checkpoints", lambda self, job_id: {"checkpoints": saved})

    async def make(*, directory: pathlib.Path | None = None, **sections: Any) -> Trained:
        checkpoint = {"every": 10, **({"directory": str(directory)} if directory else {})}
        job_id = await controller.submit(spec(checkpoint=checkpoint, **sections))
        place = directory or tmp_path / "elsewhere"

        def save(step: int, generation: int = 1, root: pathlib.Path = place) -> pathlib.Path:
            saved.append({"step": step, "generation": generation, "state_sha256": SHA256})
            return write(root, job_id, step, generation)

        async def export(*arguments: str) -> Ran:
            out = str(tmp_path / "out")
            return await run("export", job_id, "--out", out, "--address", address, *arguments)

        return Trained(job_id, place, save, export)

    return make


def write(root: pathlib.Path, job: str, step: int, generation: int) -> pathlib.Path:
    """A checkpoint whose one parameter is full of the step's number."""
    # Only now: other tests say how many devices jax has before they import it.
    import jax.numpy as jnp

    from workers.checkpoint import layout
    from workers.checkpoint.writer import PartWriter

    folder = layout.step_folder(root, job, step, generation)
    writer = PartWriter("test")
    state = {"params/a": jnp.full((2, 3), step, jnp.float32), "optimizer/a": jnp.ones((2, 3))}
    writer.write(folder, 0, state)
    writer.close()
    layout.publish(root, job, step, generation, 1, SHA256)
    return folder


def exported(tmp_path: pathlib.Path) -> np.ndarray:
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "out" / "model.safetensors")
    assert list(arrays) == ["a"]
    return arrays["a"]


def test_what_is_asked_of_a_checkpoint_is_in_the_api() -> None:
    names = {field.name for field in dataclasses.fields(Saved)}
    assert {"step", "generation", "state_sha256"} <= names


async def test_the_newest_is_exported_from_where_the_spec_says(
    trained: Make, tmp_path: pathlib.Path
) -> None:
    job = await trained(directory=tmp_path / "shared")
    job.save(10)
    job.save(20, generation=2)
    ran = await job.export()
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'out'}\n")
    assert ran.err == "exported 6 parameters of step 20, 24 B in 2 files:\n"
    np.testing.assert_array_equal(exported(tmp_path), np.full((2, 3), 20, np.float32))


async def test_a_step_can_be_named(trained: Make, tmp_path: pathlib.Path) -> None:
    job = await trained(directory=tmp_path / "shared")
    job.save(10)
    job.save(20)
    ran = await job.export("--step", "15")
    assert ran.code == 4
    assert "no checkpoint of step 15; there are those of 10, 20" in ran.err
    ran = await job.export("--step", "10", "--json")
    assert ran.code == 0
    answer = json.loads(ran.out)
    assert (answer["job"], answer["step"]) == (job.id, 10)
    assert (answer["state_sha256"], answer["folder"]) == (SHA256, str(tmp_path / "out"))
    np.testing.assert_array_equal(exported(tmp_path), np.full((2, 3), 10, np.float32))


async def test_the_model_is_written_out_in_full(trained: Make, tmp_path: pathlib.Path) -> None:
    model = {"preset": "palm-tiny", "model_dim": 64}
    job = await trained(directory=tmp_path / "shared", model=model)
    job.save(10)
    assert (await job.export()).code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "preset" not in config["model"]
    known = ("num_layers", "model_dim", "mlp_dim", "vocab_size")
    assert [config["model"][name] for name in known] == [4, 64, 256, 288]
    assert config["tokenizer"] == {"kind": "bytes"}
    assert (config["sequence_length"], config["job"], config["step"]) == (256, job.id, 10)


async def test_without_a_directory_in_the_spec_the_usual_place_is_looked_at(
    trained: Make, home: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = await trained()
    job.save(10)
    ran = await job.export()
    assert ran.code == 4
    assert "the spec names no checkpoint.directory" in ran.err
    assert "give --directory STATE_DIR/checkpoints" in ran.err
    write(home / ".landbridge" / "checkpoints", job.id, 10, 1)
    assert (await job.export()).code == 0
    assert exported(tmp_path).shape == (2, 3)


async def test_a_given_directory_wins(trained: Make, tmp_path: pathlib.Path) -> None:
    job = await trained(directory=tmp_path / "shared")
    moved = tmp_path / "moved"
    job.save(10, root=moved)
    ran = await job.export()
    assert ran.code == 4
    assert f"no folder {tmp_path / 'shared'} on this machine" in ran.err
    assert (await job.export("--directory", str(moved))).code == 0
    ran = await job.export("--directory", str(tmp_path))
    assert ran.code == 4
    assert f"{tmp_path / job.id}/step-00000010.g1 is not there" in ran.err


async def test_a_job_without_checkpoints_has_nothing_to_export(trained: Make) -> None:
    job = await trained()
    ran = await job.export("--json")
    assert ran.code == 4
    assert "has no checkpoint" in json.loads(ran.out)["error"]["detail"]


async def test_an_unknown_job_is_4(run: Run, address: str, tmp_path: pathlib.Path) -> None:
    ran = await run("export", "nobody", "--out", str(tmp_path / "out"), "--address", address)
    assert (ran.code, ran.out) == (4, "")


async def test_the_state_of_another_job_is_refused(trained: Make, tmp_path: pathlib.Path) -> None:
    job = await trained(directory=tmp_path / "shared")
    manifest = job.save(10) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(SHA256, "cd" * 32))
    ran = await job.export()
    assert ran.code == 1
    assert "its digest is cdcdcdcdcdcdcdcd, and the job's abababababababab" in ran.err
    manifest.unlink()
    ran = await job.export()
    assert ran.code == 1
    assert "never finished" in ran.err
    assert not (tmp_path / "out").exists()


async def test_what_the_exporter_refuses_is_told(trained: Make, tmp_path: pathlib.Path) -> None:
    job = await trained(directory=tmp_path / "shared")
    folder = job.save(10)
    assert (await job.export()).code == 0
    ran = await job.export()
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {tmp_path / 'out'} already has config.json")
    stored = max((folder / "part-0").rglob("d/*"), key=lambda path: path.stat().st_size)
    stored.write_bytes(b"")
    ran = await job.export("--json", "--out", str(tmp_path / "other"))
    assert ran.code == 1
    assert "damaged" in json.loads(ran.out)["error"]["detail"]
    assert not (tmp_path / "other").exists()


async def test_without_the_worker_it_says_what_to_install(
    trained: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await trained(directory=tmp_path / "shared")
    job.save(10)
    monkeypatch.setitem(sys.modules, "workers.checkpoint.layout", None)
    ran = await job.export()
    assert ran.code == 1
    assert "pip install 'landbridge[model,worker]'" in ran.err
