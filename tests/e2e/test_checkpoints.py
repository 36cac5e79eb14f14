"""Everything dies at once; what comes back ends in the same bits, from whatever is left on disk."""

from __future__ import annotations

import pathlib
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STEPS, EVERY = 60, 10


@pytest.fixture(scope="module")
def document(make_spec):
    return make_spec(
        train={"steps": STEPS, "digest_every": 5}, checkpoint={"every": EVERY, "keep": 3}
    )


def history(client, job_id: str) -> dict[int, tuple[float, dict[str, str]]]:
    """Step -> loss and digests."""
    steps = client.steps(job_id, limit=1000)["steps"]
    return {step["step"]: (step["loss"], step["digests"]) for step in steps}


def kinds(client, job_id: str) -> list[str]:
    return [event["kind"] for event in client.events(job_id)["events"]]


@pytest.fixture(scope="module")
def undisturbed(fleet, document):
    """History of the job when nothing happens to it."""
    with fleet() as running:
        job = running.client.wait(running.client.submit(document)["id"], timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert [saved["step"] for saved in job["checkpoints"]] == [40, 50, 60]
        assert kinds(running.client, job["id"]).count("checkpoint.published") == 6
        folders = sorted((running.state / "checkpoints" / job["id"]).iterdir())
        assert [path.name for path in folders] == [f"step-{n:08d}.g1" for n in (40, 50, 60)]
        final = history(running.client, job["id"])
        assert job["checkpoints"][-1]["state_sha256"] == final[STEPS][1]["pod-0"]
        return final


def killed_after_checkpoints(fleet, document, count: int) -> tuple[pathlib.Path, str]:
    """Kills the controller, and by its leash every worker, once so many are published."""
    with fleet() as running:
        job_id = running.client.submit(document)["id"]
        deadline = time.monotonic() + 120
        while len(running.client.job(job_id)["checkpoints"]) < count:
            assert time.monotonic() < deadline, running.client.job(job_id)["reason"]
            time.sleep(0.02)
        running.controller.process.kill()
        running.controller.process.wait()
        return running.state, job_id


def damage(folder: pathlib.Path) -> None:
    """One bit of the largest file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def test_a_killed_run_goes_on_from_its_checkpoint_in_the_same_bits(fleet, document, undisturbed):
    state, job_id = killed_after_checkpoints(fleet, document, 2)
    with fleet(state=state) as running:
        job = running.client.wait(job_id, timeout=120)
        assert (job["state"], job["attempt"], job["generation"]) == ("SUCCEEDED", 2, 2)
        started = [
            event["message"]
            for event in running.client.events(job_id)["events"]
            if event["kind"] == "job.started"
        ]
        assert "goes on after step" in started[1]
        assert history(running.client, job_id) == undisturbed


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(fleet, document, undisturbed):
    state, job_id = killed_after_checkpoints(fleet, document, 2)
    newest = max((state / "checkpoints" / job_id).glob("*/manifest.json")).parent
    damage(newest)
    with fleet(state=state) as running:
        job = running.client.wait(job_id, timeout=120)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert "checkpoint.damaged" in kinds(running.client, job_id)
        assert history(running.client, job_id) == undisturbed


def test_a_job_goes_on_without_a_disk_to_write_to(fleet, document, undisturbed):
    with fleet() as running:
        (running.state / "checkpoints").write_text("a file where a folder should be")
        job = running.client.wait(running.client.submit(document)["id"], timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert job["checkpoints"] == []
        assert kinds(running.client, job["id"]).count("checkpoint.failed") == STEPS // EVERY
        assert history(running.client, job["id"]) == undisturbed
