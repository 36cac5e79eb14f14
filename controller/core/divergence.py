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
    seen = ", ".join(f"{pod} {digest[:12]}" for pod, digest in sorted(digests.items()))
    message = f"after step {step} pods hold other bits: {seen}"
    data = {"step": step, "digests": dict(digests)}
    turn.note(Entry("job.diverged", message, job.id, data=data))
    if job.spec.on_pod_loss == "fail":
        letting_go.fail(turn, job, Reason("Diverged", message))
        return
    hopeless = _hopeless(job.divergence, step, digests)
    if hopeless:
        letting_go.fail(turn, job, Reason("Diverged", f"{message}, {hopeless}"))
        return
    before = job.divergence
    changed = _contradicting(before, digests) if before and before.step == step else []
    # All of them contradict themselves: nothing is said about any.
    liars = changed if len(changed) < len(digests) else []
    attempts = before.attempts + 1 if before else 1
    found = None if liars else Divergence(step, dict(digests), attempts)
    job = dataclasses.replace(job, divergence=found)
    letting_go.restart(turn, job, Reason("Diverged", f"{message}; to find out which is right"))
    for pod in liars:
        _quarantine(turn, pod, f"{pod} came to two different states after step {step}")


def _hopeless(before: Divergence | None, step: int, digests: Mapping[str, str]) -> str:
    """Why it is of no use to run the steps once more; empty when it is of some."""
    if before is None:
        return ""
    if before.step == step and not _contradicting(before, digests):
        return (
            "and the same again when run again: their machines or programs differ "
            "(docs/recovery.md)"
        )
    if before.attempts >= MOST_ATTEMPTS:
        return f"for the {before.attempts + 1}th time, and none could be found out"
    return ""


def _contradicting(before: Divergence, digests: Mapping[str, str]) -> list[str]:
    """Pods that told another digest of the same step before."""
    return [pod for pod, now in digests.items() if before.digests.get(pod, now) != now]


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
