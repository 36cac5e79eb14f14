"""From an order and the bytes of its bundle to a training that can run: read, join the gang,
compile while the data is opened, initialise."""

from __future__ import annotations

import concurrent.futures
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from workers.checkpoint.layout import CheckpointError, Manifest, step_folder
from workers.checkpoint.reader import restore
from workers.checkpoint.saver import Saver
from workers.data.dataset import TokenDataset, open_dataset
from workers.data.prefetch import Prefetcher
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import GradientExchange, Membership
from workers.exchange.tree import maximal_subtrees
from workers.orders import CheckpointId, JobOrder, Phase, Ready, Report
from workers.program import Program, load, read_bundle
from workers.run import Run
from workers.training import Training

Restored = tuple[Manifest, Mapping[str, jax.Array]]


def prepare(
    run: Run,
    exchange: GradientExchange,
    agreement: PodAgreement,
    report: Callable[[Report], None],
    token_folder: pathlib.Path | None = None,
) -> Ready:
    """Give `run` its training, its saver and its fields; `run.phase` follows what is being done.
    Checkpoints are reported to `report` later on. Tokens of the data are kept in `token_folder`, or
    for the job alone when there is none.

    Raises BundleError, DataError, CheckpointError, ValueError when the generation was joined
    before, and whatever the compiler and the devices raise.
    """
    start = time.perf_counter()
    order = run.order
    run.phase = Phase.FETCH
    manifest, parts = read_bundle(run.bundle, order.bundle_digest)
    exchange.join(_membership(order, manifest["groups"]))
    with concurrent.futures.ThreadPoolExecutor(1, "open-data") as opener:
        batch = manifest["groups"].get("batch")
        opened = None
        if batch:
            opened = opener.submit(open_dataset, order.data, batch[0]["shape"][1], token_folder)
        run.phase = Phase.COMPILE
        compile_start = time.perf_counter()
        program = load(manifest, parts)
        compile_seconds = time.perf_counter() - compile_start
        run.phase = Phase.DATA
        dataset = opened.result() if opened else None
        data_steps = _data_steps(order, program, dataset)
    run.phase = Phase.COMPILE
    run.fields = program.record_fields
    restored = _restored(order, order.restore, program) if order.restore else None
    state = restored[1] if restored else None
    run.training = _training(order, program, dataset, exchange, agreement, state)
    if restored is not None:
        _check_bits(restored, run.training)
    if order.checkpoint_every:
        run.saver = Saver(order, program, report)
    return Ready(
        assignment=order.assignment,
        ready_seconds=time.perf_counter() - start,
        compile_seconds=compile_seconds,
        dataset_digest=dataset.digest if dataset else "none",
        data_steps=data_steps,
        device_bytes=_device_bytes(program),
    )


def _membership(order: JobOrder, groups: Mapping[str, Any]) -> Membership:
    peers = {i: m for i, m in enumerate(order.members) if i != order.member_index}
    return Membership(
        order.assignment.job,
        order.assignment.generation,
        order.member_index,
        {i: m.link_address for i, m in peers.items()},
        {i: m.pod for i, m in peers.items()},
        _largest_contribution(order, groups),
    )


def _largest_contribution(order: JobOrder, groups: Mapping[str, Any]) -> int:
    """Bytes that no member's part of a step exceeds.

    Whole arrays are counted: how they are cut over the hosts of a pod is known only once the
    program is compiled, and a host's shards are never more than the whole.
    """
    sums = [*groups.get("grads", ()), *groups.get("metrics", ())]
    once = sum(math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize for entry in sums)
    return once * max(
        len(maximal_subtrees(order.num_slots, member.first_slot, member.end_slot))
        for member in order.members
    )


def _restored(order: JobOrder, checkpoint: CheckpointId, program: Program) -> Restored:
    folder = step_folder(
        order.checkpoint_directory,
        order.assignment.job,
        checkpoint.step,
        checkpoint.generation,
    )
    wanted = {name: buffer.struct for name, buffer in program.state_buffers.items()}
    return restore(folder, wanted)


def _check_bits(restored: Restored, training: Training) -> None:
    """Storage may give back other bits than it was given, and nothing else would notice."""
    manifest, _ = restored
    seen = training.state_sha256().hex()
    if seen != manifest.state_sha256:
        raise CheckpointError(
            f"the checkpoint of step {manifest.step} is damaged: its state has digest "
            f"{seen[:12]} and was written with {manifest.state_sha256[:12]}"
        )


def _training(
    order: JobOrder,
    program: Program,
    dataset: TokenDataset | None,
    exchange: GradientExchange,
    agreement: PodAgreement,
    state: Mapping[str, jax.Array] | None,
) -> Training:
    batches = _prefetcher(order, program, dataset) if dataset is not None else None
    try:
        return Training(order, program, batches, exchange, agreement, state)
    except BaseException:
        if batches is not None:
            batches.close()
        raise


def _prefetcher(order: JobOrder, program: Program, dataset: TokenDataset) -> Prefetcher:
    return Prefetcher(
        dataset,
        seed=order.seed,
        global_batch=order.num_slots * program.microbatch,
        microbatch=program.microbatch,
        slots=range(order.me.first_slot, order.me.end_slot),
        first_step=order.first_step,
        last_step=order.target_steps,
    )


def _data_steps(order: JobOrder, program: Program, dataset: TokenDataset | None) -> int:
    if dataset is None:
        return 0
    return dataset.num_steps(order.epochs, order.num_slots * program.microbatch)


def _device_bytes(program: Program) -> dict[str, int]:
    """The largest need of any component: they run one after the other."""
    needs = [component.device_bytes for component in program.components.values()]
    return {use: max(need.get(use, 0) for need in needs) for use in ("arguments", "temporaries")}
