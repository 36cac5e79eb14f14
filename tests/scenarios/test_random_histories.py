"""Random histories of a fleet, hostile ones included: what must always hold, and that pods come
free in the end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.core import commands, events
from controller.core.cluster import Assignment, HostRef, Traffic
from controller.core.errors import JobIsLive, UnknownJob, UnknownPod
from controller.core.evaluation import Part
from controller.core.job import Job, JobState
from controller.core.spikes import SpikePolicy
from controller.core.turn import Outcome, State
from tests.controller.core.linked_pods import POLICY
from tests.controller.core.world import PROGRAM, World, attached, inventory, record, ref, spec
from tests.scenarios.invariants import Accounts, Invariants

PODS = ("pod-0", "pod-1", "pod-2")
NUM_HOSTS = {"pod-0": 1, "pod-1": 1, "pod-2": 2}


class History:
    """Interprets draws as events, among them late and stale ones."""

    def __init__(self, draw: st.DataObject) -> None:
        self._draw = draw
        self.world = World()
        self.world.observers += [self._remember, Invariants(), Accounts(self.world)]
        self._assignments: set[Assignment] = {Assignment("job-1", 1)}
        self._hosts: set[HostRef] = {ref("pod-0")}
        self._submitted = 0
        self._data_steps: dict[str, int] = {}
        """By job: data that changed would have another digest."""

    def _remember(self, before: State, event: events.Event, outcome: Outcome) -> None:
        for command in outcome.commands:
            if isinstance(command, commands.LowerProgram):
                self._assignments.add(command.assignment)
        if isinstance(event, events.HostAttached):
            self._hosts.add(event.host)

    def _one(self, values: object) -> object:
        return self._draw.draw(st.sampled_from(sorted(values)))  # type: ignore[call-overload]

    def _number(self, most: int) -> int:
        return self._draw.draw(st.integers(0, most))

    def _host(self) -> HostRef:
        """Mostly an attached one; sometimes one of the past."""
        present = {h.ref for p in self.world.state.pods.values() for h in p.hosts.values()}
        return self._one(present if present and self._number(5) else self._hosts)

    def _assignment(self, host: HostRef) -> Assignment:
        """Mostly the one of the host's pod; sometimes any there ever was."""
        pod = self.world.state.pods.get(host.pod)
        if pod and pod.assignment and self._number(5):
            return pod.assignment
        return self._one(self._assignments)

    def submit(self) -> None:
        self._submitted += 1
        most = 1 + self._number(2)
        least = 1 + self._number(most - 1)
        devices = 2 if self._number(5) == 5 else 1
        policy = SpikePolicy(4.0, 4, 1, 2, 2) if self._number(1) else None
        saves: dict[str, Any] = {"checkpoint_every": 1, "spikes": policy} if policy else {}
        saves["choice"] = POLICY if self._number(1) else None
        saves["on_pod_loss"] = self._one(("fail", "wait", "shrink"))
        saves["least_pods"] = 1 if self._number(1) else least
        submitted = spec(min_pods=least, max_pods=most, devices_per_pod=devices, steps=9, **saves)
        self.world.happens(events.JobSubmitted(f"job-{self._submitted}", submitted))

    def cancel(self) -> None:
        job = self._one(self.world.state.jobs or {"job-0"})
        try:
            self.world.happens(events.CancelRequested(job, "somebody"))
        except UnknownJob:
            assert job not in self.world.state.jobs

    def delete(self) -> None:
        job = f"job-{self._number(self._submitted)}"
        try:
            self.world.happens(events.DeleteRequested(job))
        except JobIsLive:
            assert job in self.world.state.jobs

    def attach(self) -> None:
        pod = self._one(PODS)
        index = self._number(NUM_HOSTS[pod] - 1)
        num_hosts = NUM_HOSTS[pod] + (1 if self._number(9) == 9 else 0)
        incarnation = self._one("abc")
        host = ref(pod, index, incarnation)
        held = self.world.left.get(host) if self._number(5) else None
        before = {"held": held, "assembled_with": incarnation if held else ""}
        self.world.happens(attached(host, num_hosts, **before))

    def take_stock(self) -> None:
        kind = "gpu" if self._number(9) == 9 else "cpu"
        self.world.happens(events.HostInventoried(self._host(), inventory(kind=kind)))

    def join(self) -> None:
        """A whole pod at once, so that jobs get somewhere."""
        pod = self._one(PODS)
        self.world.pod_joins(pod, NUM_HOSTS[pod], self._one("abc"))

    def hear(self) -> None:
        sent = Traffic(self._number(3), float(self._number(3)), 0)
        host, doing = self._host(), None
        if self._number(3):
            phase = self._one(("compute", "exchange", "compile", "heal", "evaluate", "rest"))
            seconds = self._one((0.1, 30.0, 5000.0))
            doing = events.Doing(self._assignment(host), phase, self._number(9), seconds)
        self.world.happens(events.HostHeard(host, {self._one(PODS): sent}, doing))

    def tell_stacks(self) -> None:
        host = self._host()
        self.world.happens(events.StacksTold(host, self._assignment(host), "frames"))

    def drain(self) -> None:
        with contextlib.suppress(UnknownPod):
            self.world.happens(events.DrainRequested(self._one(PODS), "somebody"))

    def undrain(self) -> None:
        with contextlib.suppress(UnknownPod):
            self.world.happens(events.UndrainRequested(self._one(PODS), "somebody"))

    def leave(self) -> None:
        self.world.happens(events.HostLeaving(self._host(), 25.0))

    def detach(self) -> None:
        self.world.happens(events.HostDetached(self._host(), "its connection closed"))

    def lower(self) -> None:
        assignment = self._one(self._assignments)
        if self._number(5):
            self.world.happens(events.ProgramLowered(assignment, PROGRAM))
        else:
            self.world.happens(events.LoweringFailed(assignment, "no"))

    def become_ready(self) -> None:
        self._become_ready(self._host())

    def _become_ready(self, host: HostRef) -> None:
        digest = "e" if self._number(9) == 9 else "d"
        assignment = self._assignment(host)
        lasts = self._one((2, 0, 1000)) if self._number(9) == 9 else 1000
        data_steps = self._data_steps.setdefault(assignment.job, lasts)
        self.world.happens(events.ProgramReady(host, assignment, 1.0, 0.5, digest, data_steps))

    def run(self) -> None:
        """One job gets on, as well-behaved hosts would have it."""
        if not self.world.state.jobs:
            return
        job = self.world.state.jobs[self._one(self.world.state.jobs)]
        if job.state is JobState.ADMITTED:
            self.world.lower(job.id)
        elif job.state is JobState.STARTING or (job.healing and job.healing.begun):
            for host in self.world.hosts(job.id):
                self._become_ready(host)
        elif job.state is JobState.RECOVERING:
            self._stand_still(job)
        elif job.state is JobState.RUNNING:
            for host in self.world.hosts(job.id):
                self.apply_on(host)

    def _stand_still(self, job: Job) -> None:
        """As well-behaved hosts do: all that they applied is told before."""
        assert job.progress is not None
        applied = job.progress.applied
        newest = max((applied[h.pod] for h in self.world.hosts(job.id)), default=0)
        for host in self.world.hosts(job.id):
            at = applied.get(host.pod, 0)
            assignment = Assignment(job.id, job.generation)
            self._hold(host, assignment, at if at >= newest - 1 else newest - 1)

    def hold(self) -> None:
        host = self._host()
        assignment = self._assignment(host)
        job = self.world.state.jobs.get(assignment.job)
        applied = 0
        if job and job.progress and job.generation == assignment.generation:
            applied = job.progress.applied.get(host.pod, 0)
        self._hold(host, assignment, applied)

    def _hold(self, host: HostRef, assignment: Assignment, step: int) -> None:
        digest = ("f" if self._number(9) == 9 else "e") * 64
        self.world.happens(events.JobHeld(host, assignment, step, digest))

    def apply(self) -> None:
        self.apply_on(self._host())

    def apply_on(self, host: HostRef) -> None:
        assignment = self._assignment(host)
        job = self.world.state.jobs.get(assignment.job)
        progress = job.progress if job else None
        applied = progress.applied.get(host.pod, 0) if progress else 0
        first = max(1, applied + 1 - self._number(1))
        last = min(first + self._number(2), progress.granted if progress else 3)
        digest = ("f" if self._number(9) == 9 else "e") * 64
        loss = self._one((1.0, 1.0, 1.0, 50.0, math.nan)) if self._number(3) == 3 else 1.0
        records = tuple(record(step, digest=digest, loss=loss) for step in range(first, last + 1))
        self.world.happens(events.StepsApplied(host, assignment, records))
        if job is not None and job.spec.checkpoint_every and self._number(1):
            self._save(host, assignment, last)

    def _save(self, host: HostRef, assignment: Assignment, step: int) -> None:
        written = events.CheckpointWritten(
            host, assignment, step, "ab" * 32, 10, 1.0, 0.1, 4 * step, "full" * self._number(1)
        )
        self.world.happens(written)
        self.world.happens(events.CheckpointPublished(host, assignment, step, ""))
        part = Part((1.0,), 10, 10)
        self.world.happens(events.Evaluated(host, assignment, step, part))

    def fail_to_restore(self) -> None:
        host = self._host()
        self.world.happens(events.RestoreFailed(host, self._assignment(host), "damaged"))

    def fault(self) -> None:
        host = self._host()
        phase = self._one(("fetch", "data", "compile", "compute", "exchange", "heal"))
        suspect = self._one(PODS) if self._number(1) else ""
        self.world.happens(
            events.JobFaulted(host, self._assignment(host), phase, 1, "broken", suspect)
        )

    def release(self) -> None:
        host = self._host()
        self.world.release(host, self._assignment(host), self._number(3))

    def tick(self) -> None:
        self.world.now += self._one((0.25, 1.0, 3.0, 4.0, 20.0))
        self.world.happens(events.Ticked())

    def restart(self) -> None:
        """Most processes dial the new controller again."""
        pods = self.world.state.pods
        present = [h.ref for p in pods.values() for h in p.hosts.values()]
        withheld = {name: pod.withheld for name, pod in pods.items() if pod.withheld}
        self.world.restart(list(self.world.state.jobs.values()))
        self.world.happens(events.PodsReloaded(withheld))
        for host in present:
            if self._number(5):
                self.world.comes_back(host, num_hosts=NUM_HOSTS[host.pod])

    @property
    def moves(self) -> list[Callable[[], None]]:
        return [
            self.join,
            self.run,
            self.submit,
            self.cancel,
            self.delete,
            self.attach,
            self.take_stock,
            self.hear,
            self.detach,
            self.lower,
            self.become_ready,
            self.apply,
            self.fault,
            self.release,
            self.hold,
            self.tick,
            self.restart,
            self.fail_to_restore,
            self.tell_stacks,
            self.drain,
            self.undrain,
            self.leave,
        ]


@given(st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
def test_history_of_any_events_keeps_every_promise(draw: st.DataObject) -> None:
    history = History(draw)
    # Swarm testing: a history of few kinds of events gets deeper than one of all kinds.
    every = [move.__name__ for move in history.moves]
    names = draw.draw(st.lists(st.sampled_from(every), min_size=2, max_size=6, unique=True))
    for pod in PODS:
        history.world.pod_joins(pod, NUM_HOSTS[pod])
    history.submit()
    names += ["run"] * len(names)
    # A list strategy would draw short histories only; a drawn length is spread evenly.
    for _ in range(draw.draw(st.integers(0, 60))):
        getattr(history, draw.draw(st.sampled_from(names)))()
    _all_pods_come_free(history.world)


def _all_pods_come_free(world: World) -> None:
    """Everybody cancels and nobody answers any more: the pods are free after the grace."""
    for job_id in list(world.state.jobs):
        world.happens(events.CancelRequested(job_id, "the end"))
    world.happens(events.Ticked())
    policy = world.policy
    world.passes(policy.release_grace + policy.suspicion_grace + 2.0)
    assert not world.state.jobs
    assert all(pod.assignment is None for pod in world.state.pods.values())
