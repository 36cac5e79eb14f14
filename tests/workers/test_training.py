"""Steps of gangs whose members live in one process, joined by the loopback exchange."""

import concurrent.futures
import threading
from collections.abc import Callable

import numpy as np
import pytest

from controller.core.program import slot_ranges
from workers.exchange.agreement import SoleAgreement
from workers.exchange.base import ExchangeAborted, Membership
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.orders import Assignment, BatchPhase, JobOrder, Member
from workers.program import load, read_bundle
from workers.training import Training

NUM_SLOTS = {1: 4, 4: 6}
"""Of the steps from one on."""
STEPS = 6
ASSIGNMENT = Assignment("job", 1)


class Batches:
    """A pure function of (step, slot)."""

    def __init__(self, slots: Callable[[int], range]) -> None:
        self._slots = slots

    def get(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._slot(step, slot) for slot in self._slots(step)]

    def close(self) -> None: ...

    def _slot(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng([step, slot]).integers(0, 257, (4, 9), dtype=np.int32)
        return tokens[:, :-1], tokens[:, 1:]


class TurnTaking:
    """Lets one member use the devices at a time: XLA's CPU collectives deadlock otherwise."""

    def __init__(self, inner: LoopbackExchange, devices: threading.Lock) -> None:
        self._inner = inner
        self._devices = devices

    def swap(self, key, outgoing, incoming_bytes):
        self._devices.release()
        try:
            return self._inner.swap(key, outgoing, incoming_bytes)
        finally:
            self._devices.acquire()

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture(scope="module")
def program(bigram):
    return load(*read_bundle(bigram.data, bigram.digest))


def order_of(index: int, num_pods: int) -> JobOrder:
    members = tuple(Member(f"pod-{i}", "") for i in range(num_pods))
    phases = tuple(
        BatchPhase(first_step, slots, tuple(range(*cut) for cut in slot_ranges(slots, num_pods)))
        for first_step, slots in NUM_SLOTS.items()
    )
    return JobOrder(ASSIGNMENT, "sha256:0", members, index, phases, 0, {}, 1, target_steps=STEPS)


def member(program, exchange, index: int, num_pods: int, devices: threading.Lock) -> Training:
    order = order_of(index, num_pods)
    peers = [i for i in range(num_pods) if i != index]
    names = {i: f"pod-{i}" for i in peers}
    exchange.join(Membership(ASSIGNMENT.job, ASSIGNMENT.generation, index, names, names, 1 << 30))
    batches = Batches(order.my_slots)
    return Training(order, program, batches, TurnTaking(exchange, devices), SoleAgreement())


def run_gang(program, num_pods: int) -> list[list[tuple[bytes, float]]]:
    """Every member's (digest, loss) after every step."""
    link, devices = LoopbackLink(), threading.Lock()
    with devices:
        gang = [
            member(program, LoopbackExchange(link), index, num_pods, devices)
            for index in range(num_pods)
        ]

    def train(training: Training) -> list[tuple[bytes, float]]:
        with devices:
            records = [training.step(step).settle() for step in range(1, STEPS + 1)]
            return [(record.state_sha256, record.values[0]) for record in records]

    with concurrent.futures.ThreadPoolExecutor(num_pods) as pool:
        return list(pool.map(train, gang))


@pytest.fixture(scope="module")
def alone(program):
    return run_gang(program, 1)[0]


@pytest.mark.parametrize("num_pods", [2, 3, 4])
def test_gang_of_any_size_makes_the_bits_of_one_pod(program, alone, num_pods):
    for history in run_gang(program, num_pods):
        assert history == alone


def test_digests_of_successive_steps_differ(alone):
    digests = [digest for digest, _ in alone]
    assert len(set(digests)) == STEPS


def test_aborted_exchange_leaves_the_state_of_the_step_before(program, alone):
    link, devices = LoopbackLink(), threading.Lock()
    with devices:
        exchange = LoopbackExchange(link)
        lonely = member(program, exchange, 0, 2, devices)
        exchange.abort(ASSIGNMENT.job, ASSIGNMENT.generation, "told to stop")
        before = [np.asarray(array) for array in lonely.state]
        with pytest.raises(ExchangeAborted, match="told to stop"):
            lonely.step(1)
        for old, new in zip(before, lonely.state, strict=True):
            np.testing.assert_array_equal(old, np.asarray(new))


def test_step_accounts_for_what_it_sent(program):
    link, devices = LoopbackLink(), threading.Lock()
    with devices:
        gang = [member(program, LoopbackExchange(link), index, 2, devices) for index in range(2)]

    def first_step(training: Training):
        with devices:
            return training.step(1).settle()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        records = list(pool.map(first_step, gang))
    gradients = 2 * 257 * 16 * 4
    metrics = 2 * 4
    for record in records:
        assert record.link_bytes == gradients + metrics
        assert record.exposed_seconds + record.data_wait_seconds <= record.seconds
