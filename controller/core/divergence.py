"""Pods that should hold the same bits and do not: which of them computes otherwise.

A digest tells that pods differ, not who is right, and since gradients are summed over all pods,
what one got wrong before the digest is in the others' state by then. So the job goes back to the
newest checkpoint, about which all pods agreed, and runs the steps up to the digest again. Whoever
told another digest then than all agree on now is quarantined, and the job goes on without it from
where it is. Where pods differ again, who contradicts itself is; pods that differ and repeat
themselves run different programs or machines, which nothing here can mend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from controller.core import letting_go
from controller.core.cluster import Withheld
from controller.core.job import Divergence, Job, Reason
from controller.core.turn import Entry, Turn

MOST_ATTEMPTS = 3
"""Of running the steps again, in which nobody was found."""


def met(turn: Turn, job: Job, step: int, digests: Mapping[str, str]) -> None:
    """After this step pods, by name, hold states of different digests."""
    before = job.divergence
    reason = letting_go.diverged(step, digests)
    data = {"step": step, "digests": dict(digests)}
    turn.note(Entry("job.diverged", reason.message, job.id, data=data))
    if job.spec.on_pod_loss == "fail":
        letting_go.fail(turn, job, reason)
        return
    attempts = before.attempts + 1 if before else 1
    liars: list[str] = []
    if before is not None and before.step == step:
        liars = [pod for pod in digests if before.digests.get(pod, digests[pod]) != digests[pod]]
        if not liars:
            told = f"{reason.message}, and the same again when run again: {_DIFFERENT}"
            letting_go.fail(turn, job, Reason("Diverged", told))
            return
    if len(liars) == len(digests):
        liars = []
    if attempts > MOST_ATTEMPTS:
        told = f"{reason.message}, for the {attempts}th time, and none could be found out"
        letting_go.fail(turn, job, Reason("Diverged", told))
        return
    found = None if liars else Divergence(step, dict(digests), attempts)
    job = dataclasses.replace(job, divergence=found)
    letting_go.restart(
        turn, job, Reason("Diverged", f"{reason.message}; to find out which is right")
    )
    for pod in liars:
        _quarantine(turn, pod, f"{pod} came to two different states after step {step}")


_DIFFERENT = "their machines or programs differ (docs/recovery.md)"


def agreed(turn: Turn, job: Job, step: int, digest: str) -> Job:
    """After this step all pods hold a state of this digest; returns the job, about which nothing
    is to be found out any more once it is past where pods differed."""
    before = job.divergence
    if before is None or step < before.step:
        return job
    job = dataclasses.replace(job, divergence=None)
    if step == before.step:
        for pod, told in sorted(before.digests.items()):
            if told != digest:
                seen = f"state {told[:12]} after step {step}, which is {digest[:12]}"
                _quarantine(turn, pod, f"{pod} came to {seen}")
    turn.put_job(job)
    return job


def _quarantine(turn: Turn, name: str, why: str) -> None:
    message = f"{why}; it is given no job until `landbridge undrain {name}`"
    turn.to_withhold[name] = Withheld("Quarantined", message)
