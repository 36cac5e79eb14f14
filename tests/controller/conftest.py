from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.controller.rig import Rig, rig


@pytest_asyncio.fixture
async def controller(tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    """A controller that anybody may ask, with no pods yet."""
    async with rig(tmp_path) as made:
        yield made
