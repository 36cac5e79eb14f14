from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from landbridge.cli import main
from tests.controller.rig import Rig, rig, serving


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]


@pytest_asyncio.fixture
async def controller(tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def address(controller: Rig) -> AsyncIterator[str]:
    """Where the controller really listens."""
    async with serving(controller) as url:
        yield url


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Run:
    """Run a command line beside the event loop, with nobody's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("LANDBRIDGE_ADDRESS", "LANDBRIDGE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    async def run_once(*arguments: str) -> Ran:
        capfd.readouterr()
        code = await asyncio.to_thread(main, arguments)
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run_once
