"""Saves of a real training: what is written, who waits for what, and a disk that is full."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import pathlib
import subprocess
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from workers.checkpoint import layout
from workers.checkpoint.reader import restore
from workers.checkpoint.saver import Saver
from workers.exchange.agreement import SoleAgreement
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.orders import Assignment, BatchPhase, CheckpointWritten, JobOrder, Member
from workers.program import Program, load, read_bundle
from workers.training import Training

ASSIGNMENT = Assignment("job-1", 1)
DISK_BYTES = 512 << 10


class Batches:
    """A pure function of the step."""

    def get(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        tokens = np.random.default_rng(step).integers(0, 257, (4, 9), dtype=np.int32)
        return [(tokens[:, :-1], tokens[:, 1:])]

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def program(bigram) -> Program:
    return load(*read_bundle(bigram.data, bigram.digest))


@pytest.fixture
def order(tmp_path: pathlib.Path) -> JobOrder:
    members = (Member("pod-0", ""),)
    phases = (BatchPhase(1, 1, (range(1),)),)
    order = JobOrder(ASSIGNMENT, "sha256:0", members, 0, phases, 0, {}, 1, target_steps=9)
    return dataclasses.replace(order, checkpoint_every=1, checkpoint_directory=tmp_path)


@pytest.fixture
def training(program: Program, order: JobOrder) -> Training:
    exchange = LoopbackExchange(LoopbackLink())
    return Training(order, program, Batches(), exchange, SoleAgreement())


def saved(order: JobOrder, program: Program, step: int) -> dict[str, np.ndarray]:
    """What a checkpoint holds."""
    root, num_members = order.checkpoint_directory, len(order.members)
    layout.publish(root, ASSIGNMENT.job, step, ASSIGNMENT.generation, num_members, "")
    folder = layout.step_folder(root, ASSIGNMENT.job, step, ASSIGNMENT.generation)
    _, arrays = restore(folder, {n: buffer.struct for n, buffer in program.state_buffers.items()})
    return {name: np.asarray(array) for name, array in arrays.items()}


def held(training: Training) -> dict[str, np.ndarray]:
    return {name: np.array(array, copy=True) for name, array in training.named_state().items()}


@pytest.mark.parametrize("num_members", [1, 2, 5])
def test_members_together_save_the_state_of_the_step_while_training_goes_on(
    program: Program, order: JobOrder, training: Training, num_members: int
) -> None:
    reports: list[CheckpointWritten] = []
    order = dataclasses.replace(order, members=order.members * num_members)
    savers = [
        Saver(dataclasses.replace(order, member_index=index), program, reports.append)
        for index in range(num_members)
    ]
    states, digests = {}, {}
    for step in (1, 2, 3):
        record = training.step(step)
        assert record is not None
        for saver in savers:
            saver.save(step, training)
        states[step], digests[step] = held(training), record.settle().state_sha256
    for saver in savers:
        saver.close(wait=True)
    total = sum(buffer.num_bytes for buffer in program.state_buffers.values())
    for step, state in states.items():
        np.testing.assert_equal(saved(order, program, step), state)
        parts = [report for report in reports if report.step == step]
        assert [part.error for part in parts] == [""] * num_members
        assert {part.state_sha256 for part in parts} == {digests[step]}
        assert sum(part.num_bytes for part in parts) == total
        assert all(0 < part.stall_seconds < part.seconds for part in parts)
    assert len(set(digests.values())) == 3


def test_a_save_waits_for_the_one_before_and_says_so(
    program: Program, order: JobOrder, training: Training
) -> None:
    reports: list[CheckpointWritten] = []
    goes_on = threading.Event()

    def report(written: CheckpointWritten) -> None:
        assert goes_on.wait(60)
        reports.append(written)

    saver = Saver(order, program, report)
    saver.save(1, training)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        second = executor.submit(saver.save, 2, training)
        assert not concurrent.futures.wait([second], timeout=0.2).done
        goes_on.set()
        second.result(60)
    saver.close(wait=True)
    assert [written.step for written in reports] == [1, 2]
    assert reports[0].stall_seconds < 0.2 <= reports[1].stall_seconds


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "landbridge-test", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted: {getattr(error, 'stderr', error)}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(
    program: Program, order: JobOrder, training: Training, small_disk: pathlib.Path
) -> None:
    reports: list[CheckpointWritten] = []
    order = dataclasses.replace(order, checkpoint_directory=small_disk)
    saver = Saver(order, program, reports.append)
    (small_disk / "ballast").write_bytes(bytes(DISK_BYTES))
    for step in (1, 2):
        assert training.step(step) is not None
        saver.save(step, training)
    saver.close(wait=True)
    for written in reports:
        folder = layout.step_folder(small_disk, "job-1", written.step, 1)
        needed = f"{written.num_bytes} bytes are needed, 0 are free"
        assert str(folder) in written.error
        assert f"No space left on device: {needed}" in written.error
        assert list(folder.iterdir()) == []
    assert [written.step for written in reports] == [1, 2]


# Orbax abandons its other writes when one fails: they find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_is_reported_and_once_there_is_room_a_save_succeeds(
    program: Program, order: JobOrder, training: Training, small_disk: pathlib.Path
) -> None:
    reports: list[CheckpointWritten] = []
    order = dataclasses.replace(order, checkpoint_directory=small_disk)
    saver = Saver(order, program, reports.append)
    ballast = small_disk / "ballast"
    num_bytes = sum(buffer.num_bytes for buffer in program.state_buffers.values())
    # Room for the arrays, but not for Orbax's account of them, 30 KiB in files of a page each.
    ballast.write_bytes(bytes(DISK_BYTES - num_bytes - 8192))
    saver.save(1, training)
    saver.close(wait=True)
    ballast.unlink()
    assert training.step(1) is not None
    saver = Saver(order, program, reports.append)
    saver.save(2, training)
    saver.close(wait=True)
    # What the abandoned writes leave behind says so here and not in another test.
    gc.collect()
    failed, succeeded = reports
    assert str(layout.step_folder(small_disk, "job-1", 1, 1)) in failed.error
    assert "No space left on device" in failed.error
    assert "are needed" not in failed.error
    assert succeeded.error == ""
    np.testing.assert_equal(saved(order, program, 2), held(training))
