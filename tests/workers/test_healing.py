"""State that pods which hold it give to pods that lack it: the run ends in the same bits."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping

import pytest

from tests.workers.gangs import FULL, STEPS, Batches, bits, order_of, turn_taking
from workers.exchange.agreement import SoleAgreement
from workers.exchange.base import ExchangeAborted, Membership, PeerUnreachable
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.healing import HealError, check, heal
from workers.orders import Assignment, JobOrder, Resume, StepRecord
from workers.program import Program
from workers.run import Kept
from workers.training import Training


@pytest.fixture(scope="module")
def program(bigram) -> Program:
    return turn_taking(bigram)


class Generation:
    """One generation of a gang, each member with an exchange of its own."""

    def __init__(self, program: Program, number: int, num_pods: int, resume: Resume | None) -> None:
        self._program, self._num_pods, self._resume = program, num_pods, resume
        self.assignment = Assignment("job", number)
        link = LoopbackLink()
        self.exchanges = [LoopbackExchange(link) for _ in range(num_pods)]

    def order(self, index: int) -> JobOrder:
        order = order_of(index, self._num_pods, FULL)
        return dataclasses.replace(order, assignment=self.assignment, resume=self._resume)

    def join(self, index: int) -> None:
        peers = [i for i in range(self._num_pods) if i != index]
        names = {i: f"pod-{i}" for i in peers}
        of = (self.assignment.job, self.assignment.generation)
        self.exchanges[index].join(Membership(*of, index, names, names, 1 << 30))

    def member(self, index: int, kept: Kept | None) -> Training:
        """Joined, and with the state to begin with."""
        order, exchange, agreement = self.order(index), self.exchanges[index], SoleAgreement()
        of = (order, self._program, Batches(order.my_slots), exchange, agreement)
        if self._resume is None:
            return Training(*of)
        restored = heal(order, self._resume, self._program, exchange, agreement, kept)
        training = Training(*of, restored)
        if kept is None:
            check(self._resume, training.state_sha256())
        return training

    def train(
        self, last: Mapping[int, int], kept: Mapping[int, Kept] | None = None
    ) -> tuple[list[list[StepRecord]], dict[int, Kept]]:
        """Every member up to its last step; their records, and what they hold then."""
        for index in range(self._num_pods):
            self.join(index)
        first = self._resume.step + 1 if self._resume else 1

        def run(index: int) -> tuple[list[StepRecord], Kept]:
            training = self.member(index, (kept or {}).get(index))
            steps = [training.step(number) for number in range(first, last[index] + 1)]
            records = [step.settle() for step in steps if step is not None]
            state, digest = training.kept(), training.state_sha256()
            assert state is not None
            training.close()
            return records, Kept(self.assignment, last[index], state, digest)

        with concurrent.futures.ThreadPoolExecutor(self._num_pods) as pool:
            found = list(pool.map(run, range(self._num_pods)))
        return [records for records, _ in found], {i: kept for i, (_, kept) in enumerate(found)}


def undisturbed(program: Program, num_pods: int) -> list[tuple[bytes, float]]:
    records, _ = Generation(program, 1, num_pods, None).train(dict.fromkeys(range(num_pods), STEPS))
    return bits(records[0])


@pytest.mark.parametrize(
    ("num_pods", "lacking"), [(2, {0}), (2, {1}), (3, {1}), (3, {0, 2}), (4, {2}), (2, set())]
)
def test_who_lacks_the_state_gets_it_and_the_run_ends_in_the_same_bits(
    program, num_pods, lacking
) -> None:
    whole = undisturbed(program, num_pods)
    half, kept = Generation(program, 1, num_pods, None).train(dict.fromkeys(range(num_pods), 3))
    assert bits(half[0]) == whole[:3]
    (digest,) = {held.state_sha256 for held in kept.values()}
    resume = Resume(3, digest, frozenset(lacking))
    survivors = {index: held for index, held in kept.items() if index not in lacking}
    rest, _ = Generation(program, 2, num_pods, resume).train(
        dict.fromkeys(range(num_pods), STEPS), survivors
    )
    assert [bits(records) for records in rest] == [whole[3:]] * num_pods


def test_fewer_pods_go_on_in_the_same_bits(program) -> None:
    whole = undisturbed(program, 3)
    _, kept = Generation(program, 1, 3, None).train(dict.fromkeys(range(3), 3))
    resume = Resume(3, kept[0].state_sha256, frozenset())
    rest, _ = Generation(program, 2, 2, resume).train(
        {0: STEPS, 1: STEPS}, {0: kept[0], 1: kept[2]}
    )
    assert [bits(records) for records in rest] == [whole[3:]] * 2


def test_state_can_be_taken_after_a_step_whose_exchange_failed(program) -> None:
    """Nothing of it was replaced: the step is the one that is undone, the state that before it."""
    generation = Generation(program, 1, 2, None)
    for index in (0, 1):
        generation.join(index)
    training = generation.member(0, None)
    before = training.state_sha256()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        step = pool.submit(training.step, 1)
        generation.exchanges[1].close()
        with pytest.raises(PeerUnreachable):
            step.result(timeout=60)
    state = training.kept()
    assert state is not None and training.state_sha256() == before
    training.close()
    resume = Resume(0, before, frozenset())
    alone = Generation(program, 2, 1, resume)
    records, _ = alone.train({0: STEPS}, {0: Kept(Assignment("job", 1), 0, state, before)})
    assert bits(records[0]) == undisturbed(program, 2)


def test_holder_that_holds_nothing_says_so(program) -> None:
    generation = Generation(program, 2, 2, Resume(3, b"", frozenset({1})))
    generation.join(0)
    with pytest.raises(HealError, match="state of step 3 and does not hold it"):
        generation.member(0, None)


def test_other_bits_than_were_said_are_refused(program) -> None:
    _, kept = Generation(program, 1, 2, None).train({0: 2, 1: 2})
    resume = Resume(2, b"\x01" * 32, frozenset({1}))
    generation = Generation(program, 2, 2, resume)
    for index in (0, 1):
        generation.join(index)
    with pytest.raises(HealError, match="has digest"):
        generation.member(0, kept[0])
    damaged = dataclasses.replace(kept[0], state_sha256=resume.state_sha256)
    generation.member(0, damaged).close()
    with pytest.raises(HealError, match="has digest"):
        generation.member(1, None)


def test_wait_for_the_state_ends_when_the_generation_does(program) -> None:
    generation = Generation(program, 2, 2, Resume(3, b"", frozenset({1})))
    generation.join(1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        healed = pool.submit(generation.member, 1, None)
        generation.exchanges[1].abort("job", 2, "another pod was lost")
        with pytest.raises(ExchangeAborted, match="another pod was lost"):
            healed.result(timeout=60)
