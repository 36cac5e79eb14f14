"""Whatever goes wrong, the answer is a problem document, and nothing of the inside leaks."""

from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from controller.api.app import create_app
from tests.controller.rig import SPEC, Rig, rig

FIELDS = {"type", "title", "status", "detail", "instance", "request_id", "errors"}


def assert_problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == FIELDS
    assert document["status"] == status
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return document


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/jobs/nobody", 404),
        ("GET", "/api/v1/jobs/nobody/steps", 404),
        ("GET", "/api/v1/jobs/nobody/events", 404),
        ("GET", "/api/v1/jobs/nobody/spec", 404),
        ("POST", "/api/v1/jobs/nobody/cancel", 404),
        ("DELETE", "/api/v1/jobs/nobody", 404),
        ("POST", "/api/v1/jobs/nobody/suspend", 404),
        ("GET", "/static/nothing.css", 404),
        ("PUT", "/api/v1/jobs", 405),
        ("POST", "/api/v1/pods", 405),
        ("GET", "/api/v1/jobs?page_size=many", 422),
        ("GET", "/api/v1/events?after=-1", 422),
        ("GET", "/api/v1/events?after=99999999999999999999999", 422),
        ("GET", "/api/v1/stream?topics=weather", 422),
        ("GET", "/api/v1/stream", 422),
    ],
)
async def test_every_error_is_a_problem(
    controller: Rig, method: str, path: str, status: int
) -> None:
    assert_problem(await controller.http.request(method, path), status)


async def test_unknown_media_types_are_refused(controller: Rig) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        answer = await controller.http.post("/api/v1/jobs", content=b"{}", headers=headers)
        document = assert_problem(answer, 415)
        assert "application/yaml" in document["detail"]


async def test_text_that_is_not_utf_8_is_refused(controller: Rig) -> None:
    headers = {"Content-Type": "application/yaml"}
    answer = await controller.http.post("/api/v1/jobs", content=b"a: \xff", headers=headers)
    assert_problem(answer, 422)


async def test_lone_surrogates_are_told_and_do_no_harm(controller: Rig) -> None:
    body = json.dumps({**SPEC, "name": "x\ud800", "\ud800": 1})
    headers = {"Content-Type": "application/json"}
    answer = await controller.http.post("/api/v1/jobs", content=body, headers=headers)
    assert_problem(answer, 422)


async def test_a_body_of_10_mb_is_refused(controller: Rig) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await controller.http.post("/api/v1/jobs", content=b"[" * 10_000_000, headers=headers)
    assert_problem(answer, 413)


async def test_a_body_is_refused_as_soon_as_it_is_too_large(controller: Rig) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 << 20:
            sent += 65536
            yield b"[" * 65536

    headers = {"Content-Type": "application/yaml"}
    answer = await controller.http.post("/api/v1/jobs", content=endless(), headers=headers)
    assert_problem(answer, 413)
    assert sent < 2 << 20


@pytest.mark.parametrize("media_type", ["application/json", "application/yaml"])
async def test_a_thousand_levels_are_refused(controller: Rig, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = await controller.http.post(
        "/api/v1/jobs", content=b"[" * 1000 + b"]" * 1000, headers=headers
    )
    document = assert_problem(answer, 422)
    assert "levels" in document["errors"][0]["detail"]


async def test_an_unexpected_error_tells_only_its_request_id(tmp_path: pathlib.Path) -> None:
    def broken() -> list[str]:
        raise RuntimeError("secret of the inside")

    async with rig(tmp_path, ready=broken) as controller:
        answer = await controller.http.get("/readyz")
        document = assert_problem(answer, 500)
        assert "secret" not in answer.text
        assert document["request_id"] in document["detail"]


async def test_the_callers_request_id_is_kept(controller: Rig) -> None:
    answer = await controller.http.get("/nowhere", headers={"X-Request-ID": "mine-1"})
    assert assert_problem(answer, 404)["request_id"] == "mine-1"
    forged = await controller.http.get("/nowhere", headers={"X-Request-ID": "a b\tc"})
    assert assert_problem(forged, 404)["request_id"] != "a b\tc"


async def test_readiness_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, ready=lambda: ["no port for workers"]) as controller:
        answer = await controller.http.get("/readyz")
        assert_problem(answer, 503)
        assert "no port for workers" in answer.text
        assert (await controller.http.get("/livez")).status_code == 200


async def test_every_route_is_described(controller: Rig) -> None:
    document = (await controller.http.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert {"submitJob", "listJobs", "getJob", "cancelJob", "listSteps", "stream"} <= set(ids)
    assert {"Spec", "Problem", "Train"} <= set(document["components"]["schemas"])
    for operation in operations:
        assert "application/problem+json" in operation["responses"]["422"]["content"]
    assert create_app(controller.context).docs_url is None


async def test_request_that_the_store_cannot_serve_says_what_is_wrong_with_it(
    tmp_path: pathlib.Path,
) -> None:
    async with rig(tmp_path) as controller:
        (tmp_path / "test.db").rename(tmp_path / "elsewhere.db")
        answer = await controller.http.post("/api/v1/jobs", json=SPEC)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:landbridge:problem:store-failed"
        assert "was moved, deleted or replaced" in answer.json()["detail"]
        # The loop has ended with it, and nobody waits for what cannot come.
        again = await controller.http.post("/api/v1/jobs", json=SPEC)
        assert again.status_code == 503
