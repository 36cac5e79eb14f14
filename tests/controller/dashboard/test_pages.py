"""The pages show what the API shows, work without scripts and ask nothing of another origin."""

from __future__ import annotations

import re
from typing import Any

import pytest

from controller.core.account import Category
from controller.core.link import LinkConditions
from controller.dashboard import FOLDER, figures
from tests.controller.dashboard.reading import page
from tests.controller.rig import Rig, spec


async def trained(
    controller: Rig, *, digests: tuple[str, str] = ("a" * 64, "a" * 64), **sections: Any
) -> str:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    labels = {"team": "<b>research</b>"}
    job_id = await controller.submit(spec(name="shown", labels=labels, **sections))
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 11), digest=digests[0])
    return job_id


async def test_every_part_of_a_bar_has_a_colour(controller: Rig) -> None:
    job_id = await trained(controller)
    answer = await controller.http.get(f"/jobs/{job_id}", headers={"Accept": "text/html"})
    parts = set(re.findall(r'class="((?:part|phase)-\w+)"', answer.text))
    style = (FOLDER / "static" / "style.css").read_text()
    assert {"part-1", "phase-startup", "phase-running"} <= parts
    assert [part for part in sorted(parts) if f".{part} {{" not in style] == []


def test_every_category_of_time_has_a_colour_of_its_own_and_a_meaning() -> None:
    categories = {str(category) for category in Category}
    assert set(figures.COLOURS) == set(figures.MEANINGS) == categories
    style = (FOLDER / "static" / "style.css").read_text()
    assert len(set(figures.COLOURS.values())) == len(categories)
    for colour in figures.COLOURS.values():
        assert f".part-{colour} {{" in style and style.count(f"--part-{colour}: #") == 2


def test_what_took_no_time_is_not_in_the_legend() -> None:
    parts = figures.spent({"productive": 3.0, "startup": 1.0, "rework": 0.0})
    assert [(part["category"], part["colour"]) for part in parts] == [
        ("productive", 1),
        ("startup", 0),
    ]


async def test_a_job_page_shows_attempts_and_what_interrupted_them(controller: Rig) -> None:
    waits = {"placement": {"on_pod_loss": "wait"}}
    job_id = await trained(controller, **waits)
    shown = await page(controller, f"/jobs/{job_id}")
    assert "Attempt 1" in shown.text and "goes on" in shown.text
    assert "Pods lost" not in shown.text and "Steps run again" not in shown.text
    for pod in ("pod-0", "pod-1"):
        await controller.detach(pod)
    shown = await page(controller, f"/jobs/{job_id}")
    assert "requeued" in shown.text and "Pods lost2" in shown.text
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 4))
    shown = await page(controller, f"/jobs/{job_id}")
    assert "Attempt 2" in shown.text and "Steps run again3" in shown.text
    assert "job.recovering" in shown.text and "rework" in shown.text
    answer = await controller.http.get(f"/api/v1/jobs/{job_id}/attempts")
    first, second = answer.json()["attempts"]
    assert (first["outcome"], second["outcome"]) == ("requeued", None)
    assert [span["phase"] for span in second["spans"]] == ["recovery", "running"]
    assert [span["generation"] for span in second["spans"]] == [2, 2]
    document = (await controller.http.get(f"/api/v1/jobs/{job_id}")).json()
    assert (document["setbacks"], document["steps_recomputed"]) == (2, 3)
    assert document["recoveries"] == {"PodLost": 1}
    assert document["time_seconds"]["rework"] > 0
    assert (await controller.http.get("/api/v1/jobs/none/attempts")).status_code == 404


async def test_an_empty_fleet_teaches_the_first_command(controller: Rig) -> None:
    shown = await page(controller, "/")
    assert "landbridge submit examples/palm-tiny.yaml" in shown.text
    assert "No pod has dialled in" in shown.text


async def test_the_fleet_shows_jobs_pods_and_links(controller: Rig) -> None:
    job_id = await trained(controller)
    await controller.submit(spec(name="waits"))
    await controller.hear("pod-0", "pod-1", 1_000_000, 0.5, 3)
    shown = await page(controller, "/")
    for words in ("shown", "running", "waits", "pending", "pod-0 busy", "10 / 20", "2.5000"):
        assert words in shown.text, words
    for words in ("50 GFLOP/s", "calibrated", "2 MB/s", "jobs running"):
        assert words in shown.text, words
    assert f"/jobs/{job_id}" in shown.addresses


async def test_a_job_page_shows_lockstep_time_and_events(controller: Rig) -> None:
    job_id = await trained(controller)
    shown = await page(controller, f"/jobs/{job_id}")
    for words in ("All 2 pods hold the same bits at step 10.", "startup", "job.started", "MFU"):
        assert words in shown.text, words
    assert "<b>research</b>" in shown.text  # as text: it came out of the parser as data
    assert f"landbridge job {job_id}" in shown.text


async def test_a_job_page_shows_what_the_link_costs_and_says_when_it_is_slow(
    controller: Rig,
) -> None:
    job_id = await trained(controller)
    await controller.hear("pod-0", "pod-1", 1_000_000, 0.5, 3, rtt=0.0125)
    await controller.emulate("pod-0", LinkConditions(bandwidth_bytes_per_second=2e6))
    shown = await page(controller, f"/jobs/{job_id}")
    for words in ("2.00 \u00d7compression", "0.25residual norm", "3 chunks again", "1.5 shidden"):
        assert words in shown.text, words
    assert "pod-0pod-11 MB2 MB/s12 ms3bandwidth 16Mbit" in shown.text
    assert "What helps" not in shown.text
    await controller.step(job_id, *range(11, 20), exposed=0.3)
    shown = await page(controller, f"/jobs/{job_id}")
    assert "of a step waits for the link from pod-0 to pod-1: it carries 2.0 MB/s" in shown.text
    assert "What helps: exchange.dtype: bfloat16 or int8" in shown.text


async def test_a_job_page_shows_what_is_chosen_and_what_it_is_chosen_by(controller: Rig) -> None:
    job_id = await trained(controller, exchange={"mode": "auto", "allow": ["int8"]})
    shown = await page(controller, f"/jobs/{job_id}")
    assert "auto: float32 since step 1, for at most 3.0 % exposed" in shown.text
    for step in range(11, 20):
        await controller.hear("pod-0", "pod-1", step * 10_000_000, step * 0.1, 0)
        await controller.step(job_id, step)
    shown = await page(controller, f"/jobs/{job_id}")
    assert "as it is, float32 leaves " in shown.text and "int8 leaves " in shown.text


async def test_a_job_page_shows_its_data_and_what_held_out_text_says(controller: Rig) -> None:
    job_id = await trained(controller)
    await controller.evaluate(job_id, 10, loss=1.5)
    shown = await page(controller, f"/jobs/{job_id}")
    # 10 of 20 steps of 16 x 256 tokens, three quarters of them books.
    cells = ("books", 12, "9 000", "75.0 %", "30 720", "61 440")
    assert "".join(map(str, cells)) in shown.text.replace("\u202f", " ")
    assert "1.5000held-out loss 2.1640 bits per byte, step 10" in shown.text


async def test_a_waiting_job_has_a_page(controller: Rig) -> None:
    job_id = await controller.submit()
    shown = await page(controller, f"/jobs/{job_id}")
    assert "needs 2 pods of 1 device" in shown.text
    assert "number 1 in the queue" in shown.text
    assert "The job holds no pods." in shown.text
    assert "No host has opened the data yet." in shown.text


async def test_jobs_are_shown_in_pages(controller: Rig) -> None:
    for index in range(51):
        await controller.submit(spec(name=f"job-{index}"))
    first = await page(controller, "/")
    (older,) = [address for address in first.addresses if address.startswith("/?page_token=")]
    assert "job-50" in first.text
    second = await page(controller, older)
    assert "job-0" in second.text
    assert "job-50" not in second.text.partition("Events")[0]


async def test_the_login_page(controller: Rig) -> None:
    assert "LANDBRIDGE_TOKEN" in (await page(controller, "/login")).text


async def test_static_files_and_the_licence_of_what_is_vendored(controller: Rig) -> None:
    for name in ("style.css", "job.js", "vendor/uPlot.esm.js", "vendor/uPlot.min.css"):
        assert (await controller.http.get(f"/static/{name}")).status_code == 200
    licence = await controller.http.get("/static/vendor/uPlot.LICENSE.txt")
    assert "MIT License" in licence.text


def test_scripts_and_styles_name_no_other_origin() -> None:
    for path in (*FOLDER.glob("static/*.js"), *FOLDER.glob("static/*.css")):
        assert not re.search(r"https?://|//\w+\.\w+/", path.read_text()), path.name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, figures.UNKNOWN),
        (0.25, "250 ms"),
        (3.21, "3.2 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (7300, "2 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, figures.UNKNOWN), (0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (4.2e12, "4.20 TB")],
)
def test_amounts(value: float | None, text: str) -> None:
    assert figures.amount(value, "B") == text


@pytest.mark.parametrize(
    ("digests", "verdict"),
    [
        ([], "unknown"),
        ([(10, "a"), None], "unknown"),
        ([(10, "a"), (20, "a")], "unknown"),
        ([(10, "a"), (10, "b")], "differ"),
        ([(10, "a"), (10, "a")], "equal"),
    ],
)
def test_agreement(digests: list[tuple[int, str] | None], verdict: str) -> None:
    pods = [{"digest": {"step": d[0], "sha256": d[1]} if d else None} for d in digests]
    assert figures.agreement(pods) == verdict


def test_shares_fill_the_bar() -> None:
    parts = figures.shares({"startup": 1.0, "compute": 1.0, "idle": 1.0})
    assert [part["start"] for part in parts] == [0, 333, 667]
    assert sum(part["width"] for part in parts) == 1000
    assert figures.shares({}) == []
