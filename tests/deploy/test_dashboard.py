"""The Grafana dashboard is current, explains itself, and asks only for metrics that exist."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from ruamel.yaml import YAML

from controller.core.events import CheckpointWritten
from controller.core.turn import State
from controller.runtime.metrics import Metrics
from tests.controller.rig import Rig, rig, serving, spec

ROOT = pathlib.Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "job.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}

TOKEN = "token-of-the-dashboard-tests"

STEP_SECONDS = 0.2
"""Between steps of the played job; with a scrape a second, every rate is over several of them."""


def load(path: pathlib.Path) -> Any:
    return YAML(typ="safe").load(path)


def expressions() -> Iterator[tuple[str, str]]:
    """Panel title and PromQL of every query."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_the_committed_file_is_what_python_writes() -> None:
    command = [sys.executable, str(GRAFANA / "dashboard.py"), "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_explains_itself(title: str) -> None:
    panel = PANELS[title]
    assert len(panel["description"]) > 40
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"]
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_fill_the_grid_without_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in PANELS.values():
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    height = max(y for _, y in cells) + 1
    assert cells == {(x, y) for x in range(24) for y in range(height)}
    assert len({panel["id"] for panel in PANELS.values()}) == len(PANELS)


def test_the_data_source_is_the_provisioned_one() -> None:
    provisioned = load(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job"]
    assert variables["datasource"]["current"]["value"] == provisioned["datasources"][0]["uid"]
    references = [variables["job"], *PANELS.values()]
    references += [target for panel in PANELS.values() for target in panel["targets"]]
    assert {reference["datasource"]["uid"] for reference in references} == {"${datasource}"}


def test_every_metric_and_label_exists() -> None:
    known: set[str] = set()
    for family in Metrics(State).registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        known |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    queries = [expr for _, expr in expressions()]
    queries += [v["definition"] for v in DASHBOARD["templating"]["list"] if "definition" in v]
    queries += [mark["expr"] for mark in DASHBOARD["annotations"]["list"]]
    used = {name for query in queries for name in re.findall(r"landbridge_\w+", query)}
    assert used and used <= known, used - known


@pytest.mark.prometheus
def test_prometheus_accepts_its_configuration() -> None:
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    command = ["promtool", "check", "config", "--syntax-only", str(config)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert answer.returncode == 0, answer.stderr


class Prometheus:
    """A real server with our configuration, except for where the controller is and how often."""

    def __init__(self, address: str) -> None:
        self._http = httpx2.AsyncClient(base_url=address)

    async def ask(self, expr: str) -> list[dict[str, Any]]:
        answer = await self._http.get("/api/v1/query", params={"query": expr})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]

    async def close(self) -> None:
        await self._http.aclose()


async def listening_address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = []
    async for line in process.stderr:
        said.append(line.decode())
        found = re.search(r'msg="Listening on" address=(\S+)', said[-1])
        if found:
            return f"http://{found[1]}"
    raise AssertionError("".join(said))


async def start_prometheus(
    folder: pathlib.Path, controller: str
) -> tuple[asyncio.subprocess.Process, Prometheus]:
    config = load(ROOT / "deploy" / "prometheus" / "prometheus.yml")
    (scrape,) = config["scrape_configs"]
    config["global"]["scrape_interval"] = "1s"
    scrape["authorization"]["credentials_file"] = str(folder / "token")
    scrape["static_configs"] = [{"targets": [controller.removeprefix("http://")]}]
    (folder / "token").write_text(TOKEN)
    (folder / "prometheus.yml").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return process, Prometheus(await listening_address(process))


async def play(controller: Rig, job_id: str) -> None:
    """A step now and then, evaluated and saved, and gradients across the link."""
    assignment = controller.assignment(job_id)
    for step in range(1, 10_000):
        await controller.step(job_id, step)
        await controller.evaluate(job_id, step, 2.0)
        for host in controller.hosts(job_id):
            written = CheckpointWritten(host, assignment, step, "ab", 10, 0.4, 0.1, step, "")
            await controller.loop.ask(written)
        await controller.hear("pod-0", "pod-1", 1000 * step, 0.1 * step, 0)
        await controller.hear("pod-1", "pod-0", 1000 * step, 0.1 * step, 0)
        await asyncio.sleep(STEP_SECONDS)


async def unanswered(prometheus: Prometheus, job_id: str) -> list[str]:
    """Queries of the dashboard that find nothing, as Grafana would send them."""
    empty = []
    for title, expr in expressions():
        sent = expr.replace("$job", job_id).replace("$__rate_interval", "4s")
        if not await prometheus.ask(sent):
            empty.append(f"{title}: {sent}")
    return empty


@pytest.mark.prometheus
async def test_every_query_finds_data_in_a_real_prometheus(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, token=TOKEN) as controller, serving(controller) as address:
        controller.http.headers["authorization"] = f"Bearer {TOKEN}"
        for pod in ("pod-0", "pod-1"):
            await controller.attach_pod(pod)
        train = {"steps": 10_000, "eval": {"every": 1, "share": 0.1}}
        waits = {"on_pod_loss": "wait"}
        job_id = await controller.submit(
            spec(train=train, checkpoint={"every": 1}, placement=waits)
        )
        await controller.start(job_id)
        # An interruption, so that there is a cause to count.
        for pod in ("pod-0", "pod-1"):
            await controller.detach(pod)
        for pod in ("pod-0", "pod-1"):
            await controller.attach_pod(pod)
        await controller.start(job_id)
        playing = asyncio.create_task(play(controller, job_id))
        process, prometheus = await start_prometheus(tmp_path, address)
        try:
            async with asyncio.timeout(30):
                while empty := await unanswered(prometheus, job_id):
                    await controller.loop.changed()
        except TimeoutError:
            pytest.fail("no data for " + "; ".join(empty))
        finally:
            up = await prometheus.ask("up")
            await prometheus.close()
            process.terminate()
            await process.wait()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
    assert [sample["value"][1] for sample in up] == ["1"]
