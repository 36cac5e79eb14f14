"""Reads a checkpoint back, onto whatever mesh the devices form now."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from workers.checkpoint.layout import (
    CheckpointError,
    Manifest,
    check_part,
    part_folder,
    read_manifest,
)
from workers.checkpoint.writer import key_of


def restore(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[Manifest, dict[str, jax.Array]]:
    """The arrays by name, placed as `wanted` says (its shardings decide, not the writer's).

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


def _restore_part(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    import orbax.checkpoint as ocp

    target: dict[str, Any] = {key_of(name): struct for name, struct in wanted.items()}
    if not target:
        return {}
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    with ocp.Checkpointer(handler) as checkpointer:
        try:
            found = checkpointer.restore(
                folder, args=ocp.args.PyTreeRestore(target, restore_args=arguments)
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
