"""Everything dies at once; what comes back ends in the same bits, from whatever is left on disk."""

from __future__ import annotations

import os
import pathlib
import shutil
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STEPS, EVERY = 60, 10


@pytest.fixture(scope="module")
def document(make_spec):
    return make_spec(
        train={"steps": STEPS, "digest_every": 5},
        placement={"pods": {"min": 1, "max": 2}},
        checkpoint={"every": EVERY, "keep": 3},
    )


def submit(running, document) -> str:
    """The id of the job, which gets both pods."""
    running.client.wait_for_pods(2)
    return running.client.submit(document)["id"]


def history(client, job_id: str) -> dict[int, tuple[float, set[str]]]:
    """Step -> loss and digests, of which there is one when all pods agree."""
    steps = client.steps(job_id, limit=1000)["steps"]
    return {step["step"]: (step["loss"], set(step["digests"].values())) for step in steps}


def kinds(client, job_id: str) -> list[str]:
    return [event["kind"] for event in client.events(job_id)["events"]]


@pytest.fixture(scope="module")
def lossy(document):
    """The same in int8 on the link, each pod with losses of its own, on two pods and no fewer."""
    return {
        **document,
        "placement": {**document["placement"], "pods": 2},
        "exchange": {"dtype": "int8", "error_feedback": True},
    }


@pytest.fixture(scope="module")
def undisturbed_lossy(fleet, lossy):
    """State folder, id and history of that job when nothing happens to it."""
    with fleet() as running:
        job = running.client.wait(submit(running, lossy), timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        planned = running.client.plan(lossy)["checkpoint_bytes"]
        assert job["checkpoints"][-1]["num_bytes"] == pytest.approx(planned, rel=0.01)
        return running.state, job["id"], history(running.client, job["id"])


@pytest.fixture(scope="module")
def undisturbed(fleet, document):
    """History of the job when nothing happens to it."""
    with fleet() as running:
        job = running.client.wait(submit(running, document), timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert len(job["pods"]) == 2
        assert [saved["step"] for saved in job["checkpoints"]] == [40, 50, 60]
        assert kinds(running.client, job["id"]).count("checkpoint.published") == 6
        kept = {f"step-{step:08d}.g1" for step in (40, 50, 60)}
        folder = running.state / "checkpoints" / job["id"]
        # Old ones are deleted after the new one is published, by the host and not by the job.
        until(lambda: {path.name for path in folder.iterdir()} == kept)
        final = history(running.client, job["id"])
        assert {job["checkpoints"][-1]["state_sha256"]} == final[STEPS][1]
        return final


def until(holds) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed_after_checkpoints(fleet, document, count: int) -> tuple[pathlib.Path, str]:
    """Kills the controller, and by its leash every worker, once so many are published."""
    with fleet() as running:
        job_id = submit(running, document)
        until(lambda: len(running.client.job(job_id)["checkpoints"]) >= count)
        running.controller.process.kill()
        running.controller.process.wait()
        return running.state, job_id


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(folder: pathlib.Path) -> None:
    """One bit of the largest file."""
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder: pathlib.Path) -> None:
    """The largest file loses its second half."""
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def swap(folder: pathlib.Path) -> None:
    """Another checkpoint, sound by itself, in the place of this one."""
    before = min(folder.parent.glob("*/manifest.json")).parent
    shutil.rmtree(folder)
    shutil.copytree(before, folder)


@pytest.mark.parametrize("pods", [2, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_run_goes_on_from_its_checkpoint_in_the_same_bits(
    fleet, document, undisturbed, pods
):
    state, job_id = killed_after_checkpoints(fleet, document, 2)
    with fleet(pods, state=state) as running:
        job = running.client.wait(job_id, timeout=120)
        assert (job["state"], job["attempt"], job["generation"]) == ("SUCCEEDED", 2, 2)
        assert len(job["pods"]) <= pods
        started = [
            event["message"]
            for event in running.client.events(job_id)["events"]
            if event["kind"] == "job.started"
        ]
        assert "goes on after step" in started[1]
        assert history(running.client, job_id) == undisturbed


@pytest.mark.parametrize(
    "damage", [flip, *(pytest.param(each, marks=pytest.mark.long) for each in (truncate, swap))]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    fleet, document, undisturbed, damage
):
    state, job_id = killed_after_checkpoints(fleet, document, 2)
    newest = max((state / "checkpoints" / job_id).glob("*/manifest.json")).parent
    damage(newest)
    with fleet(state=state) as running:
        job = running.client.wait(job_id, timeout=120)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert "checkpoint.damaged" in kinds(running.client, job_id)
        assert history(running.client, job_id) == undisturbed


def test_what_int8_loses_goes_on_with_a_killed_run(fleet, lossy, undisturbed_lossy):
    state, job_id = killed_after_checkpoints(fleet, lossy, 2)
    with fleet(state=state) as running:
        job = running.client.wait(job_id, timeout=120)
        assert (job["state"], job["attempt"]) == ("SUCCEEDED", 2), job["reason"]
        assert history(running.client, job_id) == undisturbed_lossy[2]


def test_a_job_on_one_pod_in_float32_goes_on_from_int8(fleet, lossy, undisturbed_lossy):
    state, job_id, _ = undisturbed_lossy
    onward = {
        **lossy,
        "exchange": {},
        "train": {**lossy["train"], "steps": STEPS + 5},
        "placement": {**lossy["placement"], "pods": 1},
        "checkpoint": {"every": EVERY, "resume_from": {"job": job_id}},
    }
    with fleet(1, state=state) as running:
        running.client.wait_for_pods(1)
        job = running.client.wait(running.client.submit(onward)["id"], timeout=120)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert max(history(running.client, job["id"])) == STEPS + 5


def test_a_job_goes_on_without_a_disk_to_write_to(fleet, document, undisturbed):
    with fleet() as running:
        (running.state / "checkpoints").write_text("a file where a folder should be")
        job = running.client.wait(submit(running, document), timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert job["checkpoints"] == []
        assert kinds(running.client, job["id"]).count("checkpoint.failed") == STEPS // EVERY
        assert history(running.client, job["id"]) == undisturbed


def test_a_cancelled_run_is_retried_from_a_checkpoint_made_on_request(fleet, document):
    """Windows are 64 steps here, so the state is saved after step 65 at the earliest."""
    steps = 200
    long = {**document, "train": {**document["train"], "steps": steps}}
    rarely = {**long, "checkpoint": {"every": 10_000, "keep": 3}}
    with fleet() as running:
        undisturbed = running.client.wait(submit(running, long), timeout=120)
        job_id = submit(running, rarely)
        until(lambda: running.client.job(job_id)["step"] > 0)
        running.client.checkpoint(job_id)
        until(lambda: running.client.job(job_id)["checkpoints"])
        running.client.cancel(job_id)
        cancelled = running.client.wait(job_id, timeout=30)
        assert cancelled["state"] == "CANCELLED"
        (saved,) = cancelled["checkpoints"]
        assert 65 <= saved["step"] < steps
        running.client.retry(job_id)
        job = running.client.wait(job_id, timeout=120)
        assert (job["state"], job["attempt"]) == ("SUCCEEDED", 2)
        assert [found["step"] for found in job["checkpoints"]] == [saved["step"], steps]
        both = [history(running.client, found) for found in (job_id, undisturbed["id"])]
        assert both[0] == both[1]
