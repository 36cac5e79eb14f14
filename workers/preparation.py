"""From an order and the bytes of its bundle to a training that can run: read, join the gang,
compile while the data is opened, initialise."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from workers.checkpoint.layout import CheckpointError, Manifest, step_folder
from workers.checkpoint.reader import restore, restore_member_state
from workers.checkpoint.saver import Saver
from workers.data.batches import BatchPlan
from workers.data.dataset import TokenDataset, open_dataset
from workers.data.prefetch import Prefetcher
from workers.evaluation import Evaluator
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import GradientExchange, Membership
from workers.exchange.tree import subtrees
from workers.healing import check, heal
from workers.member_state import Restored
from workers.orders import CheckpointPlace, CheckpointWritten, JobOrder, Phase, Ready, Report
from workers.program import Loader, Program, load, read_bundle
from workers.run import Run
from workers.training import Training, member_arrays


def prepare(
    run: Run,
    exchange: GradientExchange,
    agreement: PodAgreement,
    report: Callable[[Report], None],
    token_folder: pathlib.Path | None = None,
    load: Loader = load,
) -> Ready:
    """Give `run` its training, its saver and its fields; `run.phase` follows what is being done.
    The program of `run` is used again if it is that of the order.
    Checkpoints are reported to `report` later on. Tokens of the data are kept in `token_folder`, or
    for the job alone when there is none.

    Raises BundleError, DataError, CheckpointError, HealError, ExchangeError, ValueError when the
    generation was joined before, and whatever the compiler and the devices raise.
    """
    start = time.perf_counter()
    order = run.order
    run.enter(Phase.FETCH)
    digest = order.bundle_digest
    earlier = run.program if run.program and run.program.bundle_digest == digest else None
    manifest, parts = (earlier.manifest, {}) if earlier else read_bundle(run.bundle, digest)
    exchange.join(_membership(order, manifest))
    with concurrent.futures.ThreadPoolExecutor(1, "open-data") as opener:
        batch = manifest["groups"].get("batch")
        opened = None
        if batch:
            opened = opener.submit(open_dataset, order.data, batch[0]["shape"][1], token_folder)
        run.enter(Phase.COMPILE)
        compile_start = time.perf_counter()
        program = earlier or load(manifest, parts, digest)
        compile_seconds = time.perf_counter() - compile_start
        run.enter(Phase.DATA)
        dataset = opened.result() if opened else None
        plan = _batch_plan(order, program)
        data_steps = dataset.num_steps(order.epochs, plan) if dataset else 0
        if dataset and dataset.held_out and order.evaluate_every:
            run.evaluator = Evaluator(order, dataset.held_out, program.microbatch)
    run.enter(Phase.COMPILE)
    run.program, run.fields = program, program.record_fields
    if data_steps:
        run.target_steps = min(run.target_steps, data_steps)
    written, restored = None, None
    if order.resume:
        run.enter(Phase.HEAL)
        restored = heal(order, order.resume, program, exchange, agreement, run.kept)
    elif order.restore:
        written, restored = _restored(order, order.restore, program)
    batches = _prefetcher(run, program, dataset, plan) if dataset is not None else None
    run.seen_through = batches.seen_through if batches is not None else None
    try:
        run.training = Training(
            order,
            program,
            batches,
            exchange,
            agreement,
            restored,
            run.target_steps,
        )
    except BaseException:
        if batches is not None:
            batches.close()
        raise
    run.kept = None
    if order.resume and order.member_index in order.resume.lacking:
        check(order.resume, run.training.state_sha256())
    elif order.restore and written:
        _check_bits(written, order.restore, run.training)
    if order.checkpoint_every:
        run.saver = Saver(order, program, _with_position(plan, report), run.training.member_state())
    return Ready(
        assignment=order.assignment,
        ready_seconds=time.perf_counter() - start,
        compile_seconds=compile_seconds,
        dataset_digest=dataset.digest if dataset else "none",
        data_steps=data_steps,
        device_bytes=_device_bytes(program),
        sources=dataset.reports if dataset else (),
    )


def _membership(order: JobOrder, manifest: Mapping[str, Any]) -> Membership:
    peers = {i: m for i, m in enumerate(order.members) if i != order.member_index}
    return Membership(
        order.assignment.job,
        order.assignment.generation,
        order.member_index,
        {i: m.link_address for i, m in peers.items()},
        {i: m.pod for i, m in peers.items()},
        max(_largest_contribution(order, manifest), _healed_bytes(order, manifest)),
    )


def _largest_contribution(order: JobOrder, manifest: Mapping[str, Any]) -> int:
    """Bytes that no member's part of a step exceeds: its sums, and a total that it sends on where
    there are more than two.

    Whole arrays are counted: how they are cut over the hosts of a pod is known only once the
    program is compiled, and a host's shards are never more than the whole.
    """
    outer = manifest.get("outer")
    if outer:
        names = [fragment["group"] for fragment in outer["fragments"]]
        num_sums = 1
    else:
        names = [name for segment in manifest["segments"] for name in segment["groups"]]
        held = [subtrees(phase.num_slots, phase.slots) for phase in order.phases]
        num_sums = max(len(nodes) for members in held for nodes in members)
    return _num_bytes(manifest, names) * (num_sums + (len(order.members) > 2))


def _healed_bytes(order: JobOrder, manifest: Mapping[str, Any]) -> int:
    """Of the state that members may be sent before the first step."""
    if order.resume is None or not order.resume.lacking:
        return 0
    return _num_bytes(manifest, ["outer"] if manifest.get("outer") else ["params", "optimizer"])


def _num_bytes(manifest: Mapping[str, Any], names: Iterable[str]) -> int:
    """Of all arrays of these groups."""
    return sum(
        math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
        for name in names
        for entry in manifest["groups"][name]
    )


def _restored(
    order: JobOrder, place: CheckpointPlace, program: Program
) -> tuple[Manifest, Restored]:
    folder = step_folder(place.directory, place.job, place.step, place.generation)
    wanted = {name: buffer.struct for name, buffer in program.state_buffers.items()}
    manifest, state = restore(folder, wanted)
    index, num_members = order.member_index, len(order.members)
    own = restore_member_state(folder, manifest, member_arrays(program), index, num_members)
    return manifest, Restored(state, own)


def _check_bits(manifest: Manifest, place: CheckpointPlace, training: Training) -> None:
    """Storage may give back other bits than it was given, or another checkpoint of that name, and
    nothing else would notice."""
    seen = training.state_sha256().hex()
    written = place.state_sha256 or manifest.state_sha256
    if seen != written or manifest.state_sha256 != written:
        raise CheckpointError(
            f"the checkpoint of step {manifest.step} is damaged: its state has digest "
            f"{seen[:12]}, its manifest {manifest.state_sha256[:12]}, and it was written with "
            f"{written[:12]}"
        )


def _with_position(
    plan: BatchPlan, report: Callable[[CheckpointWritten], None]
) -> Callable[[CheckpointWritten], None]:
    """Tells with every checkpoint where the data goes on after it."""
    return lambda written: report(
        dataclasses.replace(written, data_position=plan.end(written.step))
    )


def _batch_plan(order: JobOrder, program: Program) -> BatchPlan:
    size = max(1, program.microbatch)
    phases = tuple((phase.first_step, phase.num_slots * size) for phase in order.phases)
    return BatchPlan(phases, order.skipped, order.data_start)


def _prefetcher(run: Run, program: Program, dataset: TokenDataset, plan: BatchPlan) -> Prefetcher:
    order = run.order
    return Prefetcher(
        dataset,
        plan,
        seed=order.seed,
        microbatch=program.microbatch,
        slots=order.my_slots,
        first_step=order.first_step,
        last_step=run.target_steps,
    )


def _device_bytes(program: Program) -> dict[str, int]:
    """The largest need of any component: they run one after the other."""
    needs = [component.device_bytes for component in program.components.values()]
    return {use: max(need.get(use, 0) for need in needs) for use in ("arguments", "temporaries")}
