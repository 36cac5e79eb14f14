"""Where a checkpoint lies on disk, and the document that makes it one.

    DIRECTORY/JOB/step-00000050.g2/part-0/...     written by pod 0 of the gang, through Orbax
                                   part-0.json    what is in it, written when it is complete
                                   part-1/...     written by pod 1
                                   part-1.json
                                   manifest.json  written last, when all parts are complete

A part has this pod's share of what all pods hold alike, and all that is its pod's alone (member
state), under `member/INDEX/NAME`.

A folder without a manifest is no checkpoint: whoever dies in between leaves nothing that could be
taken for one. The generation is part of the name, so a job that goes back and comes to the same
step again never writes over what it may still need.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from protos import faults

logger = logging.getLogger(__name__)

FORMAT = "landbridge.checkpoint/2"
READABLE = (FORMAT, "landbridge.checkpoint/1")
"""The first format had no member state."""
MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a checkpoint. `parts` has the names of the arrays in every part that all pods hold
    alike, in order; there are as many parts as members wrote."""

    job: str
    step: int
    generation: int
    state_sha256: str
    """Digest of parameters and optimizer state, hex: of what all pods hold alike."""
    parts: Sequence[Sequence[str]]
    num_bytes: int
    data_position: int
    """Of the data's stream, where the next step begins."""
    skipped: Sequence[Sequence[int]]
    """Positions [first, end) that were passed over, up to there and after."""
    member_arrays: Sequence[str] = ()
    """Names of what every part has of its member alone."""


def step_folder(root: pathlib.Path, job: str, step: int, generation: int) -> pathlib.Path:
    return root / job / f"step-{step:08d}.g{generation}"


def _is_before(name: str, step: int, generation: int) -> bool:
    """Of a folder of the same job: of an earlier generation, or an earlier step of this one."""
    named = re.fullmatch(r"step-(\d+)\.g(\d+)", name)
    return named is not None and (
        int(named[2]) < generation or (int(named[2]) == generation and int(named[1]) < step)
    )


def part_folder(folder: pathlib.Path, member_index: int) -> pathlib.Path:
    return folder / f"part-{member_index}"


def member_name(member_index: int, name: str) -> str:
    """What an array of a member's own is called in its part."""
    return f"member/{member_index}/{name}"


def describe_part(
    folder: pathlib.Path,
    member_index: int,
    names: Sequence[str],
    num_bytes: int,
    member_sha256: Mapping[str, str],
) -> None:
    """Say that a part is complete, and what is in it; `member_sha256` has the digest of every array
    that is the member's alone, hex. Raises OSError."""
    document = {
        "names": list(names),
        "member_sha256": dict(member_sha256),
        "num_bytes": num_bytes,
        "files": _file_sizes(part_folder(folder, member_index)),
    }
    _write_at_once(_description(folder, member_index), document)


def check_part(folder: pathlib.Path, member_index: int) -> None:
    """Raises CheckpointError when a file is missing or of another size than when it was written."""
    files = _described(folder, member_index, "files")
    part = part_folder(folder, member_index)
    found = _file_sizes(part)
    for name, size in files.items():
        if found.get(name) != size:
            now = f"has {found[name]} bytes" if name in found else "is missing"
            raise CheckpointError(f"{part} is damaged: {name} {now}, of {size}")


def member_digests(folder: pathlib.Path, member_index: int) -> dict[str, str]:
    """Digests of what a part has of its member alone, as it was written. Raises CheckpointError."""
    return _described(folder, member_index, "member_sha256")


def _described(folder: pathlib.Path, member_index: int, field: str) -> dict[str, Any]:
    path = _description(folder, member_index)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))[field])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def publish(
    root: pathlib.Path,
    job: str,
    step: int,
    generation: int,
    num_members: int,
    state_sha256: str,
    data_position: int = 0,
    skipped: Sequence[Sequence[int]] = (),
) -> Manifest:
    """Make a folder whose parts are complete a checkpoint, all at once, and delete what the job
    began earlier and never finished: who wrote this one writes none of those any more.

    Raises CheckpointError or OSError, and then it is none.
    """
    faults.at("publish")
    folder = step_folder(root, job, step, generation)
    parts, num_bytes = [], 0
    member_arrays: list[list[str]] = []
    for index in range(num_members):
        path = _description(folder, index)
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is not here, though pod {index} of the gang has written it; "
                "checkpoint.directory must be storage that all pods share"
            ) from error
        parts.append(part["names"])
        num_bytes += part["num_bytes"]
        member_arrays.append(sorted(part["member_sha256"]))
        if member_arrays[-1] != member_arrays[0]:
            raise CheckpointError(
                f"{path} has {member_arrays[-1]} of its own, the part of pod 0 {member_arrays[0]}"
            )
    manifest = Manifest(
        job,
        step,
        generation,
        state_sha256,
        parts,
        num_bytes,
        data_position,
        skipped,
        member_arrays[0],
    )
    _write_at_once(folder / MANIFEST, {"format": FORMAT, **dataclasses.asdict(manifest)})
    _sweep(folder.parent, step, generation)
    return manifest


def _sweep(folder: pathlib.Path, step: int, generation: int) -> None:
    """Delete a job's folders of earlier steps that are no checkpoints."""
    try:
        for earlier in folder.iterdir():
            if _is_before(earlier.name, step, generation) and not (earlier / MANIFEST).exists():
                shutil.rmtree(earlier, ignore_errors=True)
    except OSError:
        logger.exception("what is unfinished in %s takes up room", folder)


def read_manifest(folder: pathlib.Path) -> Manifest:
    """What the folder holds. Raises CheckpointError when it is no checkpoint."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document.pop("format")
        if found not in READABLE:
            raise CheckpointError(
                f"{path} has format {found!r}, this version reads {' and '.join(READABLE)}"
            )
        return Manifest(**document)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no checkpoint: it was never finished") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _description(folder: pathlib.Path, member_index: int) -> pathlib.Path:
    return folder / f"part-{member_index}.json"


def _file_sizes(part: pathlib.Path) -> dict[str, int]:
    """Bytes of every file, by its path in the part."""
    files = (path for path in sorted(part.rglob("*")) if path.is_file())
    return {path.relative_to(part).as_posix(): path.stat().st_size for path in files}


def _write_at_once(path: pathlib.Path, document: object) -> None:
    """A reader finds all of it or nothing, also after a loss of power."""
    unfinished = path.with_name(f"{path.name}.writing")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


def remove(folder: pathlib.Path) -> None:
    """Delete a checkpoint. The manifest goes first: half a deletion leaves no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
