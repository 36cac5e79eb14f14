"""The emulated link of a fleet that runs: what it does to a job, and what it does not."""

import time

import pytest

from landbridge.errors import Conflict

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

WAIT = 120.0
STANDS_STILL_SECONDS = 3.0
"""A step of the small job takes some 50 ms."""


@pytest.fixture(scope="module")
def emulated(fleet):
    options = ["--link-bandwidth", "4Gbit", "--link-latency", "1ms"]
    with fleet(pods=2, options=options) as running:
        running.client.wait_for_pods(2, timeout=WAIT)
        yield running


def eventually(what, condition) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT:g} s: {what}"
        time.sleep(0.05)


def change(client, pod: str, **conditions) -> None:
    """Until the pod's host says that they are in force."""
    wanted = client.set_link(pod, conditions)["conditions"]
    eventually(wanted, lambda: in_force(client)[pod] == wanted)


def in_force(client) -> dict:
    return {pod["name"]: pod["conditions"] for pod in client.links()["pods"]}


def stands_still(client, job_id: str) -> bool:
    job = client.job(job_id)
    assert job["state"] == "RUNNING", job["reason"]
    last = client.steps(job_id, after=job["step"] - 1)["steps"]
    return bool(last) and time.time() - last[-1]["time"] > STANDS_STILL_SECONDS


def test_a_fleet_starts_with_the_link_of_its_options(emulated):
    client = emulated.client
    eventually("both hosts tell", lambda: None not in in_force(client).values())
    for conditions in in_force(client).values():
        assert (conditions["bandwidth"], conditions["latency"]) == ("4Gbit", "1ms")


def test_a_job_outlasts_a_partition_and_ends_in_the_same_bits(emulated, make_spec):
    client = emulated.client
    spec = make_spec(train={"steps": 80})
    undisturbed = client.wait(client.submit(spec)["id"], timeout=WAIT)
    job_id = client.submit(spec)["id"]
    client.wait(job_id, until=lambda job: job["step"] >= 3, timeout=WAIT)
    change(client, "pod-0", partitioned=True)
    eventually("the job stands still", lambda: stands_still(client, job_id))
    change(client, "pod-0", bandwidth="4Gbit", jitter="1ms", drop="1%")
    job = client.wait(job_id, timeout=WAIT)
    assert job["state"] == "SUCCEEDED", job["reason"]
    assert job["attempt"] == undisturbed["attempt"]
    digests = [[pod["digest"] for pod in each["pods"]] for each in (undisturbed, job)]
    assert digests[0] == digests[1]
    changes = [e for e in client.events(job_id)["events"] if e["kind"] == "link.changed"]
    assert "partitioned" in changes[0]["message"]
    assert changes[1]["data"]["drop_probability"] == 0.01


def test_cancel_during_a_partition_frees_the_pods_as_ever(emulated, make_spec):
    client = emulated.client
    processes = emulated.pids()
    job_id = client.submit(make_spec(train={"steps": 80}))["id"]
    client.wait(job_id, until=lambda job: job["step"] >= 3, timeout=WAIT)
    change(client, "pod-1", partitioned=True)
    eventually("the job stands still", lambda: stands_still(client, job_id))
    client.cancel(job_id)
    assert client.wait(job_id, timeout=5.0)["state"] == "CANCELLED"
    change(client, "pod-1")
    client.wait_for_pods(2, timeout=WAIT)
    assert emulated.pids() == processes


def test_a_fleet_whose_link_is_real_keeps_it(fleet):
    with fleet(pods=1) as running:
        running.client.wait_for_pods(1, timeout=WAIT)
        with pytest.raises(Conflict, match="--link-emulator"):
            running.client.set_link("pod-0", {"partitioned": True})
