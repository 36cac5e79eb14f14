"""checkpoint.resume_from: where another job starts from, and in whose data it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core import events
from controller.core.checkpoint import Origin
from tests.controller.rig import Rig, spec


async def saved_job(controller: Rig, *steps: int, **sections: Any) -> str:
    """A job of two pods with checkpoints after these steps; it has ended."""
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    train = {"seed": 7, "spikes": {"window": 4}}
    document = spec(checkpoint={"every": 2, "directory": "/shared"}, train=train, **sections)
    job_id = await controller.submit(document)
    await controller.start(job_id)
    await controller.step(job_id, *range(1, steps[-1] + 1))
    assignment = controller.assignment(job_id)
    for step in steps:
        for host in controller.hosts(job_id):
            await controller.loop.ask(
                events.CheckpointWritten(host, assignment, step, "ab", 10, 1.0, 0.1, 8 * step, "")
            )
        lead = controller.hosts(job_id)[0]
        await controller.loop.ask(events.CheckpointPublished(lead, assignment, step, ""))
    fault = events.JobFaulted(controller.hosts(job_id)[0], assignment, "data", 9, "unplugged", "")
    await controller.loop.ask(fault)
    return job_id


async def refusal(
    controller: Rig, resume: dict[str, Any], sections: dict[str, Any] | None = None, **train: Any
) -> dict[str, Any]:
    train = {"seed": 7, **train}
    document = spec(checkpoint={"resume_from": resume}, train=train, **(sections or {}))
    answer = await controller.http.post("/api/v1/jobs", json=document)
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["errors"]
    return problem


async def origin_of(controller: Rig, resume: dict[str, Any], **train: Any) -> Origin:
    document = spec(checkpoint={"resume_from": resume}, train={"seed": 7, **train})
    job_id = await controller.submit(document)
    origin = controller.loop.state.jobs[job_id].spec.origin
    assert origin is not None
    return origin


async def test_a_job_goes_on_in_the_data_of_another(controller: Rig) -> None:
    job_id = await saved_job(controller, 2, 4)
    origin = await origin_of(controller, {"job": job_id})
    tokens = controller.store.job(job_id).spec.tokens_through(4)  # type: ignore[union-attr]
    assert origin == Origin(job_id, "/shared", 4, 1, 32, (2.5,) * 4, (), "ab", tokens, "sha256:d")
    assert (await origin_of(controller, {"job": job_id, "step": 2})).data_position == 16


async def test_steps_count_from_the_other_jobs_beginning(controller: Rig) -> None:
    job_id = await saved_job(controller, 2, 4)
    problem = await refusal(controller, {"job": job_id}, steps=4)
    assert (problem["pointer"], problem["hint"].rpartition(": ")[2]) == (
        "/train/steps",
        "more than 4",
    )


async def test_a_job_begins_other_data_at_the_checkpoint_of_another(controller: Rig) -> None:
    job_id = await saved_job(controller, 2, 4)
    # Another seed is another order, of data that is begun.
    origin = await origin_of(controller, {"job": job_id, "data": "anew"}, seed=8)
    assert (origin.step, origin.data_position, origin.data_digest) == (4, 0, None)
    # The losses of other data are no measure of these.
    assert (origin.losses, origin.skipped) == ((), ())


async def test_what_cannot_be_resumed_from_is_refused_with_what_can(controller: Rig) -> None:
    job_id = await saved_job(controller, 2, 4)
    missing = await refusal(controller, {"job": "nobody"})
    assert missing["pointer"] == "/checkpoint/resume_from/job"
    step = await refusal(controller, {"job": job_id, "step": 3})
    assert (step["pointer"], step["hint"]) == ("/checkpoint/resume_from/step", "one of 2, 4")
    without = await controller.submit(spec(name="without"))
    nothing = await refusal(controller, {"job": without})
    assert nothing["detail"] == f"job {without} has no checkpoints"


async def test_going_on_in_another_order_is_refused(controller: Rig) -> None:
    job_id = await saved_job(controller, 2)
    problem = await refusal(controller, {"job": job_id}, seed=8)
    assert problem["pointer"] == "/train/seed"
    assert problem["hint"] == "seed: 7, or checkpoint.resume_from.data: anew"


STREAMING = {"mode": "streaming_diloco", "outer": {"every": 8, "fragments": 2, "delay": 1}}


@pytest.mark.parametrize(
    ("before", "sections", "pointer", "hint"),
    [
        ({}, {"model": {"num_layers": 3}}, "/model/num_layers", "num_layers: "),
        ({}, {"train": {"optimizer": {"kind": "adamw"}}}, "/train/optimizer/kind", "kind: adaf"),
        ({}, {"exchange": STREAMING}, "/exchange/mode", "mode: full or auto"),
        (STREAMING, {}, "/exchange/mode", "mode: diloco or streaming_diloco"),
        (
            STREAMING,
            {"exchange": {**STREAMING, "outer": {"every": 6, "fragments": 2, "delay": 1}}},
            "/exchange/outer/every",
            "every: 8",
        ),
    ],
)
async def test_a_state_of_another_kind_is_refused(
    controller: Rig, before: dict[str, Any], sections: dict[str, Any], pointer: str, hint: str
) -> None:
    job_id = await saved_job(controller, 2, exchange=before)
    others = {name: section for name, section in sections.items() if name != "train"}
    train = sections.get("train", {})
    problem = await refusal(controller, {"job": job_id}, others, **train)
    assert problem["pointer"] == pointer
    assert problem["hint"].startswith(hint)


async def test_constants_of_the_outer_optimizer_may_change(controller: Rig) -> None:
    job_id = await saved_job(controller, 2, exchange=STREAMING)
    outer = {**STREAMING["outer"], "learning_rate": 0.5}  # type: ignore[dict-item]
    exchange = {**STREAMING, "outer": outer, "dtype": "int4"}
    document = spec(
        checkpoint={"resume_from": {"job": job_id}}, train={"seed": 7}, exchange=exchange
    )
    assert await controller.submit(document)


async def test_a_checkpoint_deleted_while_a_job_is_submitted_is_a_conflict(
    controller: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    live = await controller.submit(spec(checkpoint={"every": 2}))
    origin = Origin(live, "", 2, 1, 16, (), ())
    monkeypatch.setattr("controller.api.submissions.origin_of", lambda *_: origin)
    answer = await controller.http.post("/api/v1/jobs", json=spec(name="late"))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        409,
        "checkpoint-gone",
    )
    assert f"GET /jobs/{live}/checkpoints" in answer.json()["detail"]
