"""Submitting, listing, looking at, cancelling and deleting jobs over HTTP."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import sqlalchemy.event

from tests.controller.rig import SPEC, Rig, spec

YAML = """
version: 1
name: from-yaml
model: {preset: palm-tiny}
data: {sources: [{kind: text, paths: ["python-stdlib:**/*.py"]}]}
train: {steps: 3, global_batch: 4, sequence_length: 64, microbatch: 2}
"""


async def running(controller: Rig, *, steps: int = 20) -> str:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    job_id = await controller.submit(spec(train={"steps": steps}))
    await controller.start(job_id)
    return job_id


async def succeeded(controller: Rig) -> str:
    job_id = await running(controller, steps=2)
    await controller.step(job_id, 1, 2)
    return job_id


async def state_of(controller: Rig, job_id: str) -> str:
    return (await controller.http.get(f"/api/v1/jobs/{job_id}")).json()["state"]


async def test_submit_answers_the_job_and_where_it_is(controller: Rig) -> None:
    answer = await controller.http.post("/api/v1/jobs", json=SPEC)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert job["state"] == "PENDING"
    assert job["reason"]["code"] == "DoesNotFit"
    assert "needs 2 pods of 1 device" in job["reason"]["message"]
    assert job["queue_position"] == 1
    assert job["loss"] is None


@pytest.mark.parametrize("media_type", ["application/yaml", "text/yaml; charset=utf-8"])
async def test_submit_reads_yaml(controller: Rig, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = await controller.http.post("/api/v1/jobs", content=YAML, headers=headers)
    assert answer.status_code == 201
    stored = (await controller.http.get(f"/api/v1/jobs/{answer.json()['id']}/spec")).json()
    assert stored["text"] == YAML
    assert stored["normalised"]["train"]["optimizer"]["kind"] == "adafactor"


async def test_ids_sort_by_time(controller: Rig) -> None:
    ids = [await controller.submit() for _ in range(3)]
    assert [job_id[:13] for job_id in ids] == sorted(job_id[:13] for job_id in ids)
    assert len(set(ids)) == 3


async def test_the_same_key_and_body_give_the_same_job(controller: Rig) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await controller.http.post("/api/v1/jobs", json=SPEC, headers=headers)
    again = await controller.http.post("/api/v1/jobs", json=SPEC, headers=headers)
    assert again.status_code == 201
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert len((await controller.http.get("/api/v1/jobs")).json()["jobs"]) == 1


async def test_the_same_key_with_another_body_is_refused(controller: Rig) -> None:
    headers = {"Idempotency-Key": "k1"}
    await controller.http.post("/api/v1/jobs", json=SPEC, headers=headers)
    other = await controller.http.post("/api/v1/jobs", json=spec(name="other"), headers=headers)
    assert other.status_code == 422
    assert other.json()["type"].endswith("idempotency-key-reused")


async def test_a_refused_spec_does_not_use_up_its_key(controller: Rig) -> None:
    headers = {"Idempotency-Key": "k1"}
    bad = await controller.http.post("/api/v1/jobs", json=spec(version=9), headers=headers)
    good = await controller.http.post("/api/v1/jobs", json=SPEC, headers=headers)
    assert (bad.status_code, good.status_code) == (422, 201)


@pytest.mark.parametrize("action", ["validate", "plan"])
async def test_dry_runs_answer_a_plan_and_start_nothing(controller: Rig, action: str) -> None:
    answer = await controller.http.post(f"/api/v1/jobs:{action}", json=SPEC)
    plan = answer.json()
    assert answer.status_code == 200
    assert plan["parameters"] == 1_150_976
    assert plan["model_flops_per_token"] > 6 * plan["parameters"]
    assert plan["step_seconds"] is None
    assert [warning["code"] for warning in plan["warnings"]] == ["DoesNotFit"]
    assert (await controller.http.get("/api/v1/jobs")).json()["jobs"] == []


async def test_an_invalid_spec_is_refused_by_every_way_in(controller: Rig) -> None:
    for path in ("jobs", "jobs:validate", "jobs:plan"):
        answer = await controller.http.post(f"/api/v1/{path}", json=spec(version=9))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/version"


async def test_a_running_job_shows_progress(controller: Rig) -> None:
    job_id = await running(controller)
    await controller.step(job_id, *range(1, 11))
    job = (await controller.http.get(f"/api/v1/jobs/{job_id}")).json()
    assert (job["state"], job["step"], job["target_steps"]) == ("RUNNING", 10, 20)
    assert job["loss"] == 2.5
    assert job["mfu"] > 0
    assert job["flops"]["peak_flops_per_second"] == 100e9
    assert [pod["digest"]["step"] for pod in job["pods"]] == [10, 10]
    assert len({pod["digest"]["sha256"] for pod in job["pods"]}) == 1


async def test_a_cancelled_job_can_be_retried_and_no_other(controller: Rig) -> None:
    job_id = await controller.submit()
    path = f"/api/v1/jobs/{job_id}"
    early = await controller.http.post(f"{path}/retry")
    assert (early.status_code, early.json()["type"].rsplit(":")[-1]) == (409, "job-has-not-failed")
    await controller.http.post(f"{path}/cancel")
    answer = await controller.http.post(f"{path}/retry")
    job = answer.json()
    assert (answer.status_code, job["state"], job["attempt"]) == (200, "PENDING", 2)
    assert job["finished_at"] is None
    assert (await controller.http.post(f"{path}/retry")).status_code == 409
    assert (await controller.http.post("/api/v1/jobs/nobody/retry")).status_code == 404
    await controller.http.post(f"{path}/cancel")
    finished = await succeeded(controller)
    assert (await controller.http.post(f"/api/v1/jobs/{finished}/retry")).status_code == 409


async def test_what_cannot_be_saved_is_a_conflict(controller: Rig) -> None:
    job_id = await running(controller)
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/checkpoint")
    assert answer.status_code == 409
    assert "no `checkpoint` section" in answer.json()["detail"]
    assert (await controller.http.post("/api/v1/jobs/nobody/checkpoint")).status_code == 404
    answer = await controller.http.get(f"/api/v1/jobs/{job_id}/checkpoints")
    assert answer.json() == {"checkpoints": []}
    await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")


async def test_a_finished_job_stays_readable(controller: Rig) -> None:
    job_id = await succeeded(controller)
    assert job_id not in controller.loop.state.jobs
    job = (await controller.http.get(f"/api/v1/jobs/{job_id}")).json()
    assert (job["state"], job["step"], job["loss"]) == ("SUCCEEDED", 2, 2.5)
    assert job["finished_at"] is not None


async def test_lists_show_live_jobs_as_they_are_now(controller: Rig) -> None:
    job_id = await running(controller)
    await controller.step(job_id, 1, 2, 3)
    (job,) = (await controller.http.get("/api/v1/jobs")).json()["jobs"]
    assert (job["id"], job["step"]) == (job_id, 3)


async def test_lists_come_in_pages_newest_first(controller: Rig) -> None:
    submitted = [await controller.submit(spec(name=f"job-{i}")) for i in range(5)]
    seen: list[str] = []
    parameters: dict[str, Any] = {"page_size": 2}
    for _ in range(3):
        page = (await controller.http.get("/api/v1/jobs", params=parameters)).json()
        seen += [job["id"] for job in page["jobs"]]
        parameters["page_token"] = page["next_page_token"]
    assert page["next_page_token"] is None
    assert seen == submitted[::-1]


async def test_lists_are_filtered(controller: Rig) -> None:
    kept = await controller.submit(spec(name="kept", labels={"team": "a"}))
    gone = await controller.submit(spec(name="gone", labels={"team": "b"}))
    await controller.http.post(f"/api/v1/jobs/{gone}/cancel")

    async def ids(query: str) -> list[str]:
        answer = await controller.http.get(f"/api/v1/jobs?{query}")
        return [job["id"] for job in answer.json()["jobs"]]

    assert await ids("state=PENDING") == [kept]
    assert await ids("state=PENDING&state=CANCELLED") == [gone, kept]
    assert await ids("label=team=b") == [gone]
    assert await ids("q=kep") == [kept]
    assert await ids("queue=default") == [gone, kept]
    assert await ids("queue=other") == []


async def test_fields_narrow_the_answer(controller: Rig) -> None:
    job_id = await controller.submit()
    answer = await controller.http.get("/api/v1/jobs?fields=name,state")
    assert answer.json()["jobs"] == [{"id": job_id, "name": "tiny", "state": "PENDING"}]


@pytest.mark.parametrize(
    "query",
    [
        "fields=nope",
        "page_token=x",
        "page_token=WzFd",
        "page_size=0",
        "page_size=501",
        "state=BUSY",
        "label=x",
    ],
)
async def test_wrong_queries_are_refused(controller: Rig, query: str) -> None:
    await controller.submit()
    answer = await controller.http.get(f"/api/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_cancel_of_a_waiting_job(controller: Rig) -> None:
    job_id = await controller.submit()
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")


async def test_cancel_of_a_running_job_can_be_repeated(controller: Rig) -> None:
    job_id = await running(controller)
    for _ in range(2):
        answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLING")


async def test_cancel_of_a_cancelled_job_is_no_error(controller: Rig) -> None:
    job_id = await controller.submit()
    await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")


async def test_cancel_of_a_job_that_ended_by_itself_is_a_conflict(controller: Rig) -> None:
    job_id = await succeeded(controller)
    answer = await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 409
    assert "SUCCEEDED" in answer.json()["detail"]


async def test_delete_forgets_a_finished_job(controller: Rig) -> None:
    job_id = await succeeded(controller)
    assert (await controller.http.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
    for path in ("", "/steps", "/events", "/spec"):
        answer = await controller.http.get(f"/api/v1/jobs/{job_id}{path}")
        assert answer.status_code == 404
    assert job_id not in (await controller.http.get("/metrics")).text


async def test_delete_is_written_by_the_loops_writer(controller: Rig) -> None:
    job_id = await succeeded(controller)
    threads: set[str] = set()

    def seen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE"):
            threads.add(threading.current_thread().name)

    sqlalchemy.event.listen(controller.store._engine, "before_cursor_execute", seen)
    await controller.http.delete(f"/api/v1/jobs/{job_id}")
    assert threads == {"store-writer_0"}


async def test_delete_of_a_live_job_is_a_conflict(controller: Rig) -> None:
    job_id = await controller.submit()
    answer = await controller.http.delete(f"/api/v1/jobs/{job_id}")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"job {job_id} is PENDING; cancel it first"
    assert await state_of(controller, job_id) == "PENDING"


async def test_steps_of_a_finished_job(controller: Rig) -> None:
    job_id = await running(controller, steps=100)
    for step in range(1, 101):
        await controller.step(job_id, step)
    url = f"/api/v1/jobs/{job_id}/steps"
    page = (await controller.http.get(url, params={"after": 10, "limit": 5})).json()
    assert [step["step"] for step in page["steps"]] == [11, 12, 13, 14, 15]
    assert page["next_after"] == 15
    assert page["steps"][0]["loss"] == 2.5
    sample = (await controller.http.get(url, params={"points": 10})).json()["steps"]
    assert len(sample) <= 11
    assert (sample[0]["step"], sample[-1]["step"]) == (1, 100)
    end = (await controller.http.get(url, params={"after": 100})).json()
    assert end == {"steps": [], "next_after": 100}
    tenth = (await controller.http.get(url, params={"after": 9, "limit": 1})).json()["steps"][0]
    assert tenth["digests"] == {"pod-0": "d" * 64, "pod-1": "d" * 64}


async def test_events_tell_the_story(controller: Rig) -> None:
    job_id = await succeeded(controller)
    page = (await controller.http.get(f"/api/v1/jobs/{job_id}/events")).json()
    assert [event["kind"] for event in page["events"]] == [
        "job.submitted",
        "job.admitted",
        "job.lowered",
        "job.started",
        "job.succeeded",
    ]
    assert all(event["job"] == job_id for event in page["events"])
    after = page["events"][1]["seq"]
    rest = await controller.http.get(f"/api/v1/jobs/{job_id}/events", params={"after": after})
    assert rest.json()["events"] == page["events"][2:]
    everything = (await controller.http.get("/api/v1/events")).json()["events"]
    assert {"host.attached", "pod.ready"} <= {event["kind"] for event in everything}


async def test_a_loss_that_is_not_finite_is_null_with_a_flag(controller: Rig) -> None:
    job_id = await running(controller)
    await controller.step(job_id, 1, loss=float("nan"))
    answer = await controller.http.get(f"/api/v1/jobs/{job_id}")
    job = json.loads(answer.text, parse_constant=lambda name: pytest.fail(name))
    assert job["loss"] is None
    assert job["loss_is_finite"] is False


async def test_pods_and_links(controller: Rig) -> None:
    await controller.attach_pod("pod-1", devices=4, peak=None)
    await controller.attach_pod("pod-0")
    await controller.hear("pod-0", "pod-1", 1000, 2.0, 1)
    pods = (await controller.http.get("/api/v1/pods")).json()["pods"]
    assert [pod["name"] for pod in pods] == ["pod-0", "pod-1"]
    assert pods[1]["num_devices"] == 4
    assert pods[1]["peak_flops_per_second"] == {}
    assert (await controller.http.get("/api/v1/pods/pod-0")).json()["state"] == "READY"
    assert (await controller.http.get("/api/v1/pods/pod-9")).status_code == 404
    (link,) = (await controller.http.get("/api/v1/links")).json()["links"]
    assert (link["src"], link["dst"], link["bandwidth_bytes_per_second"]) == ("pod-0", "pod-1", 500)
