"""A gang that lost a pod, or gets one more: the others stand still with their state, and a new
generation goes on with it.

What is decided, and when:

    gather    every other host of the gang is told to stand still; each says after which step
    settle    all have said so: `shrink` goes on with the pods that stand, `wait` waits for as many
              as there were, restarted or spare
    begin     the next generation, after the last step that any of them applied. Who holds that
              state gives it to those that do not; nothing is compiled that was compiled before
    restart   where no state is left, or pods do not hold the same: from the newest checkpoint

A job loses no applied step by it: of two pods one may be a step ahead, never more, and it is the
one that others heal from (docs/design.md, section 7).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence

from controller.core import commands, divergence, gang, letting_go, preparing, saving, spikes, step
from controller.core.cluster import Assignment, Pod, PodState
from controller.core.commands import CheckpointId
from controller.core.job import Begun, Healing, Job, JobState, Move, Reason, Setbacks
from controller.core.liveness import LivenessPolicy, gathering_grace
from controller.core.totals import durations
from controller.core.turn import Entry, Turn

MOST_SETBACKS_IN_A_ROW = 5
"""A job that loses a pod this often without applying a step in between brings its pods down itself,
or is on a fleet that cannot run it; each attempt takes the others' time."""


class Overdue(typing.NamedTuple):
    pods: tuple[Pod, ...]
    reason: str


def pod_lost(turn: Turn, job: Job, pod: str, reason: Reason) -> None:
    """A pod that works for the job is gone, or about to be ended."""
    present = turn.pods.get(pod)
    if present is not None and present.assignment and present.assignment.job == job.id:
        # Nothing that its other hosts may still say counts.
        turn.put_pod(dataclasses.replace(present, releasing_since=turn.now))
    _go_on(turn, job, reason, pod)


def hand_over(turn: Turn, job: Job, pod: str, reason: Reason) -> None:
    """A pod that works for the job is withheld from now on; its state is as good as the others'."""
    setbacks = dataclasses.replace(job.setbacks, handovers=job.setbacks.handovers + 1)
    job = dataclasses.replace(job, setbacks=setbacks)
    if job.is_gathering:
        turn.put_job(job)
        settle(turn, job)
    else:
        _do_without(turn, job, reason, pod)


def unexplained(turn: Turn, job: Job, reason: Reason) -> None:
    """A host gave up, and no other explains it. What a link did between pods that are all there may
    not happen again; anything else is the job's own."""
    if reason.code == "LinkDown":
        _go_on(turn, job, reason, None)
    else:
        letting_go.fail(turn, job, reason)


def seek(turn: Turn) -> None:
    """Pods have come or become free: for gangs that wait for one, for those that could be larger,
    and to stand in for a pod that may be lost."""
    for job in list(turn.jobs.values()):
        if job.awaited_since is not None:
            continue
        if job.is_gathering:
            settle(turn, job)
        elif job.state is JobState.RUNNING and job.spec.on_pod_loss != "fail":
            if _may_grow(turn, job):
                message = f"one more pod is ready than the {len(job.gang)} that train"
                gather(turn, job, Reason("Growing", message), is_growing=True)
            else:
                _warm_a_spare(turn, job)


def overdue(turn: Turn, job: Job, policy: LivenessPolicy) -> Overdue:
    """Pods that were told to stand still and have not said so for too long."""
    healing = job.healing
    if healing is None or not job.is_gathering:
        return Overdue((), "")
    grace = gathering_grace(job.progress, policy)
    late = [pod for pod in _members(turn, job) if not _has_answered(pod)]
    if turn.now - healing.gathering_since <= grace:
        late = []
    return Overdue(tuple(late), f"did not stand still within {grace:.0f} s")


def ticked(turn: Turn, job_id: str) -> None:
    """Time passes for a gang that waits for a pod."""
    job = turn.jobs.get(job_id)
    if job is None or job.healing is None or not job.is_gathering:
        return
    if turn.now - job.healing.since <= job.spec.wait_timeout:
        return
    standing = _standing(turn, job)
    if any(not _has_answered(pod) for pod in _members(turn, job)):
        return
    if len(standing) >= job.spec.min_pods:
        _begin(turn, job, standing, [])
    else:
        waited = f"no other pod came within {job.spec.wait_timeout:.0f} s"
        letting_go.fail(turn, job, Reason("PodLost", f"{job.healing.cause.message}; {waited}"))


def settle(turn: Turn, job: Job) -> None:
    """Go on, once every host has answered and there are pods enough."""
    assert job.healing is not None
    members = _members(turn, job)
    if not job.is_gathering or any(not _has_answered(pod) for pod in members):
        return
    standing = [pod for pod in _standing(turn, job) if pod.withheld is None]
    for pod in members:
        if pod not in standing:
            why = pod.withheld.message if pod.withheld else "its hosts hold no state together"
            letting_go.drop(turn, pod, why)
    merged = job.progress.merged if job.progress else 0
    if max((pod.standing.step for pod in standing if pod.standing), default=-1) < merged:
        what = f"no state after step {merged} is left"
        letting_go.restart(turn, job, Reason("StateLost", f"{job.healing.cause.message}; {what}"))
        return
    newcomers = _newcomers(turn, job, standing)
    if newcomers is None:
        _wait(turn, job, standing)
    else:
        _begin(turn, job, standing, newcomers)


def _go_on(turn: Turn, job: Job, reason: Reason, lost: str | None) -> None:
    setbacks = Setbacks(job.setbacks.total + 1, job.setbacks.in_a_row + 1)
    job = dataclasses.replace(job, setbacks=setbacks)
    if setbacks.in_a_row > MOST_SETBACKS_IN_A_ROW and job.spec.on_pod_loss != "fail":
        message = f"{setbacks.in_a_row} losses in a row and no step in between; {reason.message}"
        letting_go.fail(turn, job, Reason("CrashLoop", message))
    else:
        _do_without(turn, job, reason, lost)


def _do_without(turn: Turn, job: Job, reason: Reason, pod: str | None) -> None:
    """What becomes of a job that a pod works for no more, or whose pods lost each other."""
    if job.spec.on_pod_loss == "fail":
        letting_go.fail(turn, job, reason)
    elif job.state in (JobState.RUNNING, JobState.RECOVERING) and _keeps_state(job):
        gather(turn, job, reason, pod)
    else:
        letting_go.restart(turn, job, reason)


def _keeps_state(job: Job) -> bool:
    """Whether what a pod holds between two steps is all that another needs. Where pods train on
    their own in between, each has what the others do not; and a spike that is being met is met
    again, at the same step, from a checkpoint."""
    return job.spec.exchange.mode == "full" and job.spike is None


def gather(
    turn: Turn, job: Job, cause: Reason, lost: str | None = None, *, is_growing: bool = False
) -> None:
    """Have every pod that is left stand still."""
    if job.state is JobState.RUNNING:
        job = job.moved(Move.GATHER, cause)
    before = job.healing
    since = before.since if before else turn.now
    still_growing = is_growing or (before is not None and before.is_growing and lost is None)
    job = dataclasses.replace(
        job,
        reason=cause,
        suspicion=None,
        hang=None,
        healing=Healing(since, turn.now, cause, still_growing),
        account=job.account.interrupted(cause.code),
    )
    kind = "job.growing" if is_growing else "job.recovering"
    turn.put_job(job, Entry(kind, cause.message, job.id, lost, data={"code": cause.code}))
    for pod in _members(turn, job):
        for host in pod.hosts.values():
            if host.holds is not None and host.standing is None:
                turn.order(commands.HoldHost(host.ref, host.holds, cause.message))
    settle(turn, job)


def _members(turn: Turn, job: Job) -> list[Pod]:
    """Pods that hold the job and are not lost, in the order of their slots. After a restart of the
    controller some may not have heard of the newest generation."""
    pods = [turn.pods[name] for name in job.gang if name in turn.pods]
    return [
        pod
        for pod in pods
        if pod.assignment is not None
        and pod.assignment.job == job.id
        and pod.releasing_since is None
    ]


def _has_answered(pod: Pod) -> bool:
    """Whether each of its hosts stands still or has let go."""
    return all(host.standing or host.holds is None for host in pod.hosts.values())


def _standing(turn: Turn, job: Job) -> list[Pod]:
    return [pod for pod in _members(turn, job) if pod.standing is not None]


def _newcomers(turn: Turn, job: Job, standing: Sequence[Pod]) -> list[Pod] | None:
    """Pods to go on with beside those that stand; None when too few are there."""
    assert job.healing is not None
    free = _free_alike(turn, job, standing[0])
    if job.healing.is_growing and job.program is not None:
        warm = [pod for pod in free if pod.is_warm(job.program.digest)]
        return warm[: job.spec.max_pods - len(standing)]
    wanted = len(job.gang) if job.spec.on_pod_loss == "wait" else job.spec.least_pods
    missing = max(0, wanted - len(standing))
    return free[:missing] if len(free) >= missing else None


def _free_alike(turn: Turn, job: Job, pod: Pod) -> list[Pod]:
    """Pods that could stand beside this one; those that were of the gang come first."""
    free = [
        other
        for other in turn.pods.values()
        if other.state is PodState.READY and gang.are_alike(other, pod)
    ]
    return sorted(free, key=lambda other: (other.name not in job.gang, other.name))


def _may_grow(turn: Turn, job: Job) -> bool:
    """Whether a pod is there that need not compile while the others stand still."""
    if job.spec.on_pod_loss != "shrink" or len(job.gang) >= job.spec.max_pods:
        return False
    assert job.program is not None
    free = _free_alike(turn, job, turn.pods[job.gang[0]])
    return _keeps_state(job) and any(pod.is_warm(job.program.digest) for pod in free)


def _warm_a_spare(turn: Turn, job: Job) -> None:
    """Have one free pod compile the job's program, unless one has or is at it."""
    assert job.program is not None
    digest, spares = job.program.digest, _free_alike(turn, job, turn.pods[job.gang[0]])
    wanted = {other.program.digest for other in turn.jobs.values() if other.program}
    warming = {pod.name: {host.warming for host in pod.hosts.values()} & wanted for pod in spares}
    idle = [pod for pod in spares if not warming[pod.name]]
    if idle and _keeps_state(job) and {digest} not in warming.values():
        for _, host in sorted(idle[0].hosts.items()):
            turn.put_host(dataclasses.replace(host, warming=digest))
            turn.order(commands.WarmHost(host.ref, digest))


def _wait(turn: Turn, job: Job, standing: Sequence[Pod]) -> None:
    assert job.healing is not None
    names = ", ".join(pod.name for pod in standing)
    wanted = len(job.gang) if job.spec.on_pod_loss == "wait" else job.spec.least_pods
    message = (
        f"{job.healing.cause.message}; {names} of {wanted} stand still with their state and wait "
        f"for another pod, for {job.spec.wait_timeout:.0f} s at most"
    )
    reason = Reason("WaitingForPod", message)
    if reason != job.reason:
        job = dataclasses.replace(job, reason=reason)
        turn.put_job(job, Entry("job.waiting", message, job.id))


def _begin(turn: Turn, job: Job, standing: Sequence[Pod], newcomers: Sequence[Pod]) -> None:
    assert job.healing is not None and job.progress is not None
    after = max(pod.standing.step for pod in standing if pod.standing)
    digests = {
        pod.name: pod.standing.state_sha256
        for pod in standing
        if pod.standing and pod.standing.step == after
    }
    if len(set(digests.values())) > 1:
        divergence.met(turn, job, after, digests)
        return
    members = _placed(job, standing, newcomers)
    completed = _completed(turn, job, after)
    if completed is None:
        # The steps that nobody else has told of are run again, and judged as any.
        letting_go.restart(
            turn, job, Reason("SpikeUnderWay", f"{job.healing.cause.message}; a loss spiked")
        )
        return
    assert completed.progress is not None
    before = Assignment(job.id, job.generation)
    half_done = [CheckpointId(s, before.generation) for s in saving.publishing(completed)]
    lacking = tuple(i for i, name in enumerate(members) if name not in digests)
    rerun = max(0, max(job.progress.applied.values()) - after)
    begun = Begun(next(iter(digests.values())), lacking)
    names = ", ".join(members)
    message = f"{job.healing.cause.message}; {names} go on after step {after}"
    job = dataclasses.replace(
        completed,
        reason=Reason("Recovering", message),
        generation=job.generation + 1,
        gang=tuple(members),
        progress=step.resumed(completed.progress, members),
        checkpoints=completed.checkpoints.begun_anew(after),
        evaluations=completed.evaluations.begun_anew(after),
        healing=dataclasses.replace(job.healing, begun=begun),
    )
    data = {"step": after, "generation": job.generation, "pods": members, "rerun": rerun}
    turn.put_job(job, Entry("job.regrouped", message, job.id, data=data))
    assignment = Assignment(job.id, job.generation)
    for name in members:
        turn.put_pod(dataclasses.replace(turn.pods[name], assignment=assignment))
    # Who waits for pods is told that newcomers are busy now.
    turn.availability_changed = True
    for which in half_done:
        # Whether it was published nobody has said, and now nobody will.
        saving.order_removal(turn, job, before, which)
    preparing.order(turn, job)


def _placed(job: Job, standing: Sequence[Pod], newcomers: Sequence[Pod]) -> list[str]:
    """Names in the order of slots: who stands keeps its place, newcomers take those of the lost."""
    stay, come = {pod.name for pod in standing}, [pod.name for pod in newcomers]
    placed = [name if name in stay else come.pop(0) if come else "" for name in job.gang]
    return [name for name in placed if name] + come


def _completed(turn: Turn, job: Job, after: int) -> Job | None:
    """The job with all steps up to `after` counted; None when one of those has to be met."""
    assert job.progress is not None
    timeline = job.progress.totals.timeline
    progress, merged = step.completed(job.progress, after, job.slots)
    for complete in merged:
        record = complete.record
        timeline = timeline.plus(durations([record]))
        if spikes.judge(job.spec.spikes, job.losses, record.loss, record.grad_norm).is_spike:
            return None
        job = saving.remembering(job, record, timeline)
    job = dataclasses.replace(job, progress=progress)
    turn.measure(job, merged)
    return job
