"""`exchange.mode: auto` at work: what a job's steps and its links say is judged, and when another
way to exchange is taken, every host of the gang is told from which step on.

That step is the first that no host may run yet, so all of them hear of it in time and the pods
change over together. A new generation begins with the way that was in force.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from controller.core import batch, choosing, commands
from controller.core.choosing import Choice, Decision, Sent, SlotLayout
from controller.core.cluster import Assignment, Pod
from controller.core.job import Job
from controller.core.program import num_subtrees, slot_ranges
from controller.core.turn import Entry, Turn


def begin(turn: Turn, job: Job, after: int) -> Job:
    """A generation starts after this step, in the way that was in force before, or else the first.

    What other jobs sent over the same links does not count.
    """
    policy = job.spec.choice
    if policy is None:
        return job
    index = job.choosing.index if job.choosing else 0
    choice = Choice(index, after + 1, sent_before=_traffic(job, turn.pods))
    names = [candidate.rule.dtype for candidate in policy.candidates]
    others = " and ".join(name for name in names if name != names[index])
    may = f"{others} may take over to keep what is exposed within {policy.budget:.1%}"
    message = (
        f"{names[index]} from step {after + 1} on; {may if others else 'nothing else is allowed'}"
    )
    if len(job.gang) > 1:
        turn.note(_entry(job, message, None, names[index], choice))
    return dataclasses.replace(job, choosing=choice)


def taken_over(turn: Turn, job: Job) -> Job:
    """The way in force, said again by a restarted controller to hosts that may not have heard."""
    policy, choice = job.spec.choice, job.choosing
    if policy is None or choice is None:
        return job
    assignment = Assignment(job.id, job.generation)
    for host in turn.holders(assignment):
        if host.granted < choice.first_step:
            rule = policy.candidates[choice.index].rule
            turn.order(commands.ChangeExchange(host.ref, assignment, choice.first_step, rule))
    sent = _traffic(job, turn.pods)
    return dataclasses.replace(job, choosing=dataclasses.replace(choice, sent_before=sent))


def judge(turn: Turn, job: Job) -> Job:
    """After further steps, of a job that goes on."""
    policy, choice, progress = job.spec.choice, job.choosing, job.progress
    if policy is None or choice is None or progress is None or len(job.gang) == 1:
        return job
    sent, layout = _traffic(job, turn.pods), _layout(job, progress.merged + 1)
    choice, decision = choosing.judge(policy, choice, progress.recent, sent, layout)
    first_step = progress.granted + 1
    if decision is None or first_step > progress.target_steps:
        job = dataclasses.replace(job, choosing=choice)
        turn.measure(job, ())
        return job
    return _take(turn, job, choice, decision, first_step)


def _take(turn: Turn, job: Job, choice: Choice, decision: Decision, first_step: int) -> Job:
    assert job.spec.choice is not None
    candidates = job.spec.choice.candidates
    before, rule = candidates[choice.index].rule.dtype, candidates[decision.index].rule
    job = dataclasses.replace(job, choosing=choosing.chosen(choice, decision, first_step))
    message = f"{rule.dtype} from step {first_step} on: {decision.reason}"
    turn.put_job(job, _entry(job, message, before, rule.dtype, choice, first_step))
    assignment = Assignment(job.id, job.generation)
    for host in turn.holders(assignment):
        turn.order(commands.ChangeExchange(host.ref, assignment, first_step, rule))
    return job


def _entry(
    job: Job,
    message: str,
    before: str | None,
    after: str,
    choice: Choice,
    first_step: int | None = None,
) -> Entry:
    conditions = choice.conditions
    data: dict[str, Any] = {
        "from": before,
        "to": after,
        "step": first_step or choice.first_step,
        "bytes_per_second": conditions.bytes_per_second if conditions else None,
        "rtt_seconds": conditions.rtt_seconds if conditions else None,
        "compute_seconds": conditions.compute_seconds if conditions else None,
        "shares": list(choice.shares),
    }
    return Entry("exchange.chosen", message, job.id, data=data)


def _traffic(job: Job, pods: Mapping[str, Pod]) -> dict[str, Sent]:
    """Between the pods of the gang, by direction."""
    return {
        f"{src} to {dst}": Sent(
            traffic.sent_bytes,
            # Hosts of a pod send side by side, and their seconds are added up.
            traffic.sending_seconds / pods[src].num_hosts,
            traffic.rtt_seconds or 0.0,
        )
        for src in job.gang
        for dst, traffic in pods[src].traffic.items()
        if dst in job.gang
    }


def _layout(job: Job, step: int) -> SlotLayout:
    num_slots = batch.num_slots(job.spec.phases, step)
    ranges = slot_ranges(num_slots, len(job.gang))
    return SlotLayout(
        num_pods=len(ranges),
        num_slots=max(end - first for first, end in ranges),
        num_sums=max(num_subtrees(num_slots, first, end) for first, end in ranges),
    )
