"""A whole fleet on a virtual clock: the real core, and hosts that behave as workers do.

Messages take time and keep their order on a connection, connections break with what is on them,
hosts crash and are started again, a controller crashes and another takes over from what is in the
store, hosts that cannot be reached go on by themselves. Everything follows from a seed.

The state of a job is a chain: what it is after a step follows from what it was before and from the
number of the step. So a step that is applied twice, left out or applied to the wrong state shows in
every digest after it. Pods have one host each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Mapping

from controller.core import commands, events
from controller.core.cluster import Assignment, HostRef
from controller.core.job import FINAL_STATES, Job
from controller.core.turn import Outcome, State
from tests.controller.core.world import PROGRAM, World, attached, inventory, record, spec
from tests.scenarios.invariants import Invariants

JOB = "job-1"
HORIZON = 3600.0
"""Virtual seconds within which every job ends."""


def digest_after(step: int) -> str:
    """Of the state of a job nobody interfered with."""
    state = ""
    for number in range(1, step + 1):
        state = advanced(state, number)
    return state or hashlib.sha256(b"seed").hexdigest()


def advanced(state: str, step: int) -> str:
    before = state or hashlib.sha256(b"seed").hexdigest()
    return hashlib.sha256(f"{before}/{step}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Kept:
    """State that a host holds: after `step` of the job."""

    assignment: Assignment
    step: int
    state: str


class Process:
    """One worker. What it does for a job it does as workers.executor and workers.host do."""

    def __init__(self, fleet: Fleet, pod: str, incarnation: str) -> None:
        self.fleet, self.ref = fleet, HostRef(pod, 0, incarnation)
        self.is_alive = True
        self.connection = 0
        """Goes up with every dial; what belongs to an earlier one is lost."""
        self.is_connected = False
        self._arrives = 0.0
        self._assembled_with = ""
        self.kept: Kept | None = None
        """Stands still with it."""
        self.order: commands.PrepareHost | None = None
        self.state: str | None = None
        """Of the job that it trains; None until it is ready."""
        self.step = 0
        self.granted = 0
        self.leaves: bool | None = None
        """Told to leave the job at hand: with its state kept, or not."""
        self._told: list[events.Event] = []
        self._is_silent = False
        self._computed = 0
        self._has_begun = False

    def dial(self) -> None:
        """Until a controller answers."""
        if not self.is_alive or self.is_connected:
            return
        if not self.fleet.answers(self):
            self.fleet.later(self.fleet.chance.uniform(0.1, 3.0), self.dial)
            return
        self.connection += 1
        self.is_connected, self._is_silent = True, True
        held = self.assignment
        before = {"assembled_with": self._assembled_with, "held": held, "granted": self.granted}
        self._send(attached(self.ref, **before))
        if self._assembled_with:
            self._send(events.HostInventoried(self.ref, inventory()))
        self._beat(self.connection)

    @property
    def assignment(self) -> Assignment | None:
        if self.order is not None:
            return self.order.assignment
        return self.kept.assignment if self.kept else None

    def obey(self, command: commands.Command) -> None:
        match command:
            case commands.AssembleHost():
                self._assembled_with = command.lead_incarnation
                self._send(events.HostInventoried(self.ref, inventory()))
            case commands.PrepareHost():
                self._prepare(command)
            case commands.GrantWindow(_, assignment, last):
                if assignment == self.assignment:
                    self.granted = max(self.granted, last)
                    self._compute()
            case commands.HoldHost(_, assignment):
                self._leave(assignment, keeps=True)
            case commands.StopHost(_, assignment):
                self._leave(assignment, keeps=False)
            case commands.TellAgain(_, assignment, after):
                if assignment == self.assignment:
                    self._is_silent = False
                    for report in self._told:
                        self._tell_again(report, after)
            case commands.PublishCheckpoint():
                self.fleet.published[command.step, command.assignment.generation] = (
                    command.state_sha256
                )
                done = events.CheckpointPublished(self.ref, command.assignment, command.step, "")
                self._report(done)
            case commands.WarmHost(_, digest):
                self._send(events.HostWarmed(self.ref, digest))
            case commands.DismissHost():
                self.fleet.ends(self)
            case _:
                pass

    def peer_gone(self, pod: str) -> None:
        """The exchange cannot reach a member; it stands still after what it has applied."""
        order = self.order
        if not self.is_alive or order is None:
            return
        if pod not in {m.pod for m in order.members} or self.ref.pod == pod:
            return
        if self.state is None or self.step >= order.target_steps:
            return
        message = f"pod {pod} cannot be reached"
        fault = events.JobFaulted(
            self.ref, order.assignment, "exchange", self.step + 1, message, pod
        )
        self._report(fault)
        self._end(keeps=True)

    def applies(self, step: int) -> None:
        """All members have offered the step."""
        order = self.order
        assert order is not None and self.state is not None and step == self.step + 1
        self.state, self.step = advanced(self.state, step), step
        applied = record(step, time=self.fleet.now, digest=self.state)
        self._report(events.StepsApplied(self.ref, order.assignment, (applied,)))
        every = order.checkpoint_every
        if every and (step % every == 0 or step == order.target_steps):
            self._save()
        if self.leaves is not None or step >= order.target_steps:
            self._end(keeps=self.leaves is not False)
        else:
            self._compute()

    def crash(self) -> None:
        self.is_alive = False
        self.hang_up()

    def hang_up(self) -> None:
        """The connection breaks, with what is on it."""
        if self.is_connected:
            self.is_connected = False
            self.connection += 1
            self.fleet.disconnected(self.ref)
        if self.is_alive:
            self.fleet.later(self.fleet.chance.uniform(0.1, 1.0), self.dial)

    def _prepare(self, order: commands.PrepareHost) -> None:
        kept, self.kept = self.kept, None
        if kept is not None and kept.assignment.job != order.assignment.job:
            self._send(events.JobReleased(self.ref, kept.assignment, kept.step))
        self.order, self.state, self.leaves = order, None, None
        self.granted, self._computed, self._has_begun = 0, 0, False
        self._told, self._is_silent = [], False
        resume, state = order.resume, None
        if resume is not None and order.member_index not in resume.lacking:
            if kept is not None and kept.step == resume.step:
                state = kept.state
                for other in resume.lacking:
                    self.fleet.healed(order.assignment, order.members[other].pod, state)
            self.step = resume.step
        elif resume is not None:
            self.step = resume.step
        elif order.restore is not None:
            which = order.restore.checkpoint
            self.step, state = which.step, self.fleet.published[which.step, which.generation]
        else:
            self.step, state = 0, ""
        takes = self.fleet.chance.uniform(0.1, 5.0)
        self.fleet.later(takes, lambda: self._prepared(order, state))

    def _prepared(self, order: commands.PrepareHost, state: str | None) -> None:
        if not self.is_alive or self.order is not order:
            return
        if state is None and order.resume is not None:
            state = self.fleet.given.get((order.assignment, self.ref.pod))
            if state is None and self.leaves is None and not self._lost_holders(order):
                # Holders may still be on their way.
                self.fleet.later(0.5, lambda: self._prepared(order, None))
                return
        if state is None:
            self._end(keeps=False)
            return
        self.state = state
        if self.leaves is not None:
            self._end(keeps=self.leaves)
            return
        ready = events.ProgramReady(self.ref, order.assignment, 1.0, 0.5, "d", 10_000)
        self._report(ready)
        self._compute()

    def _lost_holders(self, order: commands.PrepareHost) -> bool:
        assert order.resume is not None
        holders = [m.pod for i, m in enumerate(order.members) if i not in order.resume.lacking]
        return not any(
            (p := self.fleet.processes.get(pod)) and p.is_alive and p.assignment == order.assignment
            for pod in holders
        )

    def _compute(self) -> None:
        """The next step, if it is granted and not under way."""
        order, step = self.order, self.step + 1
        if order is None or self.state is None or self.leaves is not None:
            return
        if order.resume is not None and not self._has_begun and self.granted >= self.step:
            self._has_begun = True
            if order.resume.is_save_due:
                self._save()
            if self.step >= order.target_steps:
                self._end(keeps=True)
                return
        if step > min(self.granted, order.target_steps) or self._computed >= step:
            return
        self._computed = step
        takes = self.fleet.chance.uniform(0.02, 0.2)
        self.fleet.later(takes, lambda: self._offer(order, step))

    def _offer(self, order: commands.PrepareHost, step: int) -> None:
        if self.is_alive and self.order is order and self.leaves is None:
            self.fleet.offered(self, order, step)

    def _leave(self, assignment: Assignment, *, keeps: bool) -> None:
        if self.order is not None and self.order.assignment == assignment:
            if self.leaves is not False:
                self.leaves = keeps
            if self.state is not None:
                self._end(keeps=self.leaves)
        elif self.kept is not None and self.kept.assignment == assignment and not keeps:
            self.kept = None
            self._report(events.JobReleased(self.ref, assignment, self.step))

    def _end(self, *, keeps: bool) -> None:
        order, state = self.order, self.state
        assert order is not None
        self.order = None
        self.fleet.withdrawn(self, order)
        if keeps and state is not None:
            self.kept = Kept(order.assignment, self.step, state)
            told = state or digest_after(0)
            self._report(events.JobHeld(self.ref, order.assignment, self.step, told))
        else:
            self._report(events.JobReleased(self.ref, order.assignment, self.step))
        self.state = None

    def _save(self) -> None:
        order, state, step = self.order, self.state, self.step
        assert order is not None and state is not None
        written = events.CheckpointWritten(
            self.ref, order.assignment, step, state, 10, 1.0, 0.1, 4 * step, ""
        )
        self._report(written)

    def _beat(self, connection: int) -> None:
        if self.is_alive and self.connection == connection and self.is_connected:
            self._send(events.HostHeard(self.ref, {}))
            self.fleet.later(1.0, lambda: self._beat(connection))

    def _report(self, report: events.Event) -> None:
        """Kept for another controller; said to one that has asked for it."""
        self._told.append(report)
        if not self._is_silent:
            self._send(report)

    def _tell_again(self, report: events.Event, after: int) -> None:
        if isinstance(report, events.StepsApplied) and report.records[-1].step <= after:
            return
        self._send(report)

    def _send(self, report: events.Event) -> None:
        if self.is_connected:
            connection = self.connection
            self._arrives = max(self._arrives, self.fleet.now + self.fleet.transit())
            self.fleet.at(self._arrives, lambda: self.fleet.arrived(self, connection, report))


class Fleet:
    """The controller, processes, what passes between them, and what goes wrong."""

    def __init__(self, seed: int, pods: int, on_pod_loss: str, steps: int = 60) -> None:
        self.chance = random.Random(seed)
        self.world = World()
        self.world.observers += [Invariants(), self._carry_out]
        self.processes: dict[str, Process] = {}
        self.published: dict[tuple[int, int], str] = {}
        """State of every checkpoint, by step and generation."""
        self.given: dict[tuple[Assignment, str], str] = {}
        """State on its way over the link, by generation and the pod that lacks it."""
        self.curve: dict[int, str] = {}
        """Steps on record, with the digest that all pods told."""
        self.is_up = True
        self._unreachable: dict[str, float] = {}
        """Pods whose connections to the controller are cut, until when."""
        self._offers: dict[tuple[Assignment, int], set[int]] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._down: dict[HostRef, float] = {}
        self._incarnations = itertools.count()
        self.steps = steps
        self._spec = spec(
            steps=steps,
            min_pods=2,
            max_pods=2 if pods < 4 else 3,
            least_pods=1,
            on_pod_loss=on_pod_loss,
            digest_every=1,
            checkpoint_every=self.chance.choice([0, 10]),
        )
        for index in range(pods):
            self._start(f"pod-{index}")

    @property
    def now(self) -> float:
        return self.world.now

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, what)

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._order), what))

    def transit(self) -> float:
        """Of a message: mostly a millisecond, at times a second."""
        return self.chance.uniform(0.0005, 0.002) if self.chance.random() < 0.95 else 1.0

    def answers(self, process: Process) -> bool:
        return self.is_up and self._unreachable.get(process.ref.pod, 0.0) <= self.now

    def run(self, faults: int) -> Job:
        """The job as it ended, after so many faults."""
        self.later(0.25, self._tick)
        self.later(1.0, self._submit)
        for _ in range(faults):
            self.later(self.chance.uniform(5.0, 60.0), self._go_wrong)
        end = self.now + HORIZON
        while self._agenda and self.now < end:
            self.world.now, _, what = heapq.heappop(self._agenda)
            what()
            ended = [job for job in self.world.outcome.changed_jobs if job.state in FINAL_STATES]
            if ended:
                return ended[0]
        job = self.world.state.jobs[JOB]
        raise AssertionError(f"not over within an hour: {job.state}, {job.reason}")

    def offered(self, process: Process, order: commands.PrepareHost, step: int) -> None:
        """When the last member has, all apply it, each when it hears of the last."""
        key = (order.assignment, step)
        offers = self._offers.setdefault(key, set())
        offers.add(order.member_index)
        if len(offers) < len(order.members):
            return
        for member in order.members:
            other = self.processes.get(member.pod)
            if other is not None:
                delay = self.chance.uniform(0.0005, 0.05)
                self.later(delay, lambda other=other: self._reduced(other, order.assignment, step))

    def _reduced(self, process: Process, assignment: Assignment, step: int) -> None:
        order = process.order
        if not process.is_alive or order is None or order.assignment != assignment:
            return
        if process.leaves is None and process.step == step - 1 and process.state is not None:
            process.applies(step)

    def withdrawn(self, process: Process, order: commands.PrepareHost) -> None:
        """Who leaves a generation is missed by the others when they wait for its next step."""
        self._missed(process.ref.pod, order.assignment)

    def _missed(self, pod: str, assignment: Assignment) -> None:
        for other in list(self.processes.values()):
            if other.ref.pod != pod and other.assignment == assignment:
                delay = self.chance.uniform(0.001, 1.0)

                def tell(other: Process = other) -> None:
                    order = other.order
                    if order is not None and order.assignment == assignment:
                        if self._is_on_its_way(order, other.step + 1):
                            return
                        gone = self.processes.get(pod)
                        if gone is None or gone.assignment != assignment or gone.order is None:
                            other.peer_gone(pod)

                self.later(delay, tell)

    def _is_on_its_way(self, order: commands.PrepareHost, step: int) -> bool:
        """Whether all members have sent what the step needs: who leaves then is not missed."""
        return len(self._offers.get((order.assignment, step), ())) == len(order.members)

    def healed(self, assignment: Assignment, pod: str, state: str) -> None:
        self.given[assignment, pod] = state

    def arrived(self, process: Process, connection: int, report: events.Event) -> None:
        if self.is_up and process.connection == connection:
            self.world.happens(report)

    def disconnected(self, ref: HostRef) -> None:
        """A controller that is up sees the end of a connection, or hears nothing any more."""
        if self.is_up:
            delay = self.chance.uniform(0.001, 2.0)
            self.later(delay, lambda: self._detached(ref))

    def _detached(self, ref: HostRef) -> None:
        process = self.processes.get(ref.pod)
        is_back = process is not None and process.ref == ref and process.is_connected
        if self.is_up and not is_back:
            self.world.happens(events.HostDetached(ref, f"{ref} closed its connection"))

    def ends(self, process: Process) -> None:
        """A process that was dismissed, or is killed; its launcher starts another."""
        if not process.is_alive:
            return
        assignment = process.assignment
        process.crash()
        if assignment is not None:
            self._missed(process.ref.pod, assignment)
        pod = process.ref.pod
        self.later(self.chance.uniform(0.5, 10.0), lambda: self._start(pod, process))

    def _start(self, pod: str, after: Process | None = None) -> None:
        if self.processes.get(pod) is not after:
            return
        process = Process(self, pod, f"i{next(self._incarnations):03}")
        self.processes[pod] = process
        process.dial()

    def _submit(self) -> None:
        self.world.happens(events.JobSubmitted(JOB, self._spec))

    def _tick(self) -> None:
        if self.is_up:
            self.world.happens(events.Ticked())
        self.later(0.25, self._tick)

    def _carry_out(self, before: State, event: events.Event, outcome: Outcome) -> None:
        for _, steps in outcome.steps:
            for step in steps:
                (told,) = set(step.digests.values()) or {""}
                self.curve[step.record.step] = told
        for command in outcome.commands:
            self._deliver(command)

    def _deliver(self, command: commands.Command) -> None:
        match command:
            case commands.LowerProgram(assignment):
                lowered = events.ProgramLowered(assignment, PROGRAM)
                self.later(0.5, lambda: self.is_up and self.world.happens(lowered))
            case commands.RestartPod(pod, _):
                process = self.processes.get(pod)
                if process is not None and self._unreachable.get(pod, 0.0) <= self.now:
                    self.later(0.01, lambda: self.ends(process))
            case commands.AbandonLowering():
                pass
            case _:
                self._send(command)

    def _send(self, command: commands.Command) -> None:
        process = self.processes.get(command.host.pod)  # type: ignore[union-attr]
        if process is None or process.ref != command.host:  # type: ignore[union-attr]
            return
        connection = process.connection
        arrives = max(self._down.get(process.ref, 0.0), self.now + self.transit())
        self._down[process.ref] = arrives

        def obey() -> None:
            if process.is_alive and process.connection == connection and process.is_connected:
                process.obey(command)

        self.at(arrives, obey)

    def _go_wrong(self) -> None:
        faults = {
            self._crash_a_host: 5,
            self._crash_the_controller: 2,
            self._break_a_connection: 2,
            self._cut_a_pod_off: 1,
        }
        self.chance.choices(list(faults), list(faults.values()))[0]()

    def _any(self) -> Process | None:
        alive = [p for _, p in sorted(self.processes.items()) if p.is_alive]
        return self.chance.choice(alive) if alive else None

    def _crash_a_host(self) -> None:
        process = self._any()
        if process is not None:
            self.ends(process)

    def _break_a_connection(self) -> None:
        process = self._any()
        if process is not None:
            process.hang_up()

    def _cut_a_pod_off(self) -> None:
        """Longer than silence is borne; nobody can end its process meanwhile, and it goes on."""
        process = self._any()
        if process is not None:
            self._unreachable[process.ref.pod] = self.now + self.chance.uniform(5.0, 40.0)
            process.hang_up()

    def _crash_the_controller(self) -> None:
        if not self.is_up:
            return
        self.is_up = False
        for process in self.processes.values():
            if process.is_alive:
                process.hang_up()
        self.later(self.chance.uniform(0.5, 8.0), self._take_over)

    def _take_over(self) -> None:
        jobs = list(self.world.state.jobs.values())
        self.is_up = True
        self.world.restart(jobs)


def ends_alike(fleet: Fleet, job: Job) -> None:
    """Every step is on record once, in the state it has when nobody interferes."""
    assert sorted(fleet.curve) == list(range(1, fleet.steps + 1))
    states: Mapping[int, str] = fleet.curve
    for step, told in states.items():
        assert told == digest_after(step), f"another state after step {step}"
