"""Which pods a waiting job gets: all it needs or none, and a reason with numbers when it must wait.

First come, first served. A job that can never fit does not hold up those behind it; a job that only
has to wait does, so that big jobs are not starved by small ones.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Sequence

from controller.core.cluster import Assignment, Pod, PodState
from controller.core.job import Job, JobSpec, Reason

_MISSING = (PodState.FORMING, PodState.LOST)


class Admission(typing.NamedTuple):
    """What becomes of one waiting job; an empty gang means it waits."""

    job_id: str
    gang: tuple[str, ...]
    reason: Reason


def admit(waiting: Sequence[Job], pods: Iterable[Pod]) -> list[Admission]:
    """A verdict for every waiting job, in order of submission."""
    everything = {pod.name: pod for pod in pods}
    verdicts: list[Admission] = []
    ahead: Job | None = None
    for job in waiting:
        fleet = list(everything.values())
        free = [pod for pod in fleet if pod.state is PodState.READY]
        alike = _largest_alike([pod for pod in free if _fits(pod, job.spec)])
        if ahead is None and len(alike) >= job.spec.min_pods:
            chosen = alike[: job.spec.max_pods]
            assignment = Assignment(job.id, job.generation + 1)
            for pod in chosen:
                everything[pod.name] = dataclasses.replace(pod, assignment=assignment)
            names = tuple(pod.name for pod in chosen)
            verdicts.append(Admission(job.id, names, _admitted(chosen)))
            continue
        verdicts.append(Admission(job.id, (), _why_not(job, fleet, alike, ahead)))
        if ahead is None and _could_ever_fit(job.spec, fleet):
            ahead = job
    return verdicts


def _fits(pod: Pod, spec: JobSpec) -> bool:
    return pod.num_devices == spec.devices_per_pod


def are_alike(pod: Pod, other: Pod) -> bool:
    """Whether two pods whose hosts are all there could be of one gang."""
    return pod.num_devices == other.num_devices and _kind(pod) == _kind(other)


def _kind(pod: Pod) -> tuple[int, str, str]:
    inventory = pod.inventories[0]
    return pod.num_hosts, inventory.platform, inventory.device_kind


def _largest_alike(pods: Sequence[Pod]) -> list[Pod]:
    """Host i talks to host i and one program serves all, so a gang's pods are built alike."""
    groups: dict[tuple[int, str, str], list[Pod]] = {}
    for pod in pods:
        groups.setdefault(_kind(pod), []).append(pod)
    return max(groups.values(), key=len, default=[])


def _could_ever_fit(spec: JobSpec, pods: Sequence[Pod]) -> bool:
    """Whether the pods there are would do if all were free; forming ones are given the benefit,
    lost ones are not."""
    forming = [pod for pod in pods if pod.state is PodState.FORMING]
    whole = [pod for pod in pods if pod.inventories and pod.state not in _MISSING]
    fitting = [pod for pod in whole if _fits(pod, spec)]
    return len(_largest_alike(fitting)) + len(forming) >= spec.min_pods


def _admitted(chosen: Sequence[Pod]) -> Reason:
    names = ", ".join(pod.name for pod in chosen)
    return Reason("Admitted", f"holds {_count(len(chosen), 'pod')} ({names}); lowering the program")


def _why_not(job: Job, pods: Sequence[Pod], alike: Sequence[Pod], ahead: Job | None) -> Reason:
    spec = job.spec
    needs = f"needs {_count(spec.min_pods, 'pod')} of {_count(spec.devices_per_pod, 'device')}"
    lost = [
        f"{pod.name} is lost with {_hosts_ready(pod)}" for pod in pods if pod.state is PodState.LOST
    ]
    if not _could_ever_fit(spec, pods):
        counted = [pod for pod in pods if pod.state is not PodState.LOST]
        fleet = f"the fleet has {_inventory(counted)}"
        return Reason("DoesNotFit", "; ".join([needs, fleet, *lost]))
    if ahead is not None:
        return Reason("WaitingForTurn", f"{needs}; {ahead.spec.name} ({ahead.id}) is ahead of it")
    busy = [
        f"{pod.name} busy with {pod.assignment.job}" for pod in pods if pod.assignment is not None
    ]
    forming = [
        f"{pod.name} has {_hosts_ready(pod)}" for pod in pods if pod.state is PodState.FORMING
    ]
    withheld = [
        f"{pod.name} is {pod.state.lower()}"
        for pod in pods
        if pod.state in (PodState.DRAINED, PodState.QUARANTINED)
    ]
    told = [needs, f"{len(alike)} free", *busy, *forming, *withheld, *lost]
    return Reason("WaitingForPods", "; ".join(told))


def _hosts_ready(pod: Pod) -> str:
    return f"{len(pod.inventories)} of {_count(pod.num_hosts, 'host')} ready"


def _inventory(pods: Sequence[Pod]) -> str:
    kinds = {pod.inventories[0].device_kind for pod in pods if pod.inventories}
    builds = [_count(pod.num_devices, "device") for pod in pods]
    if len(kinds) > 1:
        builds = [
            f"{build} ({pod.inventories[0].device_kind})" if pod.inventories else build
            for pod, build in zip(pods, builds, strict=True)
        ]
    counts = [f"{_count(builds.count(build), 'pod')} of {build}" for build in sorted(set(builds))]
    return " and ".join(counts) or "no pods"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
