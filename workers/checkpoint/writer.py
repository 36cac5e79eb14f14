"""Writes one pod's part of a checkpoint, through Orbax."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from protos import faults
from workers.checkpoint.layout import describe_part, member_name, part_folder


class PartWriter:
    """Writes parts one after the other, on any one thread.

    All hosts of a pod write the same parts in the same order and wait for each other at every one,
    by way of jax's coordinator: nothing runs on several devices together, so another thread may
    train at the same time.
    """

    def __init__(self, name: str) -> None:
        """`name` tells the hosts of this writer from those of another that is still writing."""
        # Orbax takes 1.7 s to import, which jobs without checkpoints need not wait for.
        import orbax.checkpoint as ocp

        # Unless it is told the processes, Orbax lets them meet in a sum over all devices, which
        # would get between the sums of a step.
        hosts = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count())), barrier_sync_key_prefix=name
        )
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=True, use_zarr3=True, multiprocessing_options=hosts
        )
        self._orbax: Any = ocp
        self._checkpointer: Any = ocp.Checkpointer(handler, multiprocessing_options=hosts)

    def write(
        self,
        folder: pathlib.Path,
        member_index: int,
        arrays: Mapping[str, jax.Array],
        member_state: Mapping[str, jax.Array] | None = None,
        member_sha256: Mapping[str, str] | None = None,
    ) -> None:
        """Write this member's part of the checkpoint in `folder` and describe it, when all of it is
        on disk: its share `arrays` of what all hold alike, and its own `member_state`, whose
        digests `member_sha256` has.

        Raises OSError, and whatever storage libraries raise when a write fails; the disk is then
        cleared of what there was of the part.
        """
        part = part_folder(folder, member_index)
        own = {member_name(member_index, name): a for name, a in (member_state or {}).items()}
        tree = {key_of(name): array for name, array in {**arrays, **own}.items()}
        num_bytes = sum(array.nbytes for array in tree.values())
        # Of the hosts of a pod, which write it together, one describes it or clears it away.
        is_first = jax.process_index() == 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_room(folder, num_bytes)
            faults.at("write")
            if tree:  # Orbax refuses an empty one; a pod more than there are arrays has none
                self._checkpointer.save(part, args=self._orbax.args.PyTreeSave(tree), force=True)
            if is_first:
                describe_part(folder, member_index, sorted(arrays), num_bytes, member_sha256 or {})
        except BaseException:
            if is_first:
                _clear_away(part)
            raise

    def close(self) -> None:
        """No more parts follow."""
        self._checkpointer.close()


def key_of(name: str) -> str:
    """The name in Orbax's tree: some of its formats make folders of slashes."""
    return name.replace("/", ".")


def _check_room(folder: pathlib.Path, num_bytes: int) -> None:
    """Raises OSError when the disk is full. Before Orbax, which abandons its other writes noisily
    when one fails."""
    disk = shutil.disk_usage(folder)
    # Some network file systems do not say: all zeros.
    if disk.total and disk.free < num_bytes:
        why = f"{os.strerror(errno.ENOSPC)}: {num_bytes} bytes are needed, {disk.free} are free"
        raise OSError(errno.ENOSPC, why)


def _clear_away(part: pathlib.Path) -> None:
    """Orbax writes beside the part and renames; left there, it would keep a full disk full."""
    for path in (part, *part.parent.glob(f"{part.name}.*")):
        shutil.rmtree(path, ignore_errors=True)
