"""One token for all, when one is set; and no page of another site may change anything."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.controller.rig import SPEC, Rig, rig

TOKEN = "the token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest_asyncio.fixture
async def guarded(tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, token=TOKEN) as made:
        yield made


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs", "/api/v1/stream?topics=jobs", "/metrics", "/openapi.json", "/", "/x"]
)
async def test_everything_needs_the_token(guarded: Rig, path: str) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    for headers in ({}, wrong, {"Authorization": TOKEN}, {"Authorization": "Basic dXNlcg=="}):
        answer = await guarded.http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_token_opens(guarded: Rig) -> None:
    assert (await guarded.http.get("/api/v1/jobs", headers=BEARER)).status_code == 200
    assert (await guarded.http.post("/api/v1/jobs", json=SPEC, headers=BEARER)).status_code == 201


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/login", "/static/style.css"])
async def test_probes_and_the_way_in_are_open(guarded: Rig, path: str) -> None:
    assert (await guarded.http.get(path)).status_code == 200


async def test_a_browser_is_led_to_the_login_and_gets_a_cookie(guarded: Rig) -> None:
    page = await guarded.http.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    wrong = await guarded.http.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "not the token" in wrong.text
    answer = await guarded.http.post("/login", data={"token": TOKEN})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert (await guarded.http.get("/api/v1/jobs")).status_code == 200


async def test_pages_of_other_sites_change_nothing(controller: Rig) -> None:
    job_id = await controller.submit()
    foreign = {"Origin": "http://evil.example"}
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=foreign)
    assert answer.status_code == 403
    own = {"Origin": "http://localhost"}
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=own)
    assert answer.status_code == 200
