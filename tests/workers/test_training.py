"""Steps of gangs whose members live in one process, joined by the loopback exchange."""

import numpy as np
import pytest

from tests.workers.gangs import ASSIGNMENT, FULL, STEPS, LocalGang, bits, member, turn_taking
from workers.exchange.base import ExchangeAborted
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.orders import ExchangeRule, StepRecord


@pytest.fixture(scope="module")
def program(bigram):
    return turn_taking(bigram)


def run_gang(
    program, num_pods: int, rule: ExchangeRule = FULL, steps: int = STEPS
) -> list[list[StepRecord]]:
    """Every member's records of its steps."""
    with LocalGang(program, num_pods, rule) as gang:
        return gang.train(1, steps)


@pytest.fixture(scope="module")
def alone(program):
    return bits(run_gang(program, 1)[0])


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("num_pods", [2, 3, 4])
def test_gang_of_any_size_makes_the_bits_of_one_pod(program, alone, num_pods, overlap):
    for records in run_gang(program, num_pods, ExchangeRule(overlap=overlap)):
        assert bits(records) == alone


def test_digests_of_successive_steps_differ(alone):
    digests = [digest for digest, _ in alone]
    assert len(set(digests)) == STEPS


def test_aborted_exchange_leaves_the_state_of_the_step_before(program, alone):
    exchange = LoopbackExchange(LoopbackLink())
    lonely = member(program, exchange, 0, 2)
    exchange.abort(ASSIGNMENT.job, ASSIGNMENT.generation, "told to stop")
    before = [np.asarray(array) for array in lonely.state]
    with pytest.raises(ExchangeAborted, match="told to stop"):
        lonely.step(1)
    for old, new in zip(before, lonely.state, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


GRADIENTS = 2 * 257 * 16 * 4
METRICS = 2 * 4


def test_step_of_two_pods_sends_the_gradient_once(program):
    for (record,) in run_gang(program, 2, steps=1):
        assert record.link_bytes == GRADIENTS + METRICS
        assert record.exposed_seconds + record.data_wait_seconds <= record.seconds


def test_step_of_four_pods_sends_no_more_than_an_all_reduce_must(program):
    # Step 4 has six slots: no whole subtrees for four pods, so more than a gradient each.
    for first, *_ in run_gang(program, 4, steps=1):
        least = 2 * (4 - 1) / 4 * (GRADIENTS + METRICS)
        # Parts end between elements: a few bytes each way.
        assert abs(first.link_bytes - least) <= 2 * 4 * 3 * 4


@pytest.mark.parametrize("num_pods", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "stochastic"), [("bfloat16", False), ("int8", False), ("int8", True)]
)
def test_encoded_gradients_leave_all_pods_with_the_same_bits(
    program, alone, num_pods, dtype, stochastic
):
    rule = ExchangeRule(dtype=dtype, stochastic_rounding=stochastic)
    first, *others = run_gang(program, num_pods, rule)
    assert all(bits(other) == bits(first) for other in others)
    assert bits(first) != alone
    exact = [loss for _, loss in alone]
    np.testing.assert_allclose([record.values[0] for record in first], exact, rtol=1e-3)


def test_encoded_gradients_overlap_or_not_in_the_same_bits(program):
    rules = [ExchangeRule(dtype="int8", overlap=overlap) for overlap in (True, False)]
    one, other = (bits(run_gang(program, 2, rule)[0]) for rule in rules)
    assert one == other


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 1.99), ("int8", 3.5)])
def test_encoded_gradients_take_fewer_bytes(program, dtype, least):
    # Rows of this little program are mostly padding; benchmarks/link.py has the real ratio.
    (record,), _ = run_gang(program, 2, ExchangeRule(dtype=dtype), steps=1)
    assert (GRADIENTS + METRICS) / record.link_bytes > least


def test_a_float32_exchange_takes_what_it_must_and_carries_nothing_on(program):
    for num_pods in (2, 4):
        for first, *_ in run_gang(program, num_pods, steps=1):
            least = 2 * (num_pods - 1) / num_pods * (GRADIENTS + METRICS)
            assert first.float32_bytes == pytest.approx(least, abs=1)
            assert first.link_bytes / first.float32_bytes == pytest.approx(1.0, rel=0.01)
            assert first.residual_norm is None


@pytest.mark.parametrize("num_pods", [2, 3])
def test_what_encoding_lost_is_told_as_a_norm(program, num_pods):
    rule = ExchangeRule(dtype="bfloat16")
    for records in run_gang(program, num_pods, rule, steps=2):
        # Half of the last of 8 bits at most: 2^-9 of a number, and the norm of all of them.
        assert all(0.0 < record.residual_norm < 1.0 for record in records)
        assert records[0].residual_norm != records[1].residual_norm
    forgetful = ExchangeRule(dtype="bfloat16", error_feedback=False)
    (record,), *_ = run_gang(program, num_pods, forgetful, steps=1)
    assert record.residual_norm is None


@pytest.mark.parametrize("num_pods", [3, 4])
def test_sums_that_need_not_be_reproducible_agree_within_the_gang(program, alone, num_pods):
    rule = ExchangeRule(reproducible=False)
    first, *others = run_gang(program, num_pods, rule)
    assert all(bits(other) == bits(first) for other in others)
    losses = [loss for _, loss in alone]
    np.testing.assert_allclose([record.values[0] for record in first], losses, rtol=1e-5)
    # Step 4 has six slots, which are no whole subtrees; one sum is sent all the same.
    assert first[3].link_bytes == first[0].link_bytes
