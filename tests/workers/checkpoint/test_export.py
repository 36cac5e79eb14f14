"""What is exported is what was trained, to the bit, or nothing is."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from model import palm
from model.config import ModelConfig
from workers.checkpoint import export as exporting
from workers.checkpoint import layout
from workers.checkpoint.export import Exported, ExportError, export, plan_shards
from workers.checkpoint.layout import CheckpointError
from workers.checkpoint.share import shares
from workers.checkpoint.writer import PartWriter

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "export.md"
TINY: dict[str, Any] = {
    "num_layers": 2, "model_dim": 16, "num_heads": 3, "head_dim": 8, "vocab_size": 40,
    "mlp_dim": 24, "compute_dtype": "float32", "param_dtype": "float32",
}  # fmt: skip
SHA256 = "ab" * 32


def checkpoint(
    root: pathlib.Path,
    arrays: dict[str, jax.Array],
    members: int = 2,
    prefixes: tuple[str, str] = ("params", "optimizer/momentum"),
) -> pathlib.Path:
    """A published one of these parameters, and of what an optimizer keeps."""
    state = {f"{prefixes[0]}/{name}": array for name, array in arrays.items()}
    state |= {f"{prefixes[1]}/{name}": 2 * array for name, array in arrays.items()}
    state["optimizer/steps"] = jnp.int32(50)
    folder = layout.step_folder(root, "job-1", 50, 2)
    sizes = {name: array.nbytes for name, array in state.items()}
    for index, names in enumerate(shares(sizes, members)):
        writer = PartWriter("test")
        writer.write(folder, index, {name: state[name] for name in names})
        writer.close()
    layout.publish(root, "job-1", 50, 2, members, SHA256)
    return folder


@functools.cache
def _initial() -> dict[str, jax.Array]:
    return palm.initial_parameters(ModelConfig(**TINY), jnp.uint32(1))


def parameters() -> dict[str, jax.Array]:
    return dict(_initial())


def files(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def metadata(path: pathlib.Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata()


@pytest.mark.parametrize("members", [1, 2, 3])
def test_parameters_come_out_to_the_bit_and_nothing_else(
    tmp_path: pathlib.Path, members: int
) -> None:
    held = parameters()
    done = export(checkpoint(tmp_path, held, members), tmp_path / "out", {"model": TINY})
    assert files(tmp_path / "out") == ["config.json", "model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == held.keys()
    for name, array in held.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.asarray(array).tobytes()
    size = sum(array.size for array in held.values())
    names = ["config.json", "model.safetensors"]
    assert done == Exported("job-1", 50, SHA256, names, size, 4 * size)


def test_an_anchor_stands_for_the_parameters_of_pods_that_differ(tmp_path: pathlib.Path) -> None:
    held = parameters()
    prefixes = ("outer/anchor", "outer/momentum")
    export(checkpoint(tmp_path, held, prefixes=prefixes), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(found) == sorted(held)
    for name, array in held.items():
        np.testing.assert_array_equal(found[name], np.asarray(array))


def test_where_it_came_from_goes_with_it(tmp_path: pathlib.Path) -> None:
    config = {"model": TINY, "step": "a user's own"}
    export(checkpoint(tmp_path, parameters()), tmp_path / "out", config)
    origin = {"format": "landbridge", "job": "job-1", "step": "50", "state_sha256": SHA256}
    assert metadata(tmp_path / "out" / "model.safetensors") == origin
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {"model": TINY, **origin, "step": 50}


def test_bfloat16_and_scalars_keep_their_bits(tmp_path: pathlib.Path) -> None:
    values = np.random.default_rng(1).standard_normal((6, 5))
    held = {"half": jnp.asarray(values, jnp.bfloat16), "scalar": jnp.float32(0.1)}
    export(checkpoint(tmp_path, held), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, array in held.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.asarray(array).tobytes()


def test_arrays_of_several_devices_come_out_whole(tmp_path: pathlib.Path) -> None:
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    export(checkpoint(tmp_path, {"a": jax.device_put(values, placed)}), tmp_path / "out")
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "model.safetensors")["a"], values)


def test_a_large_model_is_several_files_and_an_index(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = parameters()
    most = max(array.nbytes for array in held.values())
    read = exporting._Source.read
    in_memory: list[int] = []
    write = exporting._write_arrays

    def watched(path: pathlib.Path, arrays: dict[str, np.ndarray], origin: Any) -> None:
        in_memory.append(sum(array.nbytes for array in arrays.values()))
        assert len(reads) == len(arrays), "a shard is read before the last one is written"
        reads.clear()
        write(path, arrays, origin)

    reads: list[str] = []
    monkeypatch.setattr(exporting, "_write_arrays", watched)
    monkeypatch.setattr(
        exporting._Source, "read", lambda self, name: reads.append(name) or read(self, name)
    )
    export(checkpoint(tmp_path, held), tmp_path / "out", {"model": TINY}, most)
    assert max(in_memory) <= most
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    total = sum(array.nbytes for array in held.values())
    assert index["metadata"]["total_size"] == total == sum(in_memory)
    assert index["weight_map"].keys() == held.keys()
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [
        f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)
    ]
    assert len(shards) > 1
    assert files(tmp_path / "out") == sorted(
        ["config.json", "model.safetensors.index.json", *shards]
    )
    for name, array in held.items():
        shard = load_file(tmp_path / "out" / index["weight_map"][name])
        assert shard[name].tobytes() == np.asarray(array).tobytes()


def test_shards_are_full_but_never_over() -> None:
    assert plan_shards({"b": 3, "a": 4, "c": 3, "d": 9, "e": 1}, 7) == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
    ]
    assert plan_shards({"a": 4, "b": 3}, 7) == [["a", "b"]]


@pytest.mark.parametrize("remains", [0.5, 0.0])
def test_a_damaged_checkpoint_is_refused_and_nothing_written(
    tmp_path: pathlib.Path, remains: float
) -> None:
    folder = checkpoint(tmp_path, parameters())
    stored = [path for path in folder.rglob("d/*") if path.is_file()]
    largest = max(stored, key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    if remains:
        largest.write_bytes(data[: int(remains * len(data))])
    else:
        largest.unlink()
    with pytest.raises(CheckpointError, match=rf"damaged: .*{largest.name} .* of {len(data)}"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_never_finished_is_refused(tmp_path: pathlib.Path) -> None:
    folder = checkpoint(tmp_path, parameters())
    (folder / layout.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        export(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="never finished"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_a_checkpoint_without_parameters_is_refused(tmp_path: pathlib.Path) -> None:
    folder = checkpoint(tmp_path, {})
    with pytest.raises(CheckpointError, match="holds no parameters"):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "there",
    ["config.json", "model.safetensors", "model.safetensors.index.json",
     "model-00001-of-00002.safetensors"],
)  # fmt: skip
def test_what_is_there_is_never_written_over(tmp_path: pathlib.Path, there: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / there).write_text("mine")
    with pytest.raises(ExportError, match=rf"already has {there}; name another folder"):
        export(checkpoint(tmp_path, parameters()), out)
    assert files(out) == [there]
    assert (out / there).read_text() == "mine"


def test_an_export_that_fails_half_way_leaves_the_folder_as_it_was(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    folder = checkpoint(tmp_path, parameters())
    write = exporting._write_arrays
    seen: list[list[str]] = []

    def full(path: pathlib.Path, arrays: dict[str, np.ndarray], origin: Any) -> None:
        if seen:
            raise OSError(28, "No space left on device")
        write(path, arrays, origin)
        seen.append([name for name in files(out) if not name.startswith(".")])

    monkeypatch.setattr(exporting, "_write_arrays", full)
    with pytest.raises(OSError, match="No space left"):
        export(folder, out, max_shard_bytes=1000)
    # Not even what was complete is where a reader would find it.
    assert seen == [["notes.txt"]]
    assert files(out) == ["notes.txt"]
    monkeypatch.undo()
    export(folder, out)
    assert files(out) == ["config.json", "model.safetensors", "notes.txt"]


def command(*arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": ""}
    module = [sys.executable, "-m", "workers.checkpoint.export"]
    return subprocess.run(
        [*module, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_the_command_answers_in_json_or_with_one_error(tmp_path: pathlib.Path) -> None:
    folder = checkpoint(tmp_path, parameters())
    config, out = tmp_path / "given.json", tmp_path / "out"
    config.write_text(json.dumps({"model": TINY}))
    done = command(folder, out, "--config", config, "--max-shard-bytes", "2000")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert sorted(answer["files"]) == files(out)
    assert len(answer["files"]) > 3
    assert json.loads((out / "config.json").read_text())["model"] == TINY
    again = command(folder, out)
    assert (again.returncode, again.stdout) == (1, "")
    assert re.fullmatch(r"error: .* already has config\.json; .*\n", again.stderr)


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_a_config_that_is_no_object_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    config = tmp_path / "given.json"
    config.write_text(text)
    folder, out = checkpoint(tmp_path, {}), tmp_path / "out"
    assert exporting.main([str(folder), str(out), "--config", str(config)]) == 1
    assert not out.exists()


@pytest.mark.parametrize("length", [1, 9])
def test_the_equations_in_the_document_are_the_model(tmp_path: pathlib.Path, length: int) -> None:
    """The document's program reads an export and comes to the logits that training had."""
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    held = parameters()
    # Norms begin with scales of one, which no mistake about them would show.
    held |= {
        name: array * jnp.linspace(0.5, 2.0, array.shape[-1])
        for name, array in held.items()
        if name.endswith("scale")
    }
    export(checkpoint(tmp_path, held), tmp_path / "out", {"model": TINY})
    names: dict[str, Any] = {}
    exec(program, names)
    tokens = np.random.default_rng(2).integers(0, TINY["vocab_size"], length, dtype=np.int32)
    expected = palm.logits(ModelConfig(**TINY), held, tokens[None])[0]
    found = names["logits"](tmp_path / "out", tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
