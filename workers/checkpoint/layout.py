"""Where a checkpoint lies on disk, and the document that makes it one.

    DIRECTORY/JOB/step-00000050.g2/part-0/...     written by pod 0 of the gang, through Orbax
                                   part-1/...     written by pod 1
                                   manifest.json  written last, when all parts are complete

A folder without a manifest is no checkpoint: whoever dies in between leaves nothing that could be
taken for one. The generation is part of the name, so a job that goes back and comes to the same
step again never writes over what it may still need.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Sequence

FORMAT = "landbridge.checkpoint/1"
MANIFEST = "manifest.json"

_NAME = re.compile(r"step-(\d{8,})\.g(\d+)")


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a checkpoint. `parts` has the names of the arrays in every part, in order."""

    job: str
    step: int
    generation: int
    state_sha256: str
    """Digest of parameters and optimizer state, hex."""
    parts: Sequence[Sequence[str]]
    num_bytes: int


def step_folder(root: pathlib.Path, job: str, step: int, generation: int) -> pathlib.Path:
    return root / job / f"step-{step:08d}.g{generation}"


def part_folder(folder: pathlib.Path, member_index: int) -> pathlib.Path:
    return folder / f"part-{member_index}"


def publish(folder: pathlib.Path, manifest: Manifest) -> None:
    """Make the folder a checkpoint, all at once. Raises OSError, and then it is none."""
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=1)
    unfinished = folder / f"{MANIFEST}.writing"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / MANIFEST)


def read_manifest(folder: pathlib.Path) -> Manifest:
    """What the folder holds. Raises CheckpointError when it is no checkpoint."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document.pop("format")
        if found != FORMAT:
            raise CheckpointError(f"{path} has format {found!r}, this version reads {FORMAT!r}")
        return Manifest(**document)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no checkpoint: it was never finished") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def published(root: pathlib.Path, job: str) -> list[pathlib.Path]:
    """Folders of a job's checkpoints, the one of the last generation's last step last."""
    found = []
    for path in (root / job).glob(f"*/{MANIFEST}"):
        match = _NAME.fullmatch(path.parent.name)
        if match:
            step, generation = map(int, match.groups())
            found.append((generation, step, path.parent))
    return [folder for _, _, folder in sorted(found)]


def remove(folder: pathlib.Path) -> None:
    """Delete a checkpoint. The manifest goes first: half a deletion leaves no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
