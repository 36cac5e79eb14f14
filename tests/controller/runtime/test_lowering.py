"""The lowerer with the real command: `python -m model.lower` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment
from controller.runtime.lowering import Lowerer

REQUEST: dict[str, Any] = {
    "name": "tiny",
    "model": {"preset": "palm-tiny", "num_layers": 1, "model_dim": 32, "num_heads": 2},
    "train": {"microbatch": 2, "sequence_length": 16, "optimizer": {"kind": "adamw"}},
    "mesh": {"data": 1, "model": 1},
}
JOB = Assignment("job-1", 1)


class Lowering:
    """A lowerer and what it posts."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.posted: asyncio.Queue[events.Event] = asyncio.Queue()
        self.lowerer = Lowerer(folder, self.posted.put_nowait)

    def start(self, request: dict[str, Any], job: Assignment = JOB, platform: str = "cpu") -> None:
        self.lowerer.start(commands.LowerProgram(job, json.dumps(request), platform))

    async def result(self) -> events.Event:
        return await asyncio.wait_for(self.posted.get(), 80)

    def processes(self) -> list[int]:
        """Running lowerers that write to this test's folder."""
        found: list[int] = []
        for status in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = status.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"model.lower" in words and str(self.folder).encode() in words:
                found.append(int(status.parent.name))
        return found

    async def number_of_processes(self, wanted: int) -> None:
        """Wait for it."""
        async with asyncio.timeout(20):
            while True:
                if len(self.processes()) == wanted:
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def lowering(tmp_path: pathlib.Path) -> AsyncIterator[Lowering]:
    made = Lowering(tmp_path)
    yield made
    await made.lowerer.close()
    assert made.processes() == []


@pytest.mark.timeout(180)
async def test_program_is_lowered_once_then_known_and_lowered_again_when_damaged(
    lowering: Lowering,
) -> None:
    lowering.start(REQUEST)
    lowered = await lowering.result()
    assert isinstance(lowered, events.ProgramLowered), lowered
    assert lowered.assignment == JOB
    program = lowered.program
    (bundle,) = lowering.folder.glob("*.bundle")
    assert program.digest == f"sha256:{bundle.stem}"
    assert program.parameters > 0 and program.gradient_bytes >= 4 * program.parameters
    assert program.model_flops_per_token > 6 * program.parameters
    assert program.hardware_flops_per_token >= program.model_flops_per_token
    written = bundle.stat().st_mtime_ns

    again = Lowering(lowering.folder)
    again.start(REQUEST, Assignment("job-2", 1))
    known = await again.result()
    assert isinstance(known, events.ProgramLowered)
    assert (known.assignment.job, known.program) == ("job-2", program)
    assert bundle.stat().st_mtime_ns == written

    for note in lowering.folder.glob("*.json"):
        note.write_text("{")
    bundle.unlink()
    bundle.mkdir()
    again.start(REQUEST, Assignment("job-3", 1))
    broken = await again.result()
    assert isinstance(broken, events.LoweringFailed), "a damaged note was believed"
    *_, last_words = broken.message.splitlines()
    assert last_words.startswith(("IsADirectoryError", "OSError", "FileExistsError"))
    assert len(broken.message.splitlines()) <= 12


@pytest.mark.parametrize(
    ("changed", "platform", "said"),
    [
        ({"model": {"preset": "palm-tiny", "num_layers": 0}}, "cpu", "/model/num_layers: "),
        ({}, "abacus", "/platform: unknown platform 'abacus' (one of: cpu, cuda, rocm, tpu)"),
        ({"name": 7}, "cpu", "/name: expected a string"),
    ],
)
async def test_request_that_is_wrong_fails_with_its_problems(
    lowering: Lowering, changed: dict[str, Any], platform: str, said: str
) -> None:
    lowering.start({**REQUEST, **changed}, platform=platform)
    failed = await lowering.result()
    assert isinstance(failed, events.LoweringFailed) and failed.assignment == JOB
    assert said in failed.message and "Traceback" not in failed.message


async def test_folder_that_cannot_be_written_fails_the_job(tmp_path: pathlib.Path) -> None:
    lowering = Lowering(tmp_path / "missing")
    lowering.start(REQUEST)
    failed = await lowering.result()
    assert isinstance(failed, events.LoweringFailed) and "missing" in failed.message


async def test_abandoned_lowering_leaves_no_process_and_posts_nothing(lowering: Lowering) -> None:
    lowering.start(REQUEST)
    lowering.start({**REQUEST, "name": "other"}, Assignment("job-2", 1))
    await lowering.number_of_processes(2)
    lowering.lowerer.abandon(JOB)
    lowering.lowerer.abandon(Assignment("never", 1))
    await lowering.number_of_processes(1)
    await lowering.lowerer.close()
    assert lowering.processes() == [] and lowering.posted.empty()
