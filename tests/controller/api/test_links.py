from __future__ import annotations

import pathlib
from typing import Any

import pytest

from controller.core import commands
from controller.core.link import LinkConditions
from tests.controller.rig import Rig, rig

UNLIMITED = LinkConditions()


async def put(controller: Rig, pod: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = await controller.http.put(f"/api/v1/links/{pod}", json=body)
    return answer.status_code, answer.json()


async def shown(controller: Rig, pod: str) -> dict[str, Any]:
    pods = (await controller.http.get("/api/v1/links")).json()["pods"]
    return next(document for document in pods if document["name"] == pod)


async def test_conditions_are_ordered_and_shown_once_they_are_in_force(controller: Rig) -> None:
    await controller.attach_pod("pod-0")
    await controller.emulate("pod-0", UNLIMITED)
    body = {"bandwidth": "200Mbit", "latency": None, "drop": "0.1%", "partitioned": True}
    status, document = await put(controller, "pod-0", body)
    assert status == 202
    assert document["name"] == "pod-0"
    assert document["conditions"] == {
        **dict.fromkeys(("latency", "jitter", "stall_every", "stall")),
        "bandwidth": "200Mbit",
        "drop": "0.1%",
        "partitioned": True,
    }
    order = controller.commands[-1]
    assert isinstance(order, commands.SetLinkConditions)
    assert (await shown(controller, "pod-0"))["conditions"]["bandwidth"] is None
    await controller.emulate("pod-0", order.conditions)
    assert (await shown(controller, "pod-0"))["conditions"] == document["conditions"]


async def test_the_change_is_an_event_of_the_fleet_and_of_the_job(controller: Rig) -> None:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    await controller.emulate("pod-0", UNLIMITED)
    job_id = await controller.submit()
    await put(controller, "pod-0", {"bandwidth": "10Mbit"})
    for path in ("/api/v1/events", f"/api/v1/jobs/{job_id}/events"):
        found = (await controller.http.get(path)).json()["events"]
        (event,) = [event for event in found if event["kind"] == "link.changed"]
        assert event["pod"] == "pod-0"
        assert event["message"] == "what pod-0 sends: bandwidth 10Mbit, by a request to the API"
        assert event["data"]["bandwidth_bytes_per_second"] == 1.25e6


async def test_a_link_that_is_not_emulated_is_a_conflict_with_the_remedy(controller: Rig) -> None:
    await controller.attach_pod("pod-0")
    ordered = len(controller.commands)
    status, problem = await put(controller, "pod-0", {"partitioned": True})
    assert (status, problem["type"].rpartition(":")[2]) == (409, "link-not-emulated")
    assert "--link-emulator" in problem["detail"]
    assert len(controller.commands) == ordered
    assert not (await shown(controller, "pod-0"))["is_emulated"]


async def test_a_pod_that_is_not_there_is_not_found(controller: Rig) -> None:
    assert (await put(controller, "pod-9", {}))[0] == 404


@pytest.mark.parametrize(
    ("body", "pointer", "hint"),
    [
        ({"jitter": "5"}, "/jitter", "write for example 2ms"),
        ({"stall": "1s"}, "/stall_every", "write for example 30s"),
        ({"rate": "1Mbit"}, "/body/rate", ""),
        ({"partitioned": "yes"}, "/body/partitioned", ""),
    ],
)
async def test_what_is_no_link_is_named(
    controller: Rig, body: dict[str, Any], pointer: str, hint: str
) -> None:
    await controller.attach_pod("pod-0")
    await controller.emulate("pod-0", UNLIMITED)
    status, problem = await put(controller, "pod-0", body)
    assert status == 422
    assert problem["errors"][0]["pointer"] == pointer
    assert hint in problem["errors"][0]["hint"]


async def test_changing_a_link_needs_the_token(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, token="secret") as controller:
        assert (await put(controller, "pod-0", {}))[0] == 401
