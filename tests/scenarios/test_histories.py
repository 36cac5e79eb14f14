"""Named histories against their goldens.

REGENERATE_GOLDENS=1 writes the goldens anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.controller.core.world import World
from tests.scenarios.histories import HISTORIES
from tests.scenarios.invariants import Accounts, Invariants
from tests.scenarios.story import Story

GOLDENS = pathlib.Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", HISTORIES)
def test_history_replayed_tells_the_story_of_its_golden(name: str) -> None:
    world = World()
    story = Story(world)
    world.observers += [Invariants(), Accounts(world), story]
    HISTORIES[name](world)
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("REGENERATE_GOLDENS"):
        golden.write_text(story.text())
    assert story.text() == golden.read_text()


def test_goldens_without_a_history_do_not_exist() -> None:
    assert {path.stem for path in GOLDENS.iterdir()} == set(HISTORIES)
