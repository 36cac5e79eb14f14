"""A job on its way through the executor of a pod of one host, whose peers do not exist."""

from __future__ import annotations

import dataclasses
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.workers.conftest import bigram_program, bundle_of
from workers.exchange.agreement import SoleAgreement
from workers.exchange.base import Membership
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.executor import Executor
from workers.orders import (
    Applied,
    Assignment,
    BatchPhase,
    CheckpointWritten,
    ExchangeRule,
    Faulted,
    Held,
    JobOrder,
    Member,
    Phase,
    Ready,
    Released,
    Report,
    Resume,
    Warmed,
)
from workers.program import read_bundle
from workers.training import Training

WAIT = 60.0
ASSIGNMENT = Assignment("job", 1)
PAYLOAD_BYTES = 2 * 257 * 16 * 4 + 2 * 4
"""Gradients and metrics of the bigram program."""


class RecordingExchange(LoopbackExchange):
    def __init__(self) -> None:
        self.link = LoopbackLink()
        super().__init__(self.link)
        self.memberships: list[Membership] = []

    def join(self, membership: Membership) -> None:
        self.memberships.append(membership)
        super().join(membership)


class Worker:
    def __init__(self) -> None:
        self.exchange = RecordingExchange()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.executor = Executor(self.exchange, SoleAgreement(), self.reports.put)
        self.thread = threading.Thread(target=self.executor.run)
        self.thread.start()

    def heard(self) -> Report:
        return self.reports.get(timeout=WAIT)

    def close(self) -> None:
        self.executor.close()
        self.thread.join(WAIT)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def order(
    bundle,
    directory: pathlib.Path,
    *members: Member,
    slots: tuple[range, ...] = (range(1),),
    target_steps: int = 3,
) -> JobOrder:
    (directory / "text.txt").write_text("the quick brown fox " * 100)
    sources = [{"name": "text", "kind": "text", "paths": [f"{directory}/*.txt"]}]
    data = {"sources": sources, "epochs": 2}
    phases = (BatchPhase(1, slots[-1].stop, slots),)
    return JobOrder(ASSIGNMENT, bundle.digest, members, 0, phases, 0, data, 0, target_steps)


def test_programs_that_differ_in_a_number_alone_are_not_taken_for_each_other(
    worker, bigram, tmp_path
):
    slower = bundle_of(bigram_program((2, 2), learning_rate=0.25))
    manifests = [read_bundle(b.data, b.digest)[0] for b in (bigram, slower)]
    assert manifests[0] == manifests[1]
    losses = []
    for number, bundle in enumerate((bigram, slower, slower), 1):
        assignment = Assignment("job", number)
        ordered = order(bundle, tmp_path, Member("pod-0", ""))
        worker.executor.prepare(dataclasses.replace(ordered, assignment=assignment), bundle.data)
        worker.executor.grant(assignment, 3)
        records = []
        while not isinstance(report := worker.heard(), Held):
            records += report.records if isinstance(report, Applied) else []
        worker.executor.stop(assignment, "all is done")
        assert worker.heard() == Released(assignment, 3)
        losses.append([record.values[0] for record in records])
    first, second, again = losses
    assert first[0] == second[0]
    assert first[2] != second[2]
    assert again == second


def test_job_is_prepared_run_as_far_as_granted_and_released(worker, bigram, tmp_path):
    worker.executor.prepare(
        order(bigram, tmp_path, Member("pod-0", ""), slots=(range(2),)), bigram.data
    )
    ready = worker.heard()
    assert isinstance(ready, Ready)
    # 2,001 tokens make 250 sequences of 8, and a step takes 2 slots of 4.
    assert ready.data_steps == 2 * (250 // 8)
    assert 0 < ready.compile_seconds < ready.ready_seconds
    assert worker.reports.empty()
    steps: list[int] = []
    for granted in (2, 3):
        worker.executor.grant(ASSIGNMENT, granted)
        while not steps or steps[-1] < granted:
            applied = worker.heard()
            assert isinstance(applied, Applied)
            assert applied.fields == ["loss"]
            steps += [record.step for record in applied.records]
    assert steps == [1, 2, 3]
    held = worker.heard()
    assert isinstance(held, Held) and (held.assignment, held.applied_step) == (ASSIGNMENT, 3)
    worker.executor.stop(ASSIGNMENT, "all is done")
    assert worker.heard() == Released(ASSIGNMENT, 3)


def test_exchange_changes_before_the_step_that_was_said(worker, bigram, tmp_path, monkeypatch):
    done: list[object] = []
    for name in ("use", "step"):
        real = getattr(Training, name)
        monkeypatch.setattr(
            Training, name, lambda self, what, real=real: done.append(what) or real(self, what)
        )
    worker.executor.prepare(order(bigram, tmp_path, Member("pod-0", "")), bigram.data)
    rules = ExchangeRule(dtype="int8"), ExchangeRule(dtype="bfloat16")
    worker.executor.change_exchange(ASSIGNMENT, 2, rules[0])
    worker.executor.change_exchange(Assignment("job", 2), 1, rules[1])
    worker.executor.grant(ASSIGNMENT, 2)
    while not isinstance(worker.heard(), Applied):
        pass
    worker.executor.change_exchange(ASSIGNMENT, 3, rules[1])
    worker.executor.grant(ASSIGNMENT, 3)
    while not isinstance(worker.heard(), Held):
        pass
    assert done == [1, rules[0], 2, rules[1], 3]


def test_job_joins_its_gang_with_a_bound_on_what_peers_may_send(worker, bigram, tmp_path):
    # Slots [1, 4) of four are the subtrees [1, 2) and [2, 4): two payloads a step.
    members = Member("pod-0", "here"), Member("pod-1", "there")
    worker.executor.prepare(
        order(bigram, tmp_path, *members, slots=(range(1), range(1, 4))), bigram.data
    )
    assert isinstance(worker.heard(), Ready)
    [membership] = worker.exchange.memberships
    assert membership == Membership(
        "job", 1, 0, {1: "there"}, {1: "pod-1"}, max_step_bytes=2 * PAYLOAD_BYTES
    )
    worker.executor.stop(ASSIGNMENT, "the test is over")
    assert worker.heard() == Released(ASSIGNMENT, 0)


def test_bundle_that_is_damaged_faults_the_job_before_it_joins_and_frees_the_executor(
    worker, bigram, tmp_path
):
    job = order(bigram, tmp_path, Member("pod-0", ""))
    worker.executor.prepare(job, bigram.data + b"x")
    fault = worker.heard()
    assert isinstance(fault, Faulted)
    assert (fault.phase, fault.step) == (Phase.FETCH, 0)
    assert bigram.digest in fault.message
    assert worker.heard() == Released(ASSIGNMENT, 0)
    assert worker.exchange.memberships == []


def test_data_that_is_missing_faults_the_job_as_data(worker, bigram, tmp_path):
    job = order(bigram, tmp_path, Member("pod-0", ""))
    (tmp_path / "text.txt").unlink()
    worker.executor.prepare(job, bigram.data)
    fault = worker.heard()
    assert isinstance(fault, Faulted)
    assert fault.phase is Phase.DATA
    assert worker.heard() == Released(ASSIGNMENT, 0)


def alone(bundle, directory, generation: int = 1, resume: Resume | None = None) -> JobOrder:
    """A pod without peers, in this generation."""
    assignment = Assignment("job", generation)
    ordered = order(bundle, directory, Member("pod-0", ""), target_steps=6)
    return dataclasses.replace(ordered, assignment=assignment, resume=resume)


def trained(worker: Worker) -> tuple[list[float], Held]:
    """Losses of the steps until the job stands still."""
    losses: list[float] = []
    while not isinstance(report := worker.heard(), Held):
        assert isinstance(report, Applied | Ready)
        if isinstance(report, Applied):
            losses += [record.values[0] for record in report.records]
    return losses, report


def test_job_that_stands_still_goes_on_in_its_next_generation(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    worker.executor.grant(ASSIGNMENT, 6)
    whole, end = trained(worker)
    assert end.applied_step == 6 and len(end.state_sha256) == 32
    worker.executor.prepare(alone(bigram, tmp_path, 2), b"")
    worker.executor.grant(Assignment("job", 2), 2)
    while not isinstance(worker.heard(), Applied):
        pass
    worker.executor.hold(Assignment("job", 2), "a pod was lost")
    _, held = trained(worker)
    assert held.applied_step == 2
    resume = Resume(2, held.state_sha256, frozenset())
    worker.executor.prepare(alone(bigram, tmp_path, 3, resume), b"")
    worker.executor.grant(Assignment("job", 3), 6)
    rest, again = trained(worker)
    assert rest == whole[2:] and again.state_sha256 == end.state_sha256


def test_job_can_be_held_before_it_goes_on(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    worker.executor.grant(ASSIGNMENT, 2)
    while not isinstance(worker.heard(), Applied):
        pass
    worker.executor.hold(ASSIGNMENT, "a pod was lost")
    _, held = trained(worker)
    second = Assignment("job", 2)
    resume = Resume(2, held.state_sha256, frozenset())
    worker.executor.prepare(alone(bigram, tmp_path, 2, resume), b"")
    assert isinstance(worker.heard(), Ready)
    worker.executor.hold(second, "another pod was lost")
    assert worker.heard() == Held(second, 2, held.state_sha256)


def test_state_of_another_step_is_not_gone_on_with(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    worker.executor.grant(ASSIGNMENT, 2)
    while not isinstance(worker.heard(), Applied):
        pass
    worker.executor.hold(ASSIGNMENT, "a pod was lost")
    trained(worker)
    second = Assignment("job", 2)
    resume = Resume(3, b"", frozenset())
    worker.executor.prepare(alone(bigram, tmp_path, 2, resume), b"")
    fault = worker.heard()
    assert isinstance(fault, Faulted) and fault.phase is Phase.HEAL
    assert worker.heard() == Released(second, 3)


def test_job_that_stands_still_is_dropped_when_told_to_stop(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    assert isinstance(worker.heard(), Ready)
    worker.executor.hold(ASSIGNMENT, "a pod was lost")
    held = worker.heard()
    assert isinstance(held, Held) and held.applied_step == 0
    worker.executor.stop(ASSIGNMENT, "the job is cancelled")
    assert worker.heard() == Released(ASSIGNMENT, 0)
    # And again, when it is not there any more.
    worker.executor.stop(ASSIGNMENT, "the job is cancelled")
    worker.executor.prepare(alone(bigram, tmp_path, 2), bigram.data)
    assert isinstance(worker.heard(), Ready)


def test_job_without_a_state_yet_is_let_go_instead_of_held(worker, bigram, tmp_path):
    resume = Resume(2, b"", frozenset({0}))
    members = Member("pod-0", ""), Member("pod-1", "")
    ordered = order(bigram, tmp_path, *members, slots=(range(1), range(1, 2)))
    ordered = dataclasses.replace(ordered, resume=resume)
    worker.executor.prepare(ordered, bigram.data)
    worker.executor.hold(ASSIGNMENT, "the pod that holds the state was lost")
    assert worker.heard() == Released(ASSIGNMENT, 2)


def test_peer_that_is_gone_leaves_the_job_standing_still(worker, bigram, tmp_path):
    members = Member("pod-0", ""), Member("pod-1", "")
    ordered = order(bigram, tmp_path, *members, slots=(range(1), range(1, 2)))
    peer = LoopbackExchange(worker.exchange.link)
    names = {0: "pod-0"}
    peer.join(Membership("job", 1, 1, names, names, 1 << 20))
    worker.executor.prepare(ordered, bigram.data)
    assert isinstance(worker.heard(), Ready)
    worker.executor.grant(ASSIGNMENT, 3)
    peer.close()
    fault, held = worker.heard(), worker.heard()
    assert isinstance(fault, Faulted) and fault.suspect_pod == "pod-1"
    assert isinstance(held, Held) and held.applied_step == 0


def eventually(does: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not does():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_done_is_told_while_it_is_done(worker, bigram, tmp_path):
    def is_at(phase: Phase, step: int) -> bool:
        activity = worker.executor.activity()
        return activity is not None and activity[:3] == (ASSIGNMENT, phase, step)

    assert worker.executor.activity() is None
    members = Member("pod-0", ""), Member("pod-1", "")
    ordered = order(bigram, tmp_path, *members, slots=(range(1), range(1, 2)))
    peer = LoopbackExchange(worker.exchange.link)
    names = {0: "pod-0"}
    peer.join(Membership("job", 1, 1, names, names, 1 << 20))
    before = time.monotonic()
    worker.executor.prepare(ordered, bigram.data)
    assert isinstance(worker.heard(), Ready)
    eventually(lambda: is_at(Phase.REST, 0))
    worker.executor.grant(ASSIGNMENT, 3)
    eventually(lambda: is_at(Phase.EXCHANGE, 1))
    assert before < worker.executor.activity().since <= time.monotonic()
    peer.close()
    worker.heard(), worker.heard()
    assert worker.executor.activity() is None


def test_what_is_due_after_the_step_that_is_gone_on_from_waits_for_leave(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    worker.executor.grant(ASSIGNMENT, 6)
    _, held = trained(worker)
    resume = Resume(6, held.state_sha256, frozenset(), is_save_due=True)
    ordered = alone(bigram, tmp_path, 2, resume)
    ordered = dataclasses.replace(
        ordered, checkpoint_every=100, checkpoint_directory=tmp_path / "checkpoints"
    )
    worker.executor.prepare(ordered, b"")
    assert isinstance(worker.heard(), Ready)
    worker.executor.grant(Assignment("job", 2), 6)
    written = worker.heard()
    assert isinstance(written, CheckpointWritten) and written.step == 6 and not written.error
    assert isinstance(worker.heard(), Held)


def test_job_of_another_takes_the_place_of_one_that_stands_still(worker, bigram, tmp_path):
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    assert isinstance(worker.heard(), Ready)
    worker.executor.hold(ASSIGNMENT, "a pod was lost")
    assert isinstance(worker.heard(), Held)
    other = dataclasses.replace(alone(bigram, tmp_path), assignment=Assignment("other", 1))
    worker.executor.prepare(other, b"")
    assert worker.heard() == Released(ASSIGNMENT, 0)
    assert isinstance(worker.heard(), Ready)


def test_program_compiled_ahead_is_used(worker, bigram, tmp_path):
    assert not worker.executor.has_program(bigram.digest)
    worker.executor.warm(bigram.digest, bigram.data)
    assert worker.heard() == Warmed(bigram.digest)
    assert worker.executor.has_program(bigram.digest)
    worker.executor.prepare(alone(bigram, tmp_path), b"")
    ready = worker.heard()
    assert isinstance(ready, Ready) and ready.compile_seconds < 0.5


def test_program_that_cannot_be_compiled_ahead_harms_nobody(worker, bigram, tmp_path):
    worker.executor.warm(bigram.digest, bigram.data[:-1])
    worker.executor.prepare(alone(bigram, tmp_path), bigram.data)
    assert isinstance(worker.heard(), Ready)
