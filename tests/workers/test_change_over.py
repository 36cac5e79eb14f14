"""A gang that changes the way it exchanges while it trains: all members at the same step, and with
what was lost before."""

from __future__ import annotations

import numpy as np
import pytest

from model.outer_config import OuterConfig
from tests.workers.conftest import bigram_program, bundle_of, with_outer
from tests.workers.gangs import FULL, LocalGang, bits, order_of, turn_taking
from workers.checkpoint import layout
from workers.checkpoint.saver import Saver
from workers.orders import CheckpointWritten, ExchangeRule
from workers.program import Program

INT8 = ExchangeRule(dtype="int8")
BFLOAT16 = ExchangeRule(dtype="bfloat16")
STOCHASTIC = ExchangeRule(dtype="int8", stochastic_rounding=True)
LAST = 9
CHANGES = {4: INT8, 7: FULL}
"""By the first step that they are for."""


@pytest.fixture(scope="module")
def program(bigram) -> Program:
    return turn_taking(bigram)


def run(program: Program, num_pods: int, **how) -> list[tuple[bytes, float]]:
    """Digest and loss of steps 1 to 9, which all members have alike."""
    with LocalGang(program, num_pods, FULL) as gang:
        first, *others = gang.train(1, LAST, **how)
    assert all(bits(other) == bits(first) for other in others)
    return bits(first)


@pytest.fixture(scope="module")
def plain(program) -> dict[int, list[tuple[bytes, float]]]:
    """In float32 all along, by the number of pods."""
    return {num_pods: run(program, num_pods) for num_pods in (2, 3)}


@pytest.mark.parametrize("num_pods", [2, 3])
def test_all_members_hold_the_same_bits_after_every_step_of_every_way(program, plain, num_pods):
    changed = run(program, num_pods, changes=CHANGES)
    # In float32 before the first change, to the bit; then another course, close by.
    assert changed[:3] == plain[num_pods][:3]
    assert all(a != b for a, b in zip(changed[3:], plain[num_pods][3:], strict=True))
    losses = [[loss for _, loss in course] for course in (changed, plain[num_pods])]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert run(program, num_pods, changes={5: INT8, 7: FULL})[:4] == plain[num_pods][:4]


@pytest.mark.parametrize("num_pods", [2, 3])
@pytest.mark.parametrize("late", [0, 1])
def test_whoever_is_last_to_change_over_makes_the_same_bits(program, num_pods, late):
    """One begins a step in the new way only when it has what a peer sent in that way already."""
    assert run(program, num_pods, changes=CHANGES, late=late) == run(
        program, num_pods, changes=CHANGES
    )


@pytest.mark.parametrize("num_pods", [2, 3])
@pytest.mark.parametrize(
    ("before", "after"), [(INT8, FULL), (INT8, BFLOAT16), (BFLOAT16, STOCHASTIC), (FULL, INT8)]
)
def test_a_change_is_what_going_on_from_a_checkpoint_in_another_way_is(
    program, tmp_path, num_pods, before, after
):
    """So it keeps what was lost, and delivers it where nothing is kept any more, as that does."""
    with LocalGang(program, num_pods, before) as gang:
        gang.train(1, 3)
        folder = gang.save(tmp_path, 3)
        changed = [bits(records) for records in gang.train(4, LAST, changes={4: after})]
        kept = gang.member_states()
    with LocalGang(program, num_pods, after, folder) as gang:
        assert [bits(records) for records in gang.train(4, LAST)] == changed
        again = gang.member_states()
    for mine, others in zip(kept, again, strict=True):
        assert {n: a.tobytes() for n, a in mine.items()} == {
            n: a.tobytes() for n, a in others.items()
        }
        assert bool(mine) == (after is not FULL)


def test_a_change_before_everything_is_delivered_keeps_the_rest(program):
    with LocalGang(program, 2, INT8) as gang:
        gang.train(1, 3)
        lost = gang.member_states()
        for rule in (FULL, BFLOAT16, FULL, INT8):
            for training in gang.members:
                training.use(rule)
        now = gang.member_states()
    assert any(np.any(array) for array in lost[0].values())
    for mine, was in zip(now, lost, strict=True):
        for name, array in was.items():
            np.testing.assert_array_equal(mine[name], array)


@pytest.mark.parametrize("num_pods", [2, 3])
def test_checkpoints_of_one_saver_have_what_there_is_when_they_are_made(
    program, tmp_path, num_pods
):
    changes, saved = {3: INT8, 5: FULL, 7: INT8}, (2, 4, 6, 8)
    with LocalGang(program, num_pods, FULL) as gang:
        reports: list[CheckpointWritten] = []
        savers = [
            Saver(
                order_of(index, num_pods, FULL, tmp_path),
                program,
                reports.append,
                training.member_state(),
            )
            for index, training in enumerate(gang.members)
        ]
        for step in saved:
            gang.train(step - 1, step, changes)
            for saver, training in zip(savers, gang.members, strict=True):
                saver.save(step, training)
        for saver in savers:
            saver.close(wait=True)
        unbroken = [bits(records) for records in gang.train(LAST, LAST)]
    assert [report.error for report in reports] == [""] * num_pods * len(saved)
    names = []
    for step in saved:
        digests = {r.state_sha256.hex() for r in reports if r.step == step}
        manifest = layout.publish(tmp_path, "job", step, 1, num_pods, *digests)
        names.append(len(manifest.member_arrays))
    each = 2 if num_pods == 2 else 4
    assert names == [0, each, 0, each]
    folder = layout.step_folder(tmp_path, "job", saved[-1], 1)
    with LocalGang(program, num_pods, INT8, folder) as gang:
        assert [bits(records) for records in gang.train(LAST, LAST)] == unbroken


def test_pods_that_synchronise_every_so_often_do_not_change_over():
    bundle = bundle_of(with_outer(bigram_program((2, 2)), OuterConfig(every=4)))
    refused = pytest.raises(ValueError, match="every so often cannot change over")
    with LocalGang(turn_taking(bundle), 2, FULL) as gang, refused:
        gang.members[0].use(INT8)
