"""The command that hands a trained model to other tools. It reads a checkpoint from this machine's
storage, in a process of its own, and needs what a worker needs.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Annotated, Any

import typer

from landbridge import figures
from landbridge.cli import output
from landbridge.cli.options import Address, JobId, Json, client
from landbridge.cli.processes import DEFAULT_STATE_DIR
from landbridge.errors import LandbridgeError, NotFound, NotInstalled

Document = dict[str, Any]


def export(
    job_id: JobId,
    out: Annotated[pathlib.Path, typer.Option(file_okay=False, help="The folder to write to.")],
    step: Annotated[
        int | None, typer.Option(min=1, help="Of a checkpoint; else the newest one.")
    ] = None,
    directory: Annotated[
        pathlib.Path | None,
        typer.Option(file_okay=False, help="Where checkpoints lie, if not where the spec says."),
    ] = None,
    max_shard_bytes: Annotated[int, typer.Option(min=1, help="Of one file.")] = 5 << 30,
    address: Address = "",
    json: Json = False,
) -> int:
    """Write a checkpoint's parameters as safetensors, with a config.json, for other tools."""
    with client(address) as api:
        job = api.job(job_id)
        saved = _chosen(job["name"], api.checkpoints(job["id"])["checkpoints"], step)
        spec = api.spec(job["id"])["normalised"]
    folder = _folder(_directory(spec, directory), job["id"], saved)
    done = _run(folder, out, _config(spec), max_shard_bytes)
    return output.answer({**done, "folder": str(out)}, json, _show_exported)


COMMANDS = (export,)


def _chosen(name: str, checkpoints: list[Document], step: int | None) -> Document:
    """The newest checkpoint, or that of the step; raises NotFound."""
    if not checkpoints:
        raise _not_found(f"{name} has no checkpoint; `landbridge checkpoint` has one written soon")
    if step is None:
        return checkpoints[-1]
    for saved in checkpoints:
        if saved["step"] == step:
            return saved
    steps = ", ".join(str(saved["step"]) for saved in checkpoints)
    raise _not_found(f"{name} has no checkpoint of step {step}; there are those of {steps}")


def _directory(spec: Document, given: pathlib.Path | None) -> pathlib.Path:
    """Where checkpoints of the job lie, as far as can be known here; raises NotFound."""
    named = (spec.get("checkpoint") or {}).get("directory")
    usual = DEFAULT_STATE_DIR.expanduser() / "checkpoints"
    directory = given or (pathlib.Path(named) if named else usual)
    if directory.is_dir():
        return directory
    if given or named:
        raise _not_found(
            f"there is no folder {directory} on this machine; run this where the hosts' storage "
            "is, or name the folder that has a folder of the job in it: --directory DIR"
        )
    raise _not_found(
        "the spec names no checkpoint.directory, so checkpoints lie in the hosts' state folder, "
        f"which is not {usual.parent} on this machine; give --directory STATE_DIR/checkpoints, "
        "with the --state-dir that `landbridge up` or `landbridge worker` was given"
    )


def _folder(directory: pathlib.Path, job_id: str, saved: Document) -> pathlib.Path:
    """The folder of a checkpoint; raises NotFound where it is not, or holds other bits."""
    # Only now: `landbridge --help` needs none of this.
    try:
        from workers.checkpoint.layout import CheckpointError, read_manifest, step_folder
    except ImportError as error:
        detail = f"{error.name} is not installed here; pip install 'landbridge[model,worker]'"
        raise NotInstalled(detail) from error
    folder = step_folder(directory, job_id, saved["step"], saved["generation"])
    if not folder.is_dir():
        raise _not_found(f"{folder} is not there; name the folder of checkpoints: --directory DIR")
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        raise LandbridgeError("checkpoint", str(error)) from error
    if manifest.state_sha256 != saved["state_sha256"]:
        raise LandbridgeError(
            "checkpoint",
            f"{folder} is another state than the job's: its digest is "
            f"{manifest.state_sha256[:16]}, and the job's {saved['state_sha256'][:16]}; "
            "name the folder of this controller's checkpoints: --directory DIR",
        )
    return folder


def _config(spec: Document) -> Document:
    """What a reader of the model must know beside its parameters."""
    return {
        "model": spec["model"],
        "tokenizer": spec["data"]["tokenizer"],
        "sequence_length": spec["train"]["sequence_length"],
    }


def _run(
    folder: pathlib.Path, out: pathlib.Path, config: Document, max_shard_bytes: int
) -> Document:
    """The exporter's answer. jax and Orbax, which it needs, stay out of this process."""
    # Only now: other commands need none of this.
    import subprocess
    import tempfile

    command = [sys.executable, "-m", "workers.checkpoint.export", str(folder), str(out)]
    command += ["--max-shard-bytes", str(max_shard_bytes)]
    with tempfile.TemporaryDirectory(prefix="landbridge-export-") as beside:
        path = pathlib.Path(beside) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        command += ["--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise LandbridgeError("export", said[-1].removeprefix("error: "))
    return json.loads(done.stdout)


def _show_exported(done: Document) -> None:
    output.say(
        f"exported {figures.amount(done['num_parameters'])} parameters of step {done['step']}, "
        f"{figures.amount(done['num_bytes'], 'B')} in {len(done['files'])} files:"
    )
    print(done["folder"])


def _not_found(detail: str) -> NotFound:
    problem = LandbridgeError("not-found", detail).problem
    return NotFound(404, problem, {})
