"""What goes wrong at run time is said, costs one job at most, and leaves nothing behind."""

import os
import signal
import time

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

LONG = {"steps": 100_000}


def wait_for(client, job_id: str, state: str) -> dict:
    """The job once it is in the state; fails at once when it ends in another."""
    job = client.wait(job_id, until=lambda job: job["state"] == state, timeout=120)
    assert job["state"] == state, job["reason"]
    return job


@pytest.fixture(scope="module")
def two_pods(fleet):
    with fleet(pods=2) as running:
        yield running


def test_killed_worker_fails_its_job_by_name_and_the_next_job_runs(two_pods, make_spec):
    client = two_pods.client
    job = client.submit(make_spec(data=LONG_DATA, train=LONG))
    client.wait(job["id"], until=lambda job: job["step"] >= 3, timeout=120)
    victim = two_pods.pids()["pod-1"][0]
    os.kill(victim, signal.SIGKILL)
    job = client.wait(job["id"], timeout=30)
    assert job["state"] == "FAILED"
    assert job["reason"]["code"] == "PodLost"
    assert "host 0 of pod-1" in job["reason"]["message"]
    assert str(victim) in job["reason"]["message"]
    following = client.wait(client.submit(make_spec(train={"steps": 3}))["id"], timeout=120)
    assert following["state"] == "SUCCEEDED", following["reason"]


@pytest.mark.parametrize("state", ["ADMITTED", "STARTING", "RUNNING"])
def test_cancel_takes_effect_within_five_seconds_in_every_state(two_pods, make_spec, state):
    client = two_pods.client
    # Another sequence length is another program, so that lowering and compiling take their time.
    length = {"ADMITTED": 40, "STARTING": 48, "RUNNING": 32}[state]
    document = make_spec(data=LONG_DATA, train={**LONG, "sequence_length": length})
    job_id = client.submit(document)["id"]
    wait_for(client, job_id, state)
    asked = time.monotonic()
    client.cancel(job_id)
    job = client.wait(job_id, timeout=30)
    assert job["state"] == "CANCELLED"
    assert time.monotonic() - asked < 5.0


def test_cancel_of_a_waiting_job_names_no_pod_and_frees_the_queue(two_pods, make_spec):
    client = two_pods.client
    running = client.submit(make_spec(data=LONG_DATA, train=LONG))["id"]
    waiting = client.submit(make_spec(train={"steps": 2}))["id"]
    job = client.wait(waiting, until=lambda j: j["reason"]["code"] == "WaitingForPods", timeout=60)
    assert "needs 2 pods of 1 device; 0 free" in job["reason"]["message"]
    assert running in job["reason"]["message"]
    assert job["queue_position"] == 1
    client.cancel(waiting)
    assert client.wait(waiting, timeout=5)["state"] == "CANCELLED"
    client.cancel(running)
    assert client.wait(running, timeout=5)["state"] == "CANCELLED"


def test_bundle_damaged_on_disk_fails_the_job_with_both_digests(two_pods, make_spec):
    client = two_pods.client
    document = make_spec(train={"steps": 2, "sequence_length": 36})
    first = client.wait(client.submit(document)["id"], timeout=120)
    assert first["state"] == "SUCCEEDED"
    # Hosts keep the program that ran last, and would not fetch that one again.
    another = client.wait(client.submit(make_spec(train={"steps": 2}))["id"], timeout=120)
    assert another["state"] == "SUCCEEDED"
    bundle = two_pods.state / "bundles" / f"{first['bundle'].removeprefix('sha256:')}.bundle"
    whole = bundle.read_bytes()
    try:
        bundle.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        job = client.wait(client.submit(document)["id"], timeout=60)
    finally:
        bundle.write_bytes(whole)
    assert job["state"] == "FAILED"
    assert job["reason"]["code"] == "BundleUnavailable"
    assert first["bundle"] in job["reason"]["message"]


def test_data_that_vanishes_after_submission_fails_the_job_with_the_path(
    two_pods, make_spec, tmp_path
):
    client = two_pods.client
    blocker = client.submit(make_spec(data=LONG_DATA, train=LONG))["id"]
    text = tmp_path / "vanishing.txt"
    text.write_text("some text " * 2000)
    sources = [{"name": "own", "kind": "text", "paths": [str(text)]}]
    job_id = client.submit(make_spec(data={"sources": sources}, train={"steps": 2}))["id"]
    text.unlink()
    client.cancel(blocker)
    job = client.wait(job_id, timeout=60)
    assert job["state"] == "FAILED"
    assert job["reason"]["code"] == "DataError"
    assert "vanishing.txt" in job["reason"]["message"]


def test_a_job_ends_at_the_last_full_batch_of_its_data_and_says_so(two_pods, make_spec, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("x" * 1000)
    sources = [{"name": "own", "kind": "text", "paths": [str(text)]}]
    client = two_pods.client
    job = client.wait(client.submit(make_spec(data={"sources": sources}))["id"], timeout=60)
    assert job["state"] == "SUCCEEDED"
    assert job["reason"]["message"] == "7 of 50 steps applied; the data ended"
    assert (job["step"], job["target_steps"]) == (7, 7)


@pytest.mark.long
def test_killed_host_of_a_pod_of_two_is_named_and_not_its_neighbour(fleet, make_spec):
    with fleet(pods=2, hosts_per_pod=2) as running:
        document = make_spec(data=LONG_DATA, train=LONG, placement={"mesh": {"data": 2}})
        job_id = running.client.submit(document)["id"]
        running.client.wait(job_id, until=lambda job: job["step"] >= 2, timeout=150)
        victim = running.pids()["pod-1"][1]
        os.kill(victim, signal.SIGKILL)
        job = running.client.wait(job_id, timeout=30)
        assert job["state"] == "FAILED"
        assert job["reason"]["code"] == "PodLost", job["reason"]
        assert f"host 1 of pod-1 (pid {victim})" in job["reason"]["message"]
        assert len(running.client.wait_for_pods(2, timeout=60)) == 2


def test_sigterm_to_up_leaves_no_process_behind(fleet, make_spec):
    """Two hosts a pod: they also watch each other, and not all of them let go at SIGTERM."""
    with fleet(pods=2, hosts_per_pod=2) as running:
        mesh = {"data": 2, "model": 1}
        document = make_spec(
            data=LONG_DATA, train={**LONG, "microbatch": 2}, placement={"mesh": mesh}
        )
        job_id = running.client.submit(document)["id"]
        running.client.wait(job_id, until=lambda job: job["step"] >= 1, timeout=150)
        family = psutil.Process(running.controller.process.pid).children(recursive=True)
        assert len(family) >= 4
        assert running.controller.stop() == 0
        assert [process for process in family if process.is_running()] == []


LONG_DATA = {"epochs": 1000}
