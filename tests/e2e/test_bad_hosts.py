"""Workers that are there and no good: hung, stopped, wrong in a bit. A spare takes their place, and
the run ends in the bits of an undisturbed one."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from landbridge.client import Client
from landbridge.fleet import Fleet, fleet, patiently
from protos import faults
from protos.faults import Fault
from tests.e2e.curves import digest_of, losses_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 200
Document = dict[str, Any]


class Bench:
    """Three pods, the small job on two of them, and what it comes to when nobody interferes."""

    def __init__(self, running: Fleet, client: Client, folder: pathlib.Path, spec: Document):
        self.fleet, self.client, self.folder, self._spec = running, client, folder, spec
        self.undisturbed = self._outcome(client.submit(spec)["id"])

    def _outcome(self, job_id: str) -> tuple[str, list[tuple[int, float]]]:
        job = self.client.wait(job_id, timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        return digest_of(job), losses_of(self.client, job_id)

    def disturbed(self, at_step: int, disturb: Callable[[str], None]) -> tuple[str, list[Document]]:
        """The job, whose second pod is disturbed, must come to the same; its id and events."""
        self.client.wait_for_pods(3, timeout=60)
        job_id = self.client.submit(self._spec)["id"]
        job = self.client.wait(job_id, until=lambda job: job["step"] >= at_step, timeout=120)
        disturb(job["pods"][1]["name"])
        assert self._outcome(job_id) == self.undisturbed
        return job_id, list(self.client.every_event(job_id))

    def pod(self, name: str) -> Document:
        return next(pod for pod in self.client.pods()["pods"] if pod["name"] == name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, share_warm, make_spec) -> Iterator[Bench]:
    state = tmp_path_factory.mktemp("state")
    folder = tmp_path_factory.mktemp("faults")
    share_warm(state)
    spec = make_spec(
        data={"epochs": 1000},
        train={"steps": STEPS, "digest_every": 10},
        checkpoint={"every": 25},
        placement={"on_pod_loss": "wait"},
    )
    environment = {faults.FOLDER_VARIABLE: str(folder)}
    with fleet(state, pods=3, environment=environment) as (running, client):
        patiently(client.version, seconds=60.0)
        client.wait_for_pods(3, timeout=120)
        yield Bench(running, client, folder, spec)


def test_bit_that_flips_is_found_and_its_pod_quarantined(bench):
    wrong: list[str] = []

    def flip(pod: str) -> None:
        wrong.append(pod)
        faults.arm(bench.folder, bench.fleet.pids(pod)[0], Fault("state", "corrupt"))

    job_id, events = bench.disturbed(30, flip)
    kinds = [event["kind"] for event in events]
    assert kinds.count("job.diverged") == 1 and kinds.count("job.requeued") == 1
    (differed,) = [event["data"] for event in events if event["kind"] == "job.diverged"]
    assert len(set(differed["digests"].values())) == 2
    # It went back to the newest checkpoint and no further.
    assert bench.client.job(job_id)["steps_recomputed"] <= 25 + 10
    pod = bench.pod(wrong[0])
    assert (pod["state"], pod["withheld"]["code"]) == ("QUARANTINED", "Quarantined")
    assert bench.client.undrain(wrong[0])["state"] == "READY"


def test_host_that_hangs_is_found_by_what_its_threads_are_at(bench):
    job_id, events = bench.disturbed(
        30, lambda pod: faults.arm(bench.folder, bench.fleet.pids(pod)[0], Fault("step", "hang"))
    )
    (hung,) = [event for event in events if event["kind"] == "job.hung"]
    stacks = {e["pod"]: e["data"]["stacks"] for e in events if e["kind"] == "host.stacks"}
    assert len(stacks) == 2
    # Of all the gang: who hangs where, and that the other one waits for it.
    assert "faults.at" in stacks.pop(hung["pod"]).partition("\n\n")[0]
    assert "faults.at" not in stacks.popitem()[1]
    assert hung["data"]["pods"] == [hung["pod"]]
    assert bench.client.job(job_id)["steps_recomputed"] <= 1


def test_host_that_is_stopped_and_goes_on_after_it_was_replaced_changes_nothing(bench):
    stopped: list[int] = []

    def stop(pod: str) -> None:
        stopped.append(bench.fleet.pids(pod)[0])
        os.kill(stopped[0], signal.SIGSTOP)

    try:
        _, events = bench.disturbed(30, stop)
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    assert "job.recovered" in [event["kind"] for event in events]
    # It is told that it is not wanted, ends, and another process is started in its place.
    ready = bench.client.wait_for_pods(3, timeout=60)
    assert stopped[0] not in {host["pid"] for pod in ready for host in pod["hosts"]}
