"""What encoding lost survives: a gang that goes back to a checkpoint loses what it would have lost
anyway, and no more."""

from __future__ import annotations

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.workers.gangs import LocalGang, Named, arrays_of, bits, restored, turn_taking
from workers.checkpoint import layout
from workers.checkpoint.layout import CheckpointError
from workers.member_state import Takeover, sources
from workers.orders import ExchangeRule
from workers.program import Buffer, Program
from workers.reduction.residuals import OF_SUMS, OF_TOTALS, WholeGradients

INT8 = ExchangeRule(dtype="int8")
SAVED, LAST = 5, 10


@pytest.fixture(scope="module")
def program(bigram) -> Program:
    return turn_taking(bigram)


@pytest.fixture(scope="module")
def checkpoint_of(program, tmp_path_factory):
    """checkpoint_of(num_pods) is a checkpoint of step 5 of an int8 job, what its members had for
    themselves then, and at step 10, and the bits of steps 6 to 10."""
    made = {}

    def make(num_pods: int):
        if num_pods not in made:
            with LocalGang(program, num_pods, INT8) as gang:
                gang.train(1, SAVED)
                before = gang.member_states()
                folder = gang.save(tmp_path_factory.mktemp("checkpoints"), SAVED)
                after = [bits(records) for records in gang.train(SAVED + 1, LAST)]
                made[num_pods] = folder, before, gang.member_states(), after
        return made[num_pods]

    return make


def lost(states: list[Named]) -> dict[str, np.ndarray]:
    """What was lost of every gradient, all members together, in float64."""
    names = {name.split("/", 1)[1] for state in states for name in state}
    return {
        name: sum(
            state[prefix + name].astype(np.float64)
            for state in states
            for prefix in (OF_SUMS, OF_TOTALS)
            if prefix + name in state
        )
        for name in names
    }


@pytest.mark.parametrize(
    "rule", [INT8, ExchangeRule(dtype="int8", stochastic_rounding=True), ExchangeRule("bfloat16")]
)
@pytest.mark.parametrize("num_pods", [2, 3])
def test_a_gang_goes_on_as_if_it_had_never_stopped(program, tmp_path, num_pods, rule) -> None:
    with LocalGang(program, num_pods, rule) as gang:
        gang.train(1, SAVED)
        folder = gang.save(tmp_path, SAVED)
        unbroken = [bits(records) for records in gang.train(SAVED + 1, LAST)]
        kept = gang.member_states()
    with LocalGang(program, num_pods, rule, folder) as gang:
        assert [bits(records) for records in gang.train(SAVED + 1, LAST)] == unbroken
        for mine, was in zip(gang.member_states(), kept, strict=True):
            assert mine.keys() == was.keys()
            for name, array in was.items():
                assert mine[name].tobytes() == array.tobytes(), name
    prefixes = [OF_SUMS, OF_TOTALS] if num_pods > 2 else [OF_SUMS]
    assert all(sorted(was) == [p + n for p in prefixes for n in ("head", "table")] for was in kept)
    assert all(np.any(array) for was in kept for array in was.values())


def test_without_its_losses_a_gang_goes_on_in_other_bits(program, checkpoint_of) -> None:
    folder, _, _, unbroken = checkpoint_of(2)
    copy = folder.parent / "without"
    shutil.copytree(folder, copy)
    forget_member_state(copy)
    with LocalGang(program, 2, INT8, copy) as gang:
        assert [bits(records) for records in gang.train(SAVED + 1, LAST)] != unbroken


@pytest.mark.parametrize(("wrote", "take"), [(2, 3), (2, 4), (3, 2), (3, 4), (4, 3), (4, 2)])
def test_on_another_number_of_pods_as_much_is_lost_as_was(
    program, checkpoint_of, wrote, take
) -> None:
    folder, before, *_ = checkpoint_of(wrote)
    with LocalGang(program, take, INT8, folder) as gang:
        now = gang.member_states()
        gang.train(SAVED + 1, SAVED + 1)
    expected = lost(before)
    for name, found in lost(now).items():
        # Sums of a few float32: half a unit in the last place of each, 6e-8 of the largest.
        largest = max(np.abs(array).max() for state in before for array in state.values())
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=wrote * 2**-24 * largest)
        assert np.abs(expected[name]).max() > 1000 * wrote * 2**-24 * largest


@pytest.mark.parametrize(
    ("num_pods", "rule"), [(1, INT8), (2, ExchangeRule()), (3, ExchangeRule())]
)
@pytest.mark.parametrize("wrote", [2, 3])
def test_where_nothing_is_lost_any_more_the_next_step_has_what_was(
    program, checkpoint_of, wrote, num_pods, rule
) -> None:
    folder, before, *_ = checkpoint_of(wrote)
    copy = folder.parent / f"without-{num_pods}-{rule.dtype}"
    shutil.copytree(folder, copy)
    forget_member_state(copy)
    params: list[Named] = []
    for source in (folder, copy):
        with LocalGang(program, num_pods, rule, source) as gang:
            gang.train(SAVED + 1, SAVED + 1)
            assert gang.member_states() == [{}] * num_pods
            params.append(arrays_of(gang.members[0].named_state()))
    for name, expected in lost(before).items():
        with_losses, without = (named[f"params/{name}"].astype(np.float64) for named in params)
        # The program's update is 0.5 of the mean gradient of the six slots of step 6; both results
        # are rounded to half a unit in the last place of a parameter.
        moved = expected * 0.5 / 6
        rounding = 2**-23 * np.abs(without).max()
        np.testing.assert_allclose(without - with_losses, moved, rtol=0, atol=rounding)
        assert np.abs(moved).max() > 8 * rounding


def forget_member_state(folder: pathlib.Path) -> None:
    """Make it a checkpoint of the first format, which had none; the arrays stay in the parts."""
    path = folder / layout.MANIFEST
    document = json.loads(path.read_text())
    del document["member_arrays"]
    path.write_text(json.dumps({**document, "format": "landbridge.checkpoint/1"}))
    for part in folder.glob("part-*.json"):
        document = json.loads(part.read_text())
        del document["member_sha256"]
        part.write_text(json.dumps(document))


def test_the_first_format_is_read_and_nothing_was_lost(program, checkpoint_of) -> None:
    folder, *_ = checkpoint_of(2)
    copy = folder.parent / "first-format"
    shutil.copytree(folder, copy)
    forget_member_state(copy)
    found = restored(program, copy, 0, 2)
    assert found.own == {}
    for name, array in restored(program, folder, 0, 2).shared.items():
        np.testing.assert_array_equal(array, found.shared[name])


def test_a_member_array_with_other_bits_is_named(program, checkpoint_of) -> None:
    folder, *_ = checkpoint_of(2)
    copy = folder.parent / "damaged"
    shutil.copytree(folder, copy)
    # The part of another step of the same gang: sound files, and not what was written.
    with LocalGang(program, 2, INT8) as gang:
        gang.train(1, 1)
        other = gang.save(copy.parent / "other", 1)
    shutil.rmtree(layout.part_folder(copy, 1))
    shutil.copytree(layout.part_folder(other, 1), layout.part_folder(copy, 1))
    path, foreign = copy / "part-1.json", json.loads((other / "part-1.json").read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": foreign["files"]}))
    restored(program, copy, 0, 2)
    with pytest.raises(CheckpointError, match="part-1 is damaged: residual/head of member 1 has"):
        restored(program, copy, 1, 2)
    with pytest.raises(CheckpointError, match="residual/head of member 1"):
        restored(program, copy, 0, 1)


def test_parts_that_are_not_of_one_kind_are_no_checkpoint(program, checkpoint_of) -> None:
    folder, *_ = checkpoint_of(2)
    copy = folder.parent.parent / "job-2" / folder.name
    shutil.copytree(folder, copy)
    path = copy / "part-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "member_sha256": {}}))
    with pytest.raises(CheckpointError, match="of its own"):
        layout.publish(folder.parent.parent, "job-2", SAVED, 1, 2, "")


def test_every_member_that_wrote_is_taken_by_one(program) -> None:
    for wrote in range(1, 9):
        for take in range(1, 9):
            taken = [sources(Takeover.SUM, index, take, wrote) for index in range(take)]
            assert sorted(source for each in taken for source in each) == list(range(wrote))
            ones = [sources(Takeover.ONE, index, take, wrote) for index in range(take)]
            assert ones == [[index % wrote] for index in range(take)]


def test_whole_gradients_are_the_pieces_of_all_segments_in_order() -> None:
    """As PaLM's: the layers at the top are ready first."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    cut = NamedSharding(mesh, PartitionSpec(None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())
    rows = {"top": 2, "bottom": 1}
    groups = {
        "record": [],
        "metrics": [Buffer("loss", (), np.dtype("float32"), whole)],
        "ends": [Buffer("scale", (), np.dtype("float32"), whole)],
        **{
            name: [
                Buffer("bias", (count,), np.dtype("float32"), whole),
                Buffer("key", (count, 4), np.dtype("float32"), cut),
            ]
            for name, count in rows.items()
        },
    }
    segments = [
        {"groups": ["top"], "accumulate": "add", "first": 1},
        {"groups": ["bottom"], "accumulate": "add", "first": 0},
        {"groups": ["ends", "metrics"], "accumulate": "add", "first": 0},
    ]
    manifest = {"slot": [], "segments": segments, "groups": {"record": [{"fields": []}]}}
    gradients = WholeGradients.of(Program(manifest, {}, groups))
    key = np.arange(12, dtype=np.float32).reshape(3, 4)
    bias = np.arange(3, dtype=np.float32)
    pieces = [
        [jax.device_put(bias[1:], whole), jax.device_put(key[1:], cut)],
        [jax.device_put(bias[:1], whole), jax.device_put(key[:1], cut)],
        [jax.device_put(np.float32(7), whole)],
    ]
    joined = gradients.join(OF_SUMS, pieces)
    assert sorted(joined) == [f"{OF_SUMS}{name}" for name in ("bias", "key", "scale")]
    np.testing.assert_array_equal(joined[f"{OF_SUMS}key"], key)
    np.testing.assert_array_equal(joined[f"{OF_SUMS}bias"], bias)
    assert joined[f"{OF_SUMS}key"].sharding == cut
    assert {name: array.struct.shape for name, array in gradients.member_arrays().items()} == {
        f"{prefix}{name}": shape
        for prefix in (OF_SUMS, OF_TOTALS)
        for name, shape in (("bias", (3,)), ("key", (3, 4)), ("scale", ()))
    }
    again = gradients.split(OF_SUMS, joined)
    assert again is not None
    jax.tree.map(np.testing.assert_array_equal, again, pieces)
    assert gradients.split(OF_TOTALS, joined) is None
