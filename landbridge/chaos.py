"""A job whose processes are killed by a seeded schedule, beside the same job left alone.

Everything runs on this machine, on a fleet of its own: first the job undisturbed, then once more
while workers, whole pods and the controller get SIGKILL: at random moments or at chosen places in
their code, some of them while an earlier loss is still being healed. What counts is in the end:
every kill recovered from, every step recorded once, the same losses, the same digest.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from landbridge.client import FINAL_STATES, Client
from landbridge.errors import LandbridgeError
from landbridge.fleet import Answer, Fleet, fleet, patiently
from protos import faults

Document = dict[str, Any]

AGAIN_PROBABILITY = 0.2
"""Of a kill that does not wait until the one before it is recovered from."""

MOST_PAUSE_SECONDS = 2.0
"""Between a recovery, or a kill, and the next kill: uniform from nothing to this."""

RECOVERY_SECONDS = 120.0
"""A job that takes longer to go on is not recovered."""

PATIENCE_SECONDS = 3.0
"""A process that does not come by the place where it is to die is killed where it is."""

TARGETS = {"worker": 6, "pod": 2, "controller": 2}
"""What is killed, and how often of ten."""

_PLACES = {
    "worker": ("apply", "step", "write", "publish"),
    "controller": ("commit", "committed"),
}
_ANYWHERE = 0.5
"""Share of the kills that come at no place in particular."""

_GONE_ON = ("job.recovered", "job.started")
_TAKEN_OVER = ("job.taken_over", *_GONE_ON)


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """One process killed, or all of a pod. Seconds are from the signal; None is not yet, or
    never."""

    number: int
    target: str
    """worker, pod or controller."""
    name: str
    """The pod, or the controller."""
    place: str
    """Where it died; empty is anywhere."""
    at: float
    """Unix seconds."""
    step: int
    """Newest applied step as of the moment before."""
    detected_seconds: float | None = None
    recovered_seconds: float | None = None

    @property
    def gone_on(self) -> Sequence[str]:
        """Kinds of events that tell that the job goes on after it."""
        return _TAKEN_OVER if self.target == "controller" else _GONE_ON


def run(
    spec: pathlib.Path,
    *,
    seed: int,
    kills: int,
    pods: int,
    hosts_per_pod: int = 1,
    devices_per_host: int = 1,
    state_dir: pathlib.Path | None = None,
    on_kill: Callable[[Kill], None] = lambda kill: None,
    say: Callable[[str], None] = lambda message: None,
) -> Document:
    """The outcome, as CONTRACT names it; raises LandbridgeError when the undisturbed job fails or
    nothing answers. Without a state directory everything is forgotten in the end."""
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="landbridge-chaos-"))
            state_dir = pathlib.Path(name)
        folder = state_dir / "faults"
        folder.mkdir(parents=True, exist_ok=True)
        running, client = stack.enter_context(
            fleet(
                state_dir,
                pods=pods,
                hosts_per_pod=hosts_per_pod,
                devices_per_host=devices_per_host,
                environment={faults.FOLDER_VARIABLE: str(folder)},
            )
        )
        _patiently(lambda: client.wait_for_pods(pods, timeout=RECOVERY_SECONDS))
        say("the job undisturbed")
        undisturbed = client.wait(client.submit(spec)["id"])
        if undisturbed["state"] != "SUCCEEDED":
            raise LandbridgeError("job-failed", f"undisturbed: {undisturbed['reason']['message']}")
        client.wait_for_pods(pods, timeout=RECOVERY_SECONDS)
        say(f"the job under {kills} kills")
        job_id = client.submit(spec)["id"]
        killer = _Killer(running, client, job_id, random.Random(seed), folder, on_kill)
        killed = list(killer.kill(kills))
        job = _patiently(lambda: client.wait(job_id))
        return _outcome(client, undisturbed, job, killed)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    return patiently(ask, RECOVERY_SECONDS)


class _Killer:
    def __init__(
        self,
        running: Fleet,
        client: Client,
        job_id: str,
        chance: random.Random,
        folder: pathlib.Path,
        on_kill: Callable[[Kill], None],
    ) -> None:
        self._fleet, self._client, self._job_id = running, client, job_id
        self._chance, self._folder, self._on_kill = chance, folder, on_kill

    def kill(self, count: int) -> Iterator[Kill]:
        """One after the other, until the job ends."""
        _patiently(lambda: self._client.wait(self._job_id, until=lambda job: job["step"] >= 1))
        for number in range(1, count + 1):
            time.sleep(self._chance.uniform(0.0, MOST_PAUSE_SECONDS))
            job = self._job()
            if job["state"] in FINAL_STATES:
                return
            kill = self._kill(number, job)
            if self._chance.random() >= AGAIN_PROBABILITY:
                self._await_recovery(kill)
            kill = _timed(kill, self._events(self._job_id), self._events(None))
            self._on_kill(kill)
            yield kill

    def _kill(self, number: int, job: Document) -> Kill:
        target = self._chance.choices(list(TARGETS), list(TARGETS.values()))[0]
        if target == "controller":
            name, pids = target, [self._fleet.controller_pid]
        else:
            members = [member["name"] for member in job["pods"]] or self._fleet.pods
            name = self._chance.choice(sorted(members))
            pids = self._fleet.pids(name)
            if target == "worker":
                pids = [self._chance.choice(pids)]
        place = self._chance.choice(_PLACES.get(target, ("",)))
        if self._chance.random() < _ANYWHERE or not self._dies_at(place, pids[0]):
            place = ""
            for pid in pids:
                # Who is gone already was ended by what happened to another.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return Kill(number, target, name, place, time.time(), job["step"])

    def _dies_at(self, place: str, pid: int) -> bool:
        """Whether the process came by the place, and died there."""
        if not place:
            return False
        faults.arm(self._folder, pid, faults.Fault(place, "kill"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if faults.has_happened(self._folder, pid):
                return True
            time.sleep(0.002)
        return not faults.disarm(self._folder, pid)

    def _await_recovery(self, kill: Kill) -> None:
        """Until the job has gone on and applied a step."""

        def has_gone_on(job: Document) -> bool:
            if job["state"] != "RUNNING" or job["step"] <= kill.step:
                return False
            return any(
                event["time"] >= kill.at and event["kind"] in kill.gone_on
                for event in self._client.every_event(self._job_id)
            )

        _patiently(
            lambda: self._client.wait(self._job_id, timeout=RECOVERY_SECONDS, until=has_gone_on)
        )

    def _job(self) -> Document:
        return _patiently(lambda: self._client.job(self._job_id))

    def _events(self, job_id: str | None) -> list[Document]:
        return _patiently(lambda: list(self._client.every_event(job_id)))


def _timed(kill: Kill, of_job: Sequence[Document], of_fleet: Sequence[Document]) -> Kill:
    seen = [
        e["time"]
        for e in of_fleet
        if e["kind"] == "host.detached" and e["pod"] == kill.name and e["time"] >= kill.at
    ]
    gone_on = [e["time"] for e in of_job if e["kind"] in kill.gone_on and e["time"] >= kill.at]
    return dataclasses.replace(
        kill,
        detected_seconds=min(seen) - kill.at if seen else None,
        recovered_seconds=min(gone_on) - kill.at if gone_on else None,
    )


def _outcome(
    client: Client, undisturbed: Document, job: Document, killed: Sequence[Kill]
) -> Document:
    of_job = list(client.every_event(job["id"]))
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
        "steps_recomputed": job["steps_recomputed"],
        "detection_seconds": _spread([kill.detected_seconds for kill in killed]),
        "recovery_seconds": _spread([kill.recovered_seconds for kill in killed]),
        "goodput": job["goodput"],
        "targets": dict(collections.Counter(kill.target for kill in killed)),
        "places": dict(collections.Counter(kill.place for kill in killed if kill.place)),
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
    return [(step["step"], step["loss"]) for step in client.every_step(job_id)]
