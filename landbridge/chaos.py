"""A job whose workers are killed by a seeded schedule, beside the same job left alone.

Everything runs on this machine, on a fleet of its own: first the job undisturbed, then once more
while workers get SIGKILL at random moments, some of them while an earlier loss is still being
healed. What counts is in the end: every kill recovered from, every step recorded once, the same
losses, the same digest.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from landbridge.client import FINAL_STATES, Client
from landbridge.errors import LandbridgeError
from landbridge.local import local_controller

Document = dict[str, Any]

AGAIN_PROBABILITY = 0.2
"""Of a kill that does not wait until the one before it is recovered from."""

MOST_PAUSE_SECONDS = 2.0
"""Between a recovery, or a kill, and the next kill: uniform from nothing to this."""

RECOVERY_SECONDS = 120.0
"""A job that takes longer to go on is not recovered."""

_GONE_ON = ("job.recovered", "job.started")


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """One worker killed. Seconds are from the signal; None is not yet, or never."""

    number: int
    pod: str
    pid: int
    at: float
    """Unix seconds."""
    step: int
    """Newest applied step as of the moment before."""
    detected_seconds: float | None = None
    recovered_seconds: float | None = None


def run(
    spec: pathlib.Path,
    *,
    seed: int,
    kills: int,
    pods: int,
    hosts_per_pod: int = 1,
    devices_per_host: int = 1,
    on_kill: Callable[[Kill], None] = lambda kill: None,
    say: Callable[[str], None] = lambda message: None,
) -> Document:
    """The outcome, as CONTRACT names it; raises LandbridgeError when the undisturbed job fails or
    the spec has no way to recover."""
    flags = [
        *("--pods", str(pods)),
        *("--hosts-per-pod", str(hosts_per_pod)),
        *("--devices-per-host", str(devices_per_host)),
    ]
    with local_controller(arguments=flags) as controller, Client(controller.address) as client:
        client.wait_for_pods(pods, timeout=RECOVERY_SECONDS)
        say("the job undisturbed")
        undisturbed = client.wait(client.submit(spec)["id"])
        if undisturbed["state"] != "SUCCEEDED":
            raise LandbridgeError("job-failed", f"undisturbed: {undisturbed['reason']['message']}")
        client.wait_for_pods(pods, timeout=RECOVERY_SECONDS)
        say(f"the job under {kills} kills")
        job_id = client.submit(spec)["id"]
        killer = _Killer(client, job_id, random.Random(seed), on_kill)
        killed = list(killer.kill(kills))
        job = client.wait(job_id)
        return _outcome(client, undisturbed, job, killed)


class _Killer:
    def __init__(
        self,
        client: Client,
        job_id: str,
        chance: random.Random,
        on_kill: Callable[[Kill], None],
    ) -> None:
        self._client, self._job_id, self._chance = client, job_id, chance
        self._on_kill = on_kill

    def kill(self, count: int) -> Iterator[Kill]:
        """One worker after the other, until the job ends."""
        self._client.wait(self._job_id, until=lambda job: job["step"] >= 1)
        for number in range(1, count + 1):
            time.sleep(self._chance.uniform(0.0, MOST_PAUSE_SECONDS))
            job = self._client.job(self._job_id)
            victim = self._victim(job)
            if job["state"] in FINAL_STATES or victim is None:
                return
            pod, pid = victim
            at = time.time()
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                # Being ended anyway: a neighbour of a host that was killed.
                continue
            kill = Kill(number, pod, pid, at, job["step"])
            if self._chance.random() >= AGAIN_PROBABILITY:
                self._await_recovery(at, job["step"])
            kill = _timed(
                kill, events_of(self._client, self._job_id), events_of(self._client, None)
            )
            self._on_kill(kill)
            yield kill

    def _victim(self, job: Document) -> tuple[str, int] | None:
        members = {member["name"] for member in job["pods"]}
        workers = [
            (pod["name"], host["pid"])
            for pod in self._client.pods()["pods"]
            if pod["name"] in members
            for host in pod["hosts"]
        ]
        return self._chance.choice(sorted(workers)) if workers else None

    def _await_recovery(self, since: float, step: int) -> None:
        """Until the job has gone on and applied a step."""

        def has_gone_on(job: Document) -> bool:
            if job["state"] != "RUNNING" or job["step"] <= step:
                return False
            return any(e["time"] >= since for e in events_of(self._client, self._job_id, _GONE_ON))

        self._client.wait(self._job_id, timeout=RECOVERY_SECONDS, until=has_gone_on)


def events_of(client: Client, job_id: str | None, kinds: Sequence[str] = ()) -> list[Document]:
    """Of a job or of everything so far, oldest first; of these kinds, when any are given."""
    found, after = [], 0
    while True:
        page = client.events(job_id, after=after)
        found += page["events"]
        if not page["events"]:
            return [event for event in found if not kinds or event["kind"] in kinds]
        after = page["next_after"]


def _timed(kill: Kill, of_job: Sequence[Document], of_fleet: Sequence[Document]) -> Kill:
    seen = [
        e["time"]
        for e in of_fleet
        if e["kind"] == "host.detached" and e["pod"] == kill.pod and e["time"] >= kill.at
    ]
    gone_on = [e["time"] for e in of_job if e["kind"] in _GONE_ON and e["time"] >= kill.at]
    return dataclasses.replace(
        kill,
        detected_seconds=min(seen) - kill.at if seen else None,
        recovered_seconds=min(gone_on) - kill.at if gone_on else None,
    )


def _outcome(
    client: Client, undisturbed: Document, job: Document, killed: Sequence[Kill]
) -> Document:
    of_job = events_of(client, job["id"])
    killed = [
        kill
        if kill.recovered_seconds is not None
        else dataclasses.replace(kill, recovered_seconds=_timed(kill, of_job, ()).recovered_seconds)
        for kill in killed
    ]
    succeeded = job["state"] == "SUCCEEDED"
    digests = {
        pod["digest"] and pod["digest"]["sha256"]
        for each in (undisturbed, job)
        for pod in each["pods"]
    }
    return {
        "tried": len(killed),
        "recovered": len(killed)
        if succeeded
        else sum(kill.recovered_seconds is not None for kill in killed),
        "digest_equal": succeeded and len(digests) == 1 and None not in digests,
        "steps_equal": _curve(client, undisturbed["id"]) == _curve(client, job["id"]),
        "steps_recomputed": sum(e["data"].get("rerun", 0) for e in of_job),
        "detection_seconds": _spread([kill.detected_seconds for kill in killed]),
        "recovery_seconds": _spread([kill.recovered_seconds for kill in killed]),
        "goodput": job["goodput"],
        "job": job["id"],
        "state": job["state"],
        "reason": job["reason"],
        "generations": job["generation"],
        "attempts": job["attempt"],
    }


def _spread(seconds: Sequence[float | None]) -> Document:
    known = [each for each in seconds if each is not None]
    return {
        "p50": statistics.median(known) if known else None,
        "max": max(known, default=None),
    }


def _curve(client: Client, job_id: str) -> list[tuple[int, float | None]]:
    """Every recorded step with its loss, in order."""
    found, after = [], 0
    while True:
        page = client.steps(job_id, after=after, limit=1000)
        found += [(step["step"], step["loss"]) for step in page["steps"]]
        if not page["steps"]:
            return found
        after = page["next_after"]
