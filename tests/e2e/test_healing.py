"""Real workers are killed, and the run ends in the bits of an undisturbed one."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.e2e.curves import digest_of, losses_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 200
LONG = {"steps": STEPS, "digest_every": 50}
DATA = {"epochs": 1000}


@pytest.fixture(scope="module")
def two_pods(fleet):
    with fleet(pods=2) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(two_pods, make_spec) -> dict[str, Any]:
    """The same job when nobody interferes."""
    client = two_pods.client
    job = client.wait(client.submit(make_spec(data=DATA, train=LONG))["id"], timeout=300)
    assert job["state"] == "SUCCEEDED", job["reason"]
    return {"digest": digest_of(job), "losses": losses_of(client, job["id"])}


def _reaches(client, job_id: str, step: int) -> dict[str, Any]:
    job = client.wait(job_id, until=lambda job: job["step"] >= step, timeout=120)
    assert job["state"] in ("RUNNING", "RECOVERING"), job["reason"]
    return job


def _every_second_is_accounted_for(job: dict[str, Any]) -> None:
    spent = job["time_seconds"]
    assert sum(spent.values()) == pytest.approx(job["finished_at"] - job["admitted_at"])
    assert min(spent.values()) >= 0.0 and spent["productive"] > 0.0
    assert job["setbacks"] == 1 and job["recoveries"]["PodLost"] == 1
    # At most the step that only the killed pod had applied.
    assert spent["recovery"] > 0.0 and job["steps_recomputed"] <= 1


@pytest.mark.parametrize("on_pod_loss", ["wait", "shrink"])
def test_killed_pod_costs_no_step_and_changes_no_bit(two_pods, make_spec, undisturbed, on_pod_loss):
    client = two_pods.client
    client.wait_for_pods(2, timeout=60)
    placement = {"on_pod_loss": on_pod_loss}
    job_id = client.submit(make_spec(data=DATA, train=LONG, placement=placement))["id"]
    _reaches(client, job_id, 40)
    pids = two_pods.pids()
    os.kill(pids["pod-1"][0], signal.SIGKILL)
    job = client.wait(job_id, timeout=200)
    assert job["state"] == "SUCCEEDED", job["reason"]
    assert digest_of(job) == undisturbed["digest"]
    assert losses_of(client, job_id) == undisturbed["losses"]
    assert job["attempt"] == 1 and job["generation"] >= 2
    _every_second_is_accounted_for(job)
    # Who survives is not started again.
    assert two_pods.pids()["pod-0"] == pids["pod-0"]


def test_pods_that_are_drained_or_told_to_leave_hand_over(two_pods, make_spec, undisturbed):
    client = two_pods.client
    client.wait_for_pods(2, timeout=60)
    placement = {"on_pod_loss": "shrink", "pods": {"min": 1, "max": 2}}
    job_id = client.submit(make_spec(data=DATA, train=LONG, placement=placement))["id"]
    _reaches(client, job_id, 20)
    pids = two_pods.pids()
    client.drain("pod-1")
    alone = client.wait(job_id, until=lambda job: len(job["pods"]) == 1, timeout=60)
    assert alone["pods"][0]["name"] == "pod-0"
    client.undrain("pod-1")
    client.wait(job_id, until=lambda job: len(job["pods"]) == 2, timeout=60)
    # Nobody was started again for it.
    assert two_pods.pids() == pids
    os.kill(pids["pod-0"][0], signal.SIGTERM)
    alone = client.wait(job_id, until=lambda job: len(job["pods"]) == 1, timeout=60)
    assert alone["pods"][0]["name"] == "pod-1"
    job = client.wait(job_id, timeout=200)
    assert job["state"] == "SUCCEEDED", job["reason"]
    assert digest_of(job) == undisturbed["digest"]
    assert losses_of(client, job_id) == undisturbed["losses"]
    events = list(client.every_event(job_id))
    assert sum(event["data"].get("rerun", 0) for event in events) <= 2


def test_killed_host_of_a_pod_of_two_is_healed_with_its_pod(fleet, make_spec):
    with fleet(pods=2, hosts_per_pod=2) as running:
        client = running.client
        placement = {"mesh": {"data": 2}, "on_pod_loss": "wait"}
        train = {"steps": 60, "digest_every": 20}
        found = []
        for kills in (False, True):
            document = make_spec(data=DATA, train=train, placement=placement)
            job_id = client.submit(document)["id"]
            _reaches(client, job_id, 5)
            if kills:
                os.kill(running.pids()["pod-1"][1], signal.SIGKILL)
            job = client.wait(job_id, timeout=200)
            assert job["state"] == "SUCCEEDED", job["reason"]
            found.append((digest_of(job), losses_of(client, job_id)))
        assert found[0] == found[1]
        assert job["generation"] == 2 and job["attempt"] == 1
