"""Gangs that synchronise every so often, whose members live in one process."""

import concurrent.futures
import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from controller.core.program import slot_ranges
from model.outer_config import OuterConfig
from tests.workers.conftest import bigram_program, bundle_of, with_outer
from tests.workers.gangs import Batches, turn_taking
from workers.exchange.agreement import SoleAgreement
from workers.exchange.base import ExchangeAborted, Membership
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.member_state import Restored
from workers.orders import (
    Assignment,
    BatchPhase,
    CheckpointPlace,
    ExchangeRule,
    JobOrder,
    Member,
)
from workers.training import Training

NUM_SLOTS = 4
STEPS = 10
ASSIGNMENT = Assignment("job", 1)
FLOAT32 = ExchangeRule(reproducible=False)
STREAMING = OuterConfig(every=4, fragments=2, delay=2, learning_rate=0.4, mixing=0.5)


@pytest.fixture(scope="module")
def full():
    return turn_taking(bundle_of(bigram_program((2, 2))))


@pytest.fixture(scope="module")
def streaming():
    return turn_taking(bundle_of(with_outer(bigram_program((2, 2)), STREAMING)))


GANGS = []


@pytest.fixture(autouse=True)
def _nobody_waits_when_a_test_is_over():
    yield
    while GANGS:
        for exchange in GANGS.pop().exchanges:
            exchange.abort(ASSIGNMENT.job, 1, "the test is over")


@dataclasses.dataclass
class Gang:
    """Members on a link of their own."""

    members: list[Training]
    exchanges: list[LoopbackExchange]

    @classmethod
    def of(
        cls, program, num_pods, rule=FLOAT32, steps=STEPS, num_slots=NUM_SLOTS, after=0, states=()
    ):
        """With `states`, one for each member, from the step `after` on."""
        link = LoopbackLink()
        exchanges = [LoopbackExchange(link) for _ in range(num_pods)]
        slots = tuple(range(*cut) for cut in slot_ranges(num_slots, num_pods))
        members = tuple(Member(f"pod-{index}", "") for index in range(num_pods))
        phases = (BatchPhase(1, num_slots, slots),)
        trainings = []
        for index, exchange in enumerate(exchanges):
            assigned = (ASSIGNMENT, "sha256:0", members, index, phases, 0, {}, 1)
            place = CheckpointPlace("job", pathlib.Path(), after, 0) if states else None
            order = JobOrder(*assigned, target_steps=steps, exchange=rule, restore=place)
            peers = {i: f"pod-{i}" for i in range(num_pods) if i != index}
            exchange.join(Membership(ASSIGNMENT.job, 1, index, peers, peers, 1 << 30))
            batches = Batches(order.my_slots)
            state = states[index] if states else None
            trainings.append(Training(order, program, batches, exchange, SoleAgreement(), state))
        GANGS.append(cls(trainings, exchanges))
        return GANGS[-1]

    def train(self, begin=1):
        """Every member's records of the steps from `begin` on."""
        with concurrent.futures.ThreadPoolExecutor(len(self.members)) as pool:
            return list(pool.map(lambda member: self._train(member, begin), self.members))

    def _train(self, member, begin):
        try:
            steps = range(begin, member.target_steps + 1)
            return [member.step(step).settle() for step in steps]
        except BaseException as error:
            for exchange in self.exchanges:
                exchange.abort(ASSIGNMENT.job, 1, f"a member failed: {error!r}")
            raise
        finally:
            member.close()

    def params(self):
        """Of every member, by name."""
        return [
            {
                f"params/{n}": np.asarray(a)
                for n, a in zip(("table", "head"), member.state, strict=False)
            }
            for member in self.members
        ]

    def state(self):
        """What a checkpoint would have, of every member."""
        return [
            Restored(copied(member.named_state()), copied(member.member_state()))
            for member in self.members
        ]


def copied(arrays):
    """Of memory that nobody shares."""
    return {
        name: jax.device_put(np.array(array, copy=True), array.sharding)
        for name, array in arrays.items()
    }


def digests(records):
    return [record.state_sha256 for record in records]


def assert_same_params(gang):
    first, *others = gang.params()
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("num_pods", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_all_pods_hold_the_same_anchor_always_and_the_same_model_at_the_end(
    streaming, num_pods, dtype
):
    gang = Gang.of(streaming, num_pods, ExchangeRule(dtype=dtype, reproducible=False))
    first, *others = gang.train()
    for other in others:
        assert digests(other) == digests(first)
        assert [r.values for r in other] != [r.values for r in first]
    # Sent after 2, 4, 6 and 8, applied two steps later; everything after 10.
    changes = [i + 1 for i in range(1, STEPS) if digests(first)[i] != digests(first)[i - 1]]
    assert changes == [4, 6, 8, 10]
    assert_same_params(gang)


def test_pods_differ_before_the_last_step(streaming):
    gang = Gang.of(streaming, 2, steps=STEPS)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda member: [member.step(s) for s in range(1, STEPS)], gang.members))
    first, second = gang.params()
    assert not np.array_equal(first["params/table"], second["params/table"])
    gang.train(begin=STEPS)
    assert_same_params(gang)


@pytest.mark.parametrize(("num_pods", "num_slots"), [(2, 4), (3, 4), (2, 3)])
def test_mean_of_plain_steps_is_the_step_of_the_mean(full, num_pods, num_slots):
    """With an outer step of 1 after every step of SGD, DiLoCo is data parallelism: pods count for
    as many slots as they have."""
    config = OuterConfig(every=1, learning_rate=1.0, momentum=0.0)
    diloco = Gang.of(
        turn_taking(bundle_of(with_outer(bigram_program((2, 2)), config))),
        num_pods,
        num_slots=num_slots,
    )
    reference = Gang.of(full, 1, num_slots=num_slots)
    records, (wanted,) = diloco.train(), reference.train()
    for name, array in reference.params()[0].items():
        np.testing.assert_allclose(diloco.params()[0][name], array, rtol=1e-5, atol=1e-6)
    shares = [(end - first) / num_slots for first, end in slot_ranges(num_slots, num_pods)]
    for of_pods, record in zip(zip(*records, strict=True), wanted, strict=True):
        mean = sum(w * r.values[0] for w, r in zip(shares, of_pods, strict=True))
        assert mean == pytest.approx(record.values[0], rel=1e-5)


def test_momentum_is_carried_from_one_exchange_to_the_next(full):
    """Two pods with the same slots are one pod: DiLoCo by hand, on the steps of SGD alone."""
    config = OuterConfig(every=2, learning_rate=0.7, momentum=0.9)
    gang = Gang.of(turn_taking(bundle_of(with_outer(bigram_program((2, 2)), config))), 1, steps=6)
    (member,) = gang.members
    names = list(gang.params()[0])
    anchor = gang.params()[0]
    momentum = {name: np.zeros_like(anchor[name]) for name in names}
    for step in range(1, 6):
        local = Gang.of(full, 1, steps=6).members[0]
        local._params = [jax.numpy.array(array) for array in member._params]
        local.step(step)
        member.step(step)
        want = dict(zip(names, map(np.asarray, local.state), strict=False))
        if step % 2 == 0:
            for name in names:
                gradient = anchor[name] - want[name]
                momentum[name] = 0.9 * momentum[name] + gradient
                anchor[name] = anchor[name] - 0.7 * (gradient + 0.9 * momentum[name])
            want = anchor
        for name in names:
            np.testing.assert_allclose(gang.params()[0][name], want[name], rtol=1e-4, atol=1e-6)
        local.close()
    member.close()


def test_a_fragment_travels_while_steps_go_on_and_timing_changes_no_bit(streaming):
    together = Gang.of(streaming, 2).train()
    gang = Gang.of(streaming, 2)
    ahead, behind = gang.members
    # Sent after step 2 and applied after step 4: up to there nobody waits for a peer.
    early = [ahead.step(step).settle() for step in (1, 2, 3)]
    assert [record.link_bytes > 0 for record in early] == [False, True, False]
    assert all(record.exposed_seconds == 0 for record in early)
    late = [behind.step(step).settle() for step in (1, 2, 3)]
    rest = gang.train(begin=4)
    for records, first, others in zip(together, (early, late), rest, strict=True):
        assert digests(records) == digests([*first, *others])
        assert [r.values for r in records] == [r.values for r in [*first, *others]]


def test_only_steps_that_send_cost_bytes_and_only_those_that_apply_wait(streaming):
    gang = Gang.of(streaming, 2)
    records, _ = gang.train()
    # Fragment 0 has 129 rows of the table, fragment 1 the other 128 and the head.
    rows, head = 16 * 4, 16 * 257 * 4
    fragments = {0: 129 * rows, 1: 128 * rows + head}
    sent = {2: fragments[1], 4: fragments[0], 6: fragments[1], 8: fragments[0]}
    everything = sum(fragments.values())
    assert [r.link_bytes for r in records] == [
        sent.get(step, 0) + (everything if step == STEPS else 0) for step in range(1, STEPS + 1)
    ]
    assert [r.step for r in records if r.exchange_seconds > 0] == [4, 6, 8, 10]
    assert sum(r.link_bytes for r in records) == (gang.exchanges[0].traffic()["pod-1"].sent_bytes)


def test_int4_sends_an_eighth_and_ends_near(streaming):
    exact, coarse = (
        Gang.of(streaming, 2, ExchangeRule(dtype=dtype, reproducible=False))
        for dtype in ("float32", "int4")
    )
    (wide, _), (narrow, _) = exact.train(), coarse.train()
    # 7.76 but for padding, of which rows of this little program have much.
    assert sum(r.link_bytes for r in wide) / sum(r.link_bytes for r in narrow) > 6.5
    losses = [np.mean([r.values[0] for r in records[-3:]]) for records in (wide, narrow)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_pod_alone_takes_outer_steps_and_sends_nothing(streaming):
    gang = Gang.of(streaming, 1)
    (records,) = gang.train()
    assert len(set(digests(records))) == 5
    assert all(record.link_bytes == record.exposed_seconds == 0 for record in records)


def test_an_abort_ends_the_wait_for_a_fragment(streaming):
    gang = Gang.of(streaming, 2)
    lonely = gang.members[0]
    for step in (1, 2, 3):
        lonely.step(step)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lonely.step, 4)
        gang.exchanges[0].abort(ASSIGNMENT.job, 1, "told to stop")
        with pytest.raises(ExchangeAborted, match="told to stop"):
            waiting.result(timeout=60)
    for member in gang.members:
        member.close()


@pytest.mark.parametrize(
    ("after", "rule"),
    [
        *((3, FLOAT32), (5, FLOAT32), (8, FLOAT32)),
        *((5, ExchangeRule("int4", True, False)), (5, ExchangeRule("int8"))),
    ],
)
def test_what_goes_on_from_a_checkpoint_has_the_bits_of_what_never_stopped(streaming, after, rule):
    """After 3 and 5 a fragment is under way, sent after 2 and 4; after 8 one was sent just now."""
    undisturbed = Gang.of(streaming, 2, rule).train()
    stopped = Gang.of(streaming, 2, rule)

    def train(member):
        return [member.step(step).settle() for step in range(1, after + 1)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        before = list(pool.map(train, stopped.members))
    states = stopped.state()
    for member in stopped.members:
        member.close()
    again = Gang.of(streaming, 2, rule, after=after, states=states)
    for member, state in zip(again.members, states, strict=True):
        assert member.state_sha256() == before[0][-1].state_sha256
        assert state.own.keys() == states[0].own.keys()
    for whole, first, rest in zip(undisturbed, before, again.train(after + 1), strict=True):
        assert digests(whole) == digests([*first, *rest])
        assert [r.values for r in whole] == [r.values for r in [*first, *rest]]
    # What was under way is sent again, and counted.
    ours = [r.link_bytes for r in undisturbed[0]]
    resent = sum(r.link_bytes for r in rest) - sum(ours[after:])
    assert resent == [n for n in ours[:after] if n][-1]


def test_more_pods_go_on_from_what_fewer_have_sent(streaming):
    gang = Gang.of(streaming, 2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda member: [member.step(step) for step in (1, 2, 3)], gang.members))
    written = gang.state()
    gang.train(begin=4)
    names = [name for name in written[0].own if name.startswith("sent/")]
    assert names
    nothing = {name: array for name, array in written[0].own.items() if name not in names}
    states = [*written, Restored(written[0].shared, nothing)]
    states = [Restored(copied(state.shared), copied(state.own)) for state in states]
    three = Gang.of(streaming, 3, after=3, states=states)
    records = three.train(begin=4)
    # The anchor after step 4 is made of what the two have sent, and of nothing else.
    two = Gang.of(streaming, 2).train()
    assert {r[0].state_sha256 for r in records} == {two[0][3].state_sha256}
    assert_same_params(three)
