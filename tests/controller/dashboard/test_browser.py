"""The pages in a real browser: alive, drawn, quiet on the console, offline, fit for a phone."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, async_playwright, expect

from controller.core import events
from tests.controller.rig import Rig, serving, spec

pytestmark = [pytest.mark.browser]

CHROMIUM = shutil.which("chromium")

# The sandbox cannot start as root; the rest keeps Chromium from looking for other hosts.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.asynccontextmanager
async def browsing(controller: Rig, *, width: int = 1280) -> AsyncIterator[Page]:
    """A page on the served dashboard; fails on any complaint or foreign request."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    complaints: list[str] = []
    async with serving(controller) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = await browser.new_page(base_url=url, viewport={"width": width, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(url) else complaints.append(request.url),
        )
        try:
            yield page
        finally:
            await browser.close()
    assert complaints == []


async def running(controller: Rig) -> str:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    job_id = await controller.submit(spec(name="shown"))
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 11))
    return job_id


async def test_the_fleet_page_follows_what_happens(controller: Rig) -> None:
    async with browsing(controller) as page:
        await page.goto("/")
        await expect(page.locator("#connection")).to_have_text("live")
        await expect(page.locator("#jobs")).to_contain_text("No job has been submitted yet")
        await running(controller)
        await expect(page.locator("#jobs")).to_contain_text("10 / 20", timeout=10_000)
        await expect(page.locator("#pods")).to_contain_text("busy")


async def test_a_job_page_draws_and_extends_its_curves(controller: Rig) -> None:
    job_id = await running(controller)
    async with browsing(controller) as page:
        await page.goto(f"/jobs/{job_id}")
        await expect(page.locator("#chart-loss canvas")).to_be_visible(timeout=10_000)
        await expect(page.locator("#chart-loss .u-legend")).to_contain_text("2.5")
        await controller.step(job_id, 11, 12, loss=1.25)
        await expect(page.locator("#head")).to_contain_text("12 / 20", timeout=10_000)
        await expect(page.locator("#chart-loss .u-legend")).to_contain_text("1.25", timeout=10_000)
        await expect(page.locator("#pods")).to_contain_text("hold the same bits at step 10")


async def test_a_rewind_is_marked_and_what_it_undid_leaves_the_curves(controller: Rig) -> None:
    await controller.attach_pod("pod-0")
    spikes = {"threshold": 10, "window": 16, "rewind_steps": 3, "skip_steps": 4}
    changed = {"placement": {"pods": 1}, "checkpoint": {"every": 50}}
    job_id = await controller.submit(spec(train={"spikes": spikes}, **changed))
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 18))
    async with browsing(controller) as page:
        await page.goto(f"/jobs/{job_id}")
        legend = page.locator("#chart-loss .u-legend")
        await expect(legend).to_contain_text("17")
        await controller.step(job_id, 18, loss=9.0)
        await controller.ready(job_id)
        await controller.step(job_id, 1, 2, loss=2.25)
        await controller.evaluate(job_id, 2, loss=2.125)
        await expect(legend).to_contain_text("2.125", timeout=10_000)
        await expect(legend.locator(".u-series").first).to_contain_text("2")
        await expect(legend).not_to_contain_text("18")
        await expect(page.locator("#chart-loss canvas")).to_have_attribute(
            "aria-label", re.compile("step 18: spike, back to 0")
        )
        await expect(page.locator("#tiles")).to_contain_text("held-out loss")
        await expect(page.locator("#facts")).to_contain_text("64 sequences passed over")


@pytest.mark.parametrize("width", [1280, 390])
async def test_stacks_of_a_hung_host_unfold_and_a_drained_pod_says_why(
    controller: Rig, width: int
) -> None:
    job_id = await running(controller)
    at = controller.assignment(job_id)
    async with browsing(controller, width=width) as page:
        await page.goto(f"/jobs/{job_id}")
        for host, phase in zip(controller.hosts(job_id), ("exchange", "compute"), strict=True):
            doing = events.Doing(at, phase, 11, 5000.0)
            await controller.loop.ask(events.HostHeard(host, {}, doing))
        while "DumpStacks" not in [type(order).__name__ for order in controller.commands]:
            await controller.loop.changed()
        stacks = "executor:\n" + '  File "workers/executor.py", line 251, in _train\n' * 40
        await controller.loop.ask(events.StacksTold(controller.hosts(job_id)[1], at, stacks))
        folded = page.locator("#events details").first
        await expect(folded).to_be_attached(timeout=10_000)
        await expect(folded.locator("pre")).not_to_be_visible()
        await folded.locator("summary").click()
        await expect(folded.locator("pre")).to_be_visible()
        await expect(folded.locator("pre")).to_contain_text("in _train")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await controller.attach_pod("pod-2")
        await controller.loop.ask(events.DrainRequested("pod-2", "a person"))
        await page.goto("/")
        card = page.locator("#pods .card", has_text="pod-2")
        await expect(card).to_contain_text("drained")
        await expect(card.locator(".withheld")).to_have_text("pod-2 is drained by a person")


@pytest.mark.parametrize("width", [1280, 390])
async def test_an_interruption_is_marked_on_the_axis_of_the_attempts(
    controller: Rig, width: int
) -> None:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    job_id = await controller.submit(spec(placement={"on_pod_loss": "wait"}))
    await controller.start(job_id)
    await controller.step(job_id, 1, 2, 3)
    async with browsing(controller, width=width) as page:
        await page.goto(f"/jobs/{job_id}")
        shown = page.locator("#attempts")
        await expect(shown.locator(".attempt rect.phase-running")).to_have_count(1)
        await expect(shown.locator("line.mark")).to_have_count(0)
        await controller.detach("pod-1")
        await expect(shown.locator("line.mark-lost")).to_have_count(1, timeout=10_000)
        await expect(shown.locator("ol.marks")).to_contain_text("pod-1 (pid 42) was lost at step 3")
        bar = await shown.locator("rect.track").bounding_box()
        mark = await shown.locator("line.mark-lost").bounding_box()
        span = await shown.locator(".attempt rect.phase-running").bounding_box()
        assert bar and mark and span
        end = bar["x"] + bar["width"]
        assert bar["x"] <= span["x"] and span["x"] + span["width"] <= end + 1
        assert mark["x"] + mark["width"] / 2 == pytest.approx(span["x"] + span["width"], abs=2)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_a_plan_follows_the_spec_without_a_new_page(controller: Rig) -> None:
    async with browsing(controller) as page:
        await page.goto("/plan")
        text = await page.locator("#spec").input_value()
        await page.locator("#spec").fill(text.replace("{data: 256, model: 12}", "{data: 8}"))
        await page.locator("#spec").press("Control+Enter")
        await expect(page.locator("#planning")).to_have_text("Planned.")
        await expect(page.locator("#memory")).to_contain_text("Does not fit")
        await expect(page.locator("#memory svg .part-limit").first).to_be_visible()
        await expect(page.locator("[aria-current]")).to_have_count(1)  # where one is, no example


async def test_a_mistake_in_a_spec_leads_to_its_line(controller: Rig) -> None:
    async with browsing(controller) as page:
        await page.goto("/plan?example=palm-tiny")
        text = await page.locator("#spec").input_value()
        await page.locator("#spec").fill(text.replace("  steps:", "  stepz:"))
        await page.get_by_role("button", name="Plan").click()
        wrong = page.locator("#answer li", has_text="/train/stepz")
        await wrong.get_by_role("link").press("Enter")
        selected = "(t => t.value.slice(t.selectionStart, t.selectionEnd))(document.activeElement)"
        assert await page.evaluate(selected) == "  stepz: 120"
        await expect(page.locator("#spec")).to_have_attribute("aria-invalid", "true")
        await page.locator("#spec").fill(text)
        await page.get_by_role("button", name="Plan").click()
        await expect(page.locator("#memory")).to_contain_text("Needs")
        assert await page.locator("#spec").get_attribute("aria-invalid") is None


async def test_a_plan_fits_a_phone_and_comes_into_sight(controller: Rig) -> None:
    async with browsing(controller, width=390) as page:
        await page.goto("/plan")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.get_by_role("button", name="Plan").click()
        await expect(page.locator("#planning")).to_have_text("Planned.")
        await expect(page.locator("#answer .tiles")).to_be_in_viewport()


@pytest.mark.parametrize("path", ["/", "/jobs/"])
async def test_pages_fit_a_phone(controller: Rig, path: str) -> None:
    job_id = await running(controller)
    async with browsing(controller, width=390) as page:
        await page.goto(path if path == "/" else path + job_id)
        await expect(page.locator("#connection")).to_have_text("live")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
