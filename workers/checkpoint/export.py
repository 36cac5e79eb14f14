"""Writes the parameters of a checkpoint as safetensors, for other tools to read.

    python -m workers.checkpoint.export CHECKPOINT_FOLDER OUT_FOLDER [--config FILE.json]

Knows no program: names, shapes and dtypes are those in the checkpoint, and the optimizer's state
stays behind. docs/export.md tells what is in the files. One shard at a time is in host memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.checkpoint.layout import (
    CheckpointError,
    Manifest,
    check_part,
    part_folder,
    read_manifest,
)
from workers.checkpoint.writer import key_of

PARAMETERS = ("params/", "outer/anchor/")
"""What names of parameters begin with in a checkpoint, and not in what is exported; the anchor of
pods that train on their own is what stands for their parameters."""

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 << 30


class ExportError(Exception):
    """Nothing was exported; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and of what."""

    job: str
    step: int
    state_sha256: str
    """Digest of parameters and optimizer state, hex."""
    files: Sequence[str]
    num_parameters: int
    num_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored:
    """Where an array lies in a checkpoint, and how large it is."""

    part: pathlib.Path
    key: str
    metadata: Any
    """Orbax's, with shape and dtype."""

    @property
    def size(self) -> int:
        return int(np.prod(self.metadata.shape, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        return self.size * np.dtype(self.metadata.dtype).itemsize


def export(
    checkpoint: pathlib.Path,
    out: pathlib.Path,
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Exported:
    """Export a published checkpoint; `config` is laid into config.json.

    Everything is written beside its place and moved there when it is complete, so that `out` has
    either nothing of an export or all of it. Raises CheckpointError when the checkpoint is
    damaged, ExportError when `out` already holds a model, OSError.
    """
    manifest = read_manifest(checkpoint)
    _check_free(out)
    for index in range(len(manifest.parts)):
        check_part(checkpoint, index)
    source = _Source(checkpoint, manifest)
    stored = source.parameters
    sizes = {name: array.num_bytes for name, array in stored.items()}
    plan = plan_shards(sizes, max_shard_bytes)
    # The names that other tools look for.
    pattern = "model-{:05d}-of-{:05d}.safetensors" if len(plan) > 1 else "model.safetensors"
    shards = {pattern.format(number, len(plan)): names for number, names in enumerate(plan, 1)}
    of = {"job": manifest.job, "step": manifest.step, "state_sha256": manifest.state_sha256}
    origin = {"format": "landbridge", **of}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=out) as folder:
        beside = pathlib.Path(folder)
        for file, names in shards.items():
            # No name for the arrays here: it would hold them while the next are read.
            _write_arrays(beside / file, {name: source.read(name) for name in names}, origin)
        _write_document(beside / CONFIG, {**(config or {}), **origin})
        files = [CONFIG, *shards]
        if len(shards) > 1:
            places = {name: file for file, names in shards.items() for name in names}
            totals = {"total_size": sum(sizes.values())}
            _write_document(beside / INDEX, {"metadata": totals, "weight_map": places})
            # Moved last: whoever finds it finds what it names.
            files.append(INDEX)
        for file in files:
            (beside / file).rename(out / file)
        _sync(out)
    num_parameters = sum(array.size for array in stored.values())
    return Exported(**of, files=files, num_parameters=num_parameters, num_bytes=sum(sizes.values()))


def plan_shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names of the arrays of every file, in order; sizes and `most` are bytes.

    No file has more than `most`, except one with a single array that is larger: arrays are not cut.
    """
    shards: list[list[str]] = []
    room = 0
    for name in sorted(sizes):
        if not shards or sizes[name] > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= sizes[name]
    return shards


class _Source:
    """The parameters of a checkpoint, read one by one."""

    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        import orbax.checkpoint as ocp

        self._orbax: Any = ocp
        self._handler: Any = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
        self.parameters: dict[str, _Stored] = {}
        """By the names they are exported under."""
        for index, names in enumerate(manifest.parts):
            mine = [name for name in names if name.startswith(PARAMETERS)]
            if mine:
                self._find(part_folder(folder, index), mine)
        if not self.parameters:
            begin = " or ".join(PARAMETERS)
            raise CheckpointError(f"{folder} holds no parameters: no name begins with {begin}")

    def read(self, name: str) -> np.ndarray:
        """On the host, in rows. Raises CheckpointError."""
        stored = self.parameters[name]
        arguments = self._orbax.args.PyTreeRestore(
            {stored.key: stored.metadata},
            restore_args={stored.key: self._orbax.RestoreArgs(restore_type=np.ndarray)},
            partial_restore=True,
        )
        try:
            found = self._handler.restore(stored.part, args=arguments)[stored.key]
        except Exception as error:  # Orbax and TensorStore raise many kinds on damaged files
            raise _damaged(stored.part, error) from error
        # safetensors takes the memory as it lies.
        return np.require(found, requirements="C")

    def _find(self, part: pathlib.Path, names: Sequence[str]) -> None:
        try:
            tree = self._handler.metadata(part).tree
            for name in names:
                key = key_of(name)
                prefix = next(prefix for prefix in PARAMETERS if name.startswith(prefix))
                self.parameters[name.removeprefix(prefix)] = _Stored(part, key, tree[key])
        except Exception as error:
            raise _damaged(part, error) from error


def _damaged(part: pathlib.Path, error: Exception) -> CheckpointError:
    reason = next(iter(str(error).strip().splitlines()), "")[:300]
    return CheckpointError(f"{part} is damaged: {type(error).__name__}: {reason}")


def _check_free(out: pathlib.Path) -> None:
    """Another export is never overwritten, nor mixed with this one."""
    there = [*out.glob("model*.safetensors*"), *out.glob(CONFIG)]
    if there:
        raise ExportError(f"{out} already has {min(there).name}; name another folder, or empty it")


def _write_arrays(
    path: pathlib.Path, arrays: dict[str, np.ndarray], origin: Mapping[str, Any]
) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path, {key: str(value) for key, value in origin.items()})
    _sync(path)


def _write_document(path: pathlib.Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: pathlib.Path) -> None:
    """A file's bytes, or a folder's names, survive a loss of power from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_config(path: pathlib.Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path else {}
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path} is no JSON object: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; one line of JSON on stdout, or one of what is wrong on stderr and the status 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.checkpoint.export")
    parser.add_argument("checkpoint", type=pathlib.Path, help="a folder with a manifest.json")
    parser.add_argument("out", type=pathlib.Path, help="the folder to write to")
    parser.add_argument("--config", type=pathlib.Path, help="JSON to lay into config.json")
    parser.add_argument("--max-shard-bytes", type=int, default=MAX_SHARD_BYTES, help="of a file")
    given = parser.parse_args(arguments)
    try:
        config = _read_config(given.config)
        done = export(given.checkpoint.absolute(), given.out, config, given.max_shard_bytes)
    except (CheckpointError, ExportError, OSError) as error:
        wrong = str(error)
    except ImportError as error:
        wrong = f"{error.name} is not installed here; pip install 'landbridge[model,worker]'"
    else:
        sys.stdout.write(json.dumps(dataclasses.asdict(done)) + "\n")
        return 0
    sys.stderr.write(f"error: {wrong}\n")
    return 1


if __name__ == "__main__":
    import jax

    # An export needs no accelerator, and must not take one from a job.
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())
