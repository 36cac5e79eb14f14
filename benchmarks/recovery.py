"""Recovery: a pod of two is killed while a job trains, and how long until the next step is applied.

Times are those of the journal and of the step records, on one clock; a kill counts from the signal.
The job is launched with warm caches in the same run, which is what it costs to start over, before
anything that was lost is run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import local_controller

Document = dict[str, Any]

_STEPS = 100_000
"""More than there is time for."""

_DETECTED, _STALL, _RESTARTED, _SPARE = 2.0, 2.0, 5.0, 2.0
"""Seconds: until the loss is known; until the next step, besides a step, with `shrink`, with `wait`
for a pod that is started again, and with `wait` for a spare."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds after the kill of one pod."""

    detected: float
    regrouped: float
    """The pods that go on are chosen, and the others stand still."""
    recovered: float
    """All of them hold the state."""
    next_step: float
    step: float
    """What a step takes otherwise."""
    rerun: int
    """Steps that only the lost pod had told of."""

    @property
    def stall(self) -> float:
        return self.next_step - self.step


def run(*, quick: bool) -> table.Result:
    rounds = 1 if quick else 5
    shrunk, restarted, spared, launched = [], [], [], []
    with _fleet(pods=2) as client:
        for number in range(rounds):
            launched.append(_launch_seconds(client, first=number == 0))
            shrunk.append(_recovery(client, "shrink", number))
            restarted.append(_recovery(client, "wait", number))
    with _fleet(pods=3) as client:
        spared = [_recovery(client, "wait", number, pods=3) for number in range(rounds)]
    launch = table.median(launched)
    every = [*shrunk, *restarted, *spared]
    detected = table.median([recovery.detected for recovery in every])
    most = max(recovery.rerun for recovery in every)
    rows = [
        _row("shrink: the other pod goes on", shrunk, launch, _STALL),
        _row("wait: the pod is started again", restarted, launch, _RESTARTED),
        _row("wait: a spare is there", spared, launch, _SPARE),
        table.Row(
            "detection of a crash",
            detected / launch,
            f"<= {_DETECTED:g} s",
            len(every),
            detected <= _DETECTED,
            {"detected s": detected},
        ),
        table.Row(
            "steps run again for a kill", None, "<= 1", len(every), most <= 1, {"most": most}
        ),
    ]
    title = "Recovery: a pod is killed; seconds until the next step, less a step, / a warm launch"
    notes = f"warm launch of the same job: {launch:.2f} s; torchft 1.7-5 s, Ray Train 26-29 s"
    return table.Result("recovery", title, rows, notes)


def _row(
    case: str, recoveries: Sequence[Recovery], launch_seconds: float, target: float
) -> table.Row:
    def of(field: str) -> float:
        return table.median([getattr(recovery, field) for recovery in recoveries])

    return table.Row(
        case,
        of("stall") / launch_seconds,
        f"<= {target:g} s",
        len(recoveries),
        of("stall") <= target,
        {
            "detected s": of("detected"),
            "regrouped s": of("regrouped"),
            "recovered s": of("recovered"),
            "next step s": of("next_step"),
            "step s": of("step"),
            "stall s": of("stall"),
        },
    )


@contextlib.contextmanager
def _fleet(pods: int) -> Iterator[Client]:
    arguments = ["--pods", str(pods), "--devices-per-host", "1"]
    with (
        tempfile.TemporaryDirectory(prefix="landbridge-recovery-") as name,
        local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
        Client(controller.address) as client,
    ):
        client.wait_for_pods(pods)
        yield client


def _spec(on_pod_loss: str) -> Document:
    placement = {"pods": 2, "mesh": {"data": 1, "model": 1}, "on_pod_loss": on_pod_loss}
    return jobs.spec(_STEPS, placement=placement, data={**jobs.SPEC["data"], "epochs": 1000})


def _launch_seconds(client: Client, *, first: bool) -> float:
    """From a submission to its first step, with everything cached."""
    if first:
        _ended(client, _training(client, "fail", 2))
    submitted = time.time()
    job_id = _training(client, "fail", 1)
    seconds = client.step(job_id, 1)["time"] - submitted
    _ended(client, job_id)
    return seconds


def _training(client: Client, on_pod_loss: str, step: int) -> str:
    """A job that has come so far."""
    job_id = client.submit(_spec(on_pod_loss))["id"]
    client.wait(job_id, until=lambda job: job["step"] >= step)
    return job_id


def _ended(client: Client, job_id: str) -> None:
    client.cancel(job_id)
    client.wait(job_id)


def _recovery(client: Client, on_pod_loss: str, number: int, pods: int = 2) -> Recovery:
    """Of one kill, at a moment that differs from round to round."""
    client.wait_for_pods(pods)
    job_id = _training(client, on_pod_loss, 10)
    if pods > 2:
        _await_event(client, None, "pod.warm")
    time.sleep(random.Random(number).random())
    member = client.job(job_id)["pods"][number % 2]["name"]
    (victim,) = [pod for pod in client.pods()["pods"] if pod["name"] == member]
    killed = time.time()
    os.kill(victim["hosts"][0]["pid"], signal.SIGKILL)
    recovered = _await_event(client, job_id, "job.recovered")
    after = recovered["data"]["step"]
    following = client.step(job_id, after + 1, timeout=120.0)
    steps = client.steps(job_id, after=max(0, after - 8), limit=100)["steps"]
    before = [step["seconds"] for step in steps if step["step"] <= after]
    lost, regrouped = (
        _await_event(client, job_id, kind) for kind in ("job.recovering", "job.regrouped")
    )
    _ended(client, job_id)
    return Recovery(
        detected=lost["time"] - killed,
        regrouped=regrouped["time"] - killed,
        recovered=recovered["time"] - killed,
        next_step=following["time"] - killed,
        step=table.median(before),
        rerun=regrouped["data"]["rerun"],
    )


def _await_event(client: Client, job_id: str | None, kind: str) -> Document:
    """The first one of this kind."""
    after = 0
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        for event in client.every_event(job_id, after=after):
            if event["kind"] == kind:
                return event
            after = event["seq"]
        time.sleep(0.02)
    raise RuntimeError(f"no {kind} within two minutes")
