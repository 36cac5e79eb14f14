"""What must hold after every event of every history, whatever hosts and people do."""

from __future__ import annotations

import math
from collections.abc import Collection

from controller.core import commands, events, gang, goodput
from controller.core.cluster import Assignment, HostRef, Pod
from controller.core.job import FINAL_STATES, Job, JobState
from controller.core.turn import Outcome, State
from tests.controller.core.world import World

_HOLDING = {JobState.ADMITTED, JobState.STARTING, JobState.RUNNING, JobState.RECOVERING}

_ALL_THERE = {"LinkDown", "Growing", "Drained", "Leaving", "Quarantined"}
"""Why pods may be told to stand still though none was lost."""


class Invariants:
    """Watches a history; an AssertionError names the promise that was broken."""

    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._taken_over: set[str] = set()
        """A restarted controller has those stand still that were being healed, all there or not."""
        self._merged: dict[Assignment, int] = {}
        self._began: dict[Assignment, int] = {}
        """Step of the checkpoint, or of the state, that a generation went on from."""
        self._granted: dict[tuple[HostRef, Assignment], int] = {}

    def __call__(self, before: State, event: events.Event, outcome: Outcome) -> None:
        self._final_states_absorb(outcome)
        self._steps_merge_in_order(before, outcome)
        self._commands_have_a_current_generation(before, outcome)
        self._windows_grow_up_to_the_target(outcome)
        assert not set(outcome.forgotten_jobs) & (set(before.jobs) | set(outcome.state.jobs))
        after = outcome.state
        _pods_serve_one_job(after)
        if isinstance(event, events.JobReloaded):
            self._taken_over.add(event.job.id)
        _gangs_are_whole(after, self._taken_over)
        _freed_pods_hold_nothing(after)
        _waiting_jobs_know_why(after)

    def _final_states_absorb(self, outcome: Outcome) -> None:
        for job in outcome.changed_jobs:
            assert job.id not in self._ended, f"{job.id} had ended and became {job.state}"
            assert job.reason.code and job.reason.message
            assert (job.finished_at is not None) == job.is_final
        self._ended |= {job.id for job in outcome.changed_jobs if job.is_final}
        assert not self._ended & set(outcome.state.jobs)
        assert not {job.state for job in outcome.state.jobs.values()} & FINAL_STATES

    def _commands_have_a_current_generation(self, before: State, outcome: Outcome) -> None:
        opened = {_generation(job) for job in outcome.state.jobs.values()}
        known = opened | {_generation(job) for job in before.jobs.values()}
        for command in outcome.commands:
            match command:
                case commands.LowerProgram(assignment) | commands.AbandonLowering(assignment):
                    assert assignment in known
                case commands.PrepareHost(host, assignment) | commands.GrantWindow(
                    host, assignment
                ):
                    assert assignment in opened
                    if isinstance(command, commands.PrepareHost):
                        self._prepares(command)
                    assert _holds(outcome.state, host, assignment), f"{host} holds no {assignment}"
                case commands.StopHost(host, assignment) | commands.HoldHost(host, assignment):
                    # Hosts that come back to a restarted controller may hold what is long over.
                    assert assignment in known or _holds(outcome.state, host, assignment)
                case _:
                    pass

    def _prepares(self, command: commands.PrepareHost) -> None:
        resume = command.resume
        if resume is not None:
            assert command.restore is None
            assert len(resume.lacking) < len(command.members), "nobody holds the state"
            before = Assignment(command.assignment.job, command.assignment.generation - 1)
            assert self._merged.get(before, self._began.get(before, 0)) == resume.step, (
                "an applied step was lost"
            )
            self._began[command.assignment] = resume.step
        elif command.restore is not None:
            self._began[command.assignment] = command.restore.checkpoint.step

    def _windows_grow_up_to_the_target(self, outcome: Outcome) -> None:
        """What is decided for a step comes before any host may run it."""
        for command in outcome.commands:
            if isinstance(command, commands.ChangeExchange):
                granted = self._granted.get((command.host, command.assignment), 0)
                assert granted < command.first_step
            if isinstance(command, commands.GrantWindow):
                job = outcome.state.jobs[command.assignment.job]
                key = (command.host, command.assignment)
                assert self._granted.get(key, 0) < command.last_step <= job.target_steps
                self._granted[key] = command.last_step

    def _steps_merge_in_order(self, before: State, outcome: Outcome) -> None:
        """Each step is applied by all pods of a generation, once, one after the other."""
        for applied, steps in outcome.steps:
            generation = _generation(applied)
            assert generation == _generation(before.jobs[applied.id])
            numbers = [step.record.step for step in steps]
            done = self._merged.get(generation, self._began.get(generation, 0))
            assert numbers == list(range(done + 1, done + 1 + len(numbers)))
            self._merged[generation] = done + len(numbers)
        for job in outcome.changed_jobs:
            if job.state is JobState.SUCCEEDED:
                assert job.progress is not None
                generation = _generation(job)
                began = self._began.get(generation, 0)
                assert self._merged.get(generation, began) == job.target_steps
                assert set(job.progress.applied.values()) == {job.target_steps}


class Accounts:
    """Watches where the time of jobs goes, by the clock of their world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._passed: dict[str, dict[str, float]] = {}

    def __call__(self, before: State, event: events.Event, outcome: Outcome) -> None:
        jobs = [*outcome.state.jobs.values(), *outcome.changed_jobs]
        for job in jobs:
            self._every_second_has_one_category(job, self._world.now)
            self._every_second_has_one_category(job, self._world.now + 7.5)
            self._counters_never_fall(job)

    def _every_second_has_one_category(self, job: Job, now: float) -> None:
        spent = goodput.time_seconds(job, now)
        if job.admitted_at is None:
            assert spent == {}
            return
        end = now if job.finished_at is None else job.finished_at
        wall = end - job.admitted_at
        assert math.isclose(sum(spent.values()), wall, abs_tol=1e-6), (wall, spent)
        assert min(spent.values()) >= 0.0, spent

    def _counters_never_fall(self, job: Job) -> None:
        known = self._passed.get(job.id, {})
        self._passed[job.id] = goodput.passed_seconds(job, self._world.now)
        for category, seconds in known.items():
            assert self._passed[job.id][category] >= seconds - 1e-9, category


def _pods_serve_one_job(state: State) -> None:
    for pod in state.pods.values():
        assert pod.assignment is not None or pod.releasing_since is None
        if pod.assignment is not None and pod.releasing_since is None:
            job = state.jobs[pod.assignment.job]
            assert job.state in _HOLDING
            # One that came back to a restarted controller may not have heard of the newest.
            assert job.generation - 1 <= pod.assignment.generation <= job.generation
            assert pod.name in set(job.gang)


def _gangs_are_whole(state: State, taken_over: Collection[str]) -> None:
    for job in state.jobs.values():
        holding = [p for p in state.pods.values() if _serves(p, job)]
        working = [pod for pod in holding if pod.releasing_since is None]
        if job.awaited_since is not None:
            assert {p.name for p in working} <= set(job.gang)
        elif job.is_gathering:
            all_there = {p.name for p in working} == set(job.gang)
            assert not all_there or job.reason.code in _ALL_THERE or job.id in taken_over
            assert working, f"{job.id} waits with nobody"
        elif job.state in _HOLDING:
            least = job.spec.least_pods if job.state is not JobState.ADMITTED else job.spec.min_pods
            assert {p.name for p in working} == set(job.gang)
            assert least <= len(job.gang) <= job.spec.max_pods
            assert all(len(pod.hosts) == pod.num_hosts for pod in working)
        elif job.state is JobState.CANCELLING:
            assert holding, f"{job.id} waits for nobody"
        else:
            assert not working


def _serves(pod: Pod, job: Job) -> bool:
    return pod.assignment is not None and pod.assignment.job == job.id


def _freed_pods_hold_nothing(state: State) -> None:
    for pod in state.pods.values():
        held = {host.holds for host in pod.hosts.values() if host.holds is not None}
        assert held <= {pod.assignment}, f"{pod.name} is free of what its hosts hold"


def _waiting_jobs_know_why(state: State) -> None:
    """The verdict on each waiting job is the one that another look would give."""
    waiting = sorted(
        (job for job in state.jobs.values() if job.state is JobState.PENDING),
        key=lambda job: (job.created_at, job.id),
    )
    for verdict in gang.admit(waiting, state.pods.values()):
        assert not verdict.gang, f"{verdict.job_id} waits and could run"
        assert state.jobs[verdict.job_id].reason == verdict.reason


def _generation(job: Job) -> Assignment:
    return Assignment(job.id, job.generation)


def _holds(state: State, ref: HostRef, assignment: Assignment) -> bool:
    host = state.pods[ref.pod].hosts.get(ref.index)
    return host is not None and host.ref == ref and host.holds == assignment
