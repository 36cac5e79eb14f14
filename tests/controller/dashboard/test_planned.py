"""The plan page: an example to begin with, figures as bars, mistakes with their places."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from controller.api.plan import plan_document
from controller.api.spec import Spec
from controller.dashboard import planned
from tests.controller.dashboard.reading import page
from tests.controller.rig import SPEC, Rig

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"
ASSUMED = {"device": "h100", "mfu": 0.4, "link_bytes_per_second": 1e7}


def drawn(assume: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    document = {**SPEC, "model": {**SPEC["model"], **model}}
    if assume:
        document["assume"] = assume
    return planned.figures_of(plan_document(Spec.model_validate(document), []))


def test_the_examples_are_those_of_the_repository() -> None:
    shown = {name: path.read_text() for name, path in planned.examples().items()}
    assert shown == {path.stem: path.read_text() for path in EXAMPLES.glob("*.yaml")}
    assert planned.SHOWN_FIRST in shown


@pytest.mark.parametrize("example", planned.examples())
async def test_every_example_is_planned(controller: Rig, example: str) -> None:
    shown = await page(controller, f"/plan?example={example}")
    assert "parameters" in shown.text
    assert "problem" not in shown.text
    assert f"\nname: {example}\n" in shown.text  # the text area


async def test_an_example_nobody_has_leads_to_one_there_is(controller: Rig) -> None:
    for name in ("nothing", "../style", "%2e%2e/%2e%2e/planned"):
        answer = await controller.http.get(f"/plan?example={name}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/plan")


async def test_what_is_typed_in_is_planned_and_kept(controller: Rig) -> None:
    text = planned.examples()["palm-tiny"].read_text().replace("name: palm-tiny", "name: mine")
    shown = await page(controller, "/plan", spec=text.replace("\n", "\r\n"))
    assert text in shown.text
    assert "mine" in shown.text.partition("Plan a job")[2].partition("parameters")[0]


async def test_mistakes_are_told_with_their_places_and_as_text(controller: Rig) -> None:
    text = "version: 1\nname: </textarea><script>alert(1)</script>\ntrain:\n  stepz: 3\n"
    shown = await page(controller, "/plan", spec=text)  # which finds no script of the page's own
    for words in ("/train/stepz", "line 4, column 3", "did you mean 'steps'?", "/model"):
        assert words in shown.text, words
    assert "</textarea><script>alert(1)</script>" in shown.text


async def test_what_is_no_yaml_is_told_too(controller: Rig) -> None:
    shown = await page(controller, "/plan", spec="a: [1,\n")
    assert "1 problem in the job spec" in shown.text
    assert "the document" in shown.text


async def test_the_fleet_leads_to_the_plan(controller: Rig) -> None:
    assert "/plan" in (await page(controller, "/")).addresses


def test_the_memory_bar_ends_with_the_device_and_its_parts_fill_it() -> None:
    memory = drawn(ASSUMED)["memory"]
    assert (memory["verdict"], memory["limit"]) == ("fits", None)
    assert [part["category"] for part in memory["parts"]][-1] == "free"
    assert sum(part["amount"] for part in memory["parts"]) == 80 << 30
    assert sum(part["width"] for part in memory["parts"]) == 1000


def test_a_need_beyond_the_device_is_marked_where_the_device_ends() -> None:
    plan = drawn(ASSUMED, preset="palm-540b")
    total = plan["bytes_per_device"]["total"]
    assert plan["memory"]["verdict"] == "too-large"
    assert plan["memory"]["limit"] == round(1000 * (80 << 30) / total) < 1000
    assert plan["memory"]["parts"][-1]["amount"] == 0


def test_a_device_nobody_named_has_no_verdict() -> None:
    memory = drawn()["memory"]
    assert (memory["verdict"], memory["limit"]) == ("unknown", None)
    assert memory["parts"][-1]["width"] == 0


def test_a_step_is_compute_and_what_the_link_adds() -> None:
    plan = drawn(ASSUMED)
    compute, exposed = plan["step"]
    assert compute["amount"] + exposed["amount"] == pytest.approx(plan["step_seconds"])
    assert exposed["amount"] == plan["exposed_seconds"] > 0
    assert plan["tokens"] == pytest.approx(20 * 16 * 256)


@pytest.mark.parametrize(
    ("assume", "wanting"),
    [
        (None, ["assume.link_bytes_per_second", "assume.mfu"]),
        ({"device": "h100", "mfu": 0.4}, ["assume.link_bytes_per_second"]),
        ({"device": "h100", "link_bytes_per_second": 1e9}, ["assume.mfu"]),
        ({"mfu": 0.4, "link_bytes_per_second": 1e9}, ["assume.device"]),
        (ASSUMED, []),
    ],
)
def test_what_an_unknown_step_needs_is_named(assume: Any, wanting: list[str]) -> None:
    plan = drawn(assume)
    assert plan["wanting"] == wanting
    assert bool(plan["step"]) == (not wanting)
