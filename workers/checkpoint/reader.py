"""Reads a checkpoint back, onto whatever mesh the devices form now."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from workers.checkpoint.array_digest import lanes_of, sha256_of
from workers.checkpoint.layout import (
    CheckpointError,
    Manifest,
    check_part,
    member_digests,
    member_name,
    part_folder,
    read_manifest,
)
from workers.checkpoint.writer import key_of
from workers.member_state import MemberArray, sources


def restore(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[Manifest, dict[str, jax.Array]]:
    """The arrays that all pods hold alike, by name, placed as `wanted` says (its shardings decide,
    not the writer's).

    Raises CheckpointError when anything is missing, of another shape, or unreadable. Whether the
    bits are right is for the caller to see, by the digest in the manifest.
    """
    manifest = read_manifest(folder)
    held = [name for part in manifest.parts for name in part]
    if sorted(held) != sorted(wanted):
        missing = sorted(set(wanted) - set(held)) or sorted(set(held) - set(wanted))
        raise CheckpointError(
            f"{folder} is of another program: {', '.join(missing[:3])} in one and not in the other"
        )
    arrays: dict[str, jax.Array] = {}
    for index in range(len(manifest.parts)):
        # Before Orbax, which abandons its other reads noisily when one fails.
        check_part(folder, index)
    for index, names in enumerate(manifest.parts):
        part = {name: wanted[name] for name in names}
        arrays |= _restore_part(part_folder(folder, index), part)
    return manifest, arrays


def restore_member_state(
    folder: pathlib.Path,
    manifest: Manifest,
    wanted: Mapping[str, MemberArray],
    index: int,
    num_members: int,
) -> dict[str, jax.Array]:
    """What member `index` of `num_members` takes of the arrays that were of one member alone, by
    name. What the checkpoint does not have is missing, and what nobody wants is left there.

    Raises CheckpointError when anything is unreadable, of another shape, or has other bits than
    were written. Files are expected to be complete (restore).
    """
    num_written = len(manifest.parts)
    held = {name: wanted[name] for name in manifest.member_arrays if name in wanted}
    taken: dict[str, jax.Array] = {}
    for written in range(num_written):
        names = [
            name
            for name, array in held.items()
            if written in sources(array.takeover, index, num_members, num_written)
        ]
        for name, array in _restore_own(folder, written, {n: held[n] for n in names}).items():
            taken[name] = taken[name] + array if name in taken else array
    return taken


def _restore_own(
    folder: pathlib.Path, written: int, wanted: Mapping[str, MemberArray]
) -> dict[str, jax.Array]:
    if not wanted:
        return {}
    stored = {member_name(written, name): array.struct for name, array in wanted.items()}
    part = part_folder(folder, written)
    found = _restore_part(part, stored)
    arrays = {name: found[member_name(written, name)] for name in wanted}
    digests = member_digests(folder, written)
    for name, seen in sha256_of(lanes_of(arrays)).items():
        if seen != digests.get(name):
            raise CheckpointError(
                f"{part} is damaged: {name} of member {written} has digest {seen[:12]}, and was "
                f"written with {digests.get(name, 'none')[:12]}"
            )
    return arrays


def _restore_part(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    import orbax.checkpoint as ocp

    # A part may hold more than is wanted of it: what is a member's alone.
    target: dict[str, Any] = {key_of(name): struct for name, struct in wanted.items()}
    if not target:
        return {}
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    with ocp.Checkpointer(handler) as checkpointer:
        try:
            found = checkpointer.restore(
                folder,
                args=ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds on damaged files
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
            raise CheckpointError(
                f"{folder} is damaged: {type(error).__name__}: {reason}"
            ) from error
    arrays = {name: found[key_of(name)] for name in wanted}
    for name, array in arrays.items():
        if array.shape != wanted[name].shape or array.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{folder}: {name} is {array.dtype}{list(array.shape)} and the program wants "
                f"{wanted[name].dtype}{list(wanted[name].shape)}"
            )
    return arrays
