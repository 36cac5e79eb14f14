"""Two pods of one device and one core each, coupled by a link and apart: how much of what they can
do alone they do together.

Efficiency is tokens a second of both pods in one job over those of two jobs of one pod each, at the
same time, since cores of one machine share its memory and its clock. The link is the emulated one,
whose rate the kernel's own agrees with (tests/benchmarks/test_link.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import jobs
from benchmarks.cpu_clock import CpuClock
from landbridge.client import Client
from landbridge.local import local_controller

PODS = 2
WARM_UP_STEPS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What each pod computes in a step: one slot."""

    model: Mapping[str, Any]
    microbatch: int
    sequence_length: int

    def spec(self, pods: int, steps: int, exchange: Mapping[str, Any]) -> dict[str, Any]:
        """A job of it on so many pods."""
        return jobs.spec(
            steps,
            model=dict(self.model),
            train={
                "global_batch": pods * self.microbatch,
                "microbatch": self.microbatch,
                "sequence_length": self.sequence_length,
            },
            placement={"pods": pods, "mesh": {"data": 1, "model": 1}},
            exchange=dict(exchange),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """Means of the steps of one turn, after the warm-up. Seconds, and bytes of one pod."""

    step_seconds: float
    exposed_seconds: float
    link_bytes: float
    cpu_seconds: float
    """Of a step and pod, on the threads that do not compute."""


class Pair:
    """Two pods, and how to have them take turns."""

    def __init__(self, client: Client, workload: Workload, steps: int) -> None:
        self._client, self._workload, self._steps = client, workload, steps
        self._clock = CpuClock(
            host["pid"] for pod in client.wait_for_pods(PODS) for host in pod["hosts"]
        )

    def set_link(self, bytes_per_second: float | None) -> None:
        """What each pod can send from now on; None is as much as it gets through."""
        conditions = {}
        if bytes_per_second is not None:
            conditions["bandwidth"] = f"{8e-6 * bytes_per_second:.6f}Mbit"
        for pod in self._client.pods()["pods"]:
            self._client.set_link(pod["name"], conditions)

    def coupled(self, exchange: Mapping[str, Any]) -> Turn:
        """One job on both pods."""
        return self._turn([self._workload.spec(PODS, self._all_steps, exchange)])

    def apart(self) -> Turn:
        """A job on each pod, at the same time. Its step is that of a pair that needs no link: both
        pods' tokens over the sum of their rates."""
        return self._turn([self._workload.spec(1, self._all_steps, {})] * PODS)

    @property
    def _all_steps(self) -> int:
        return WARM_UP_STEPS + self._steps

    def _turn(self, specs: list[dict[str, Any]]) -> Turn:
        running = [self._client.submit(spec)["id"] for spec in specs]
        for job in running:
            # What is compiled in the first steps is no part of a step.
            self._client.wait(job, until=lambda seen: seen["step"] >= WARM_UP_STEPS)
        before = self._clock.read()
        for job in running:
            jobs.ended_well(self._client, job)
        cpu_seconds = self._clock.beside_computing(before, self._clock.read())
        runs = [
            self._client.steps(job, after=WARM_UP_STEPS, limit=1000)["steps"] for job in running
        ]
        rates = [self._steps / _sum(records, "seconds") for records in runs]
        return Turn(
            step_seconds=len(rates) / sum(rates),
            exposed_seconds=_sum(runs[0], "exposed_seconds") / self._steps,
            link_bytes=_sum(runs[0], "link_bytes") / self._steps / PODS,
            cpu_seconds=cpu_seconds / self._steps / PODS,
        )


def _sum(records: list[Mapping[str, Any]], field: str) -> float:
    return sum(record[field] for record in records)


@contextlib.contextmanager
def pair(
    workload: Workload, steps: int, *, device_flops_per_second: float | None = None
) -> Iterator[Pair]:
    """Two pods for a `with` block, with a turn of `steps` steps that are measured. Given a speed,
    their devices are emulated."""
    arguments = ["--pods", str(PODS), "--devices-per-host", "1", "--link-emulator"]
    if device_flops_per_second is not None:
        arguments += ["--device-flops-per-second", str(device_flops_per_second)]
    with (
        tempfile.TemporaryDirectory(prefix="landbridge-coupling-") as name,
        local_controller(state_dir=pathlib.Path(name), arguments=arguments) as controller,
        Client(controller.address) as client,
    ):
        yield Pair(client, workload, steps)
