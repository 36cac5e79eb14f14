"""Parts written by several members come back as one state, on another mesh, or not at all."""

from __future__ import annotations

import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from workers.checkpoint import layout
from workers.checkpoint.layout import CheckpointError
from workers.checkpoint.reader import restore
from workers.checkpoint.share import shares
from workers.checkpoint.writer import PartWriter

State = dict[str, jax.Array]


def sharding(shape: tuple[int, int], *axes: str | None) -> NamedSharding:
    devices = np.array(jax.devices()[:2]).reshape(shape)
    mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(*axes))


def some_state() -> State:
    values = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)
    return {
        "params/layers/key": jax.device_put(values, sharding((2, 1), "data", None)),
        "optimizer/momentum/layers/key": jax.device_put(2 * values, sharding((2, 1), "data", None)),
        "optimizer/steps": jax.device_put(np.int32(7), sharding((2, 1))),
    }


def wanted(state: State) -> dict[str, jax.ShapeDtypeStruct]:
    """The same arrays, the other way round on the devices."""
    return {
        name: jax.ShapeDtypeStruct(
            array.shape,
            array.dtype,
            sharding=sharding((1, 2), *((None, "model") if array.ndim else ())),
        )
        for name, array in state.items()
    }


def save(root: pathlib.Path, state: State, members: int, step: int = 50) -> pathlib.Path:
    folder = layout.step_folder(root, "job-1", step, 2)
    parts = shares({name: array.nbytes for name, array in state.items()}, members)
    for index, names in enumerate(parts):
        writer = PartWriter("test")
        writer.write(folder, index, {name: state[name] for name in names})
        writer.close()
    layout.publish(root, "job-1", step, 2, members, "ab" * 32)
    return folder


@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_state_comes_back_on_another_mesh(tmp_path: pathlib.Path, members: int) -> None:
    state = some_state()
    manifest, found = restore(save(tmp_path, state, members), wanted(state))
    assert (manifest.step, manifest.generation) == (50, 2)
    assert manifest.num_bytes == sum(array.nbytes for array in state.values())
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].sharding == wanted(state)[name].sharding


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
    folder = save(tmp_path, some_state(), 2)
    (folder / layout.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        restore(folder, wanted(some_state()))


def test_a_manifest_of_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    folder = save(tmp_path, some_state(), 1)
    (folder / layout.MANIFEST).write_text('{"format": "other/9"}')
    with pytest.raises(CheckpointError, match="other/9"):
        restore(folder, wanted(some_state()))
    (folder / layout.MANIFEST).write_text('{"form')
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(folder, wanted(some_state()))


def test_another_program_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    state = some_state()
    folder = save(tmp_path, state, 1)
    more = {**wanted(state), "params/extra": wanted(state)["optimizer/steps"]}
    with pytest.raises(CheckpointError, match="params/extra"):
        restore(folder, more)


@pytest.mark.parametrize("remains", [0.5, 0.0])
def test_a_truncated_or_missing_file_is_named(tmp_path: pathlib.Path, remains: float) -> None:
    state = some_state()
    folder = save(tmp_path, state, 2)
    files = [path for path in folder.rglob("d/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    if remains:
        largest.write_bytes(data[: int(remains * len(data))])
    else:
        largest.unlink()
    with pytest.raises(CheckpointError, match=rf"damaged: .*{largest.name} .* of {len(data)}"):
        restore(folder, wanted(state))
    (folder / "part-0.json").unlink()
    with pytest.raises(CheckpointError, match=r"part-0\.json cannot be read"):
        restore(folder, wanted(state))


def test_a_part_that_fails_leaves_nothing_and_the_next_is_written(tmp_path: pathlib.Path) -> None:
    writer = PartWriter("test")
    folder = tmp_path / "step"
    folder.mkdir()
    # In the way of the description, which is the last that is written.
    (folder / "part-0.json.writing").mkdir()
    with pytest.raises(IsADirectoryError):
        writer.write(folder, 0, some_state())
    assert list(folder.iterdir()) == []
    writer.write(folder, 0, some_state())
    layout.check_part(folder, 0)


def test_a_removed_checkpoint_is_gone(tmp_path: pathlib.Path) -> None:
    folder = save(tmp_path, some_state(), 1)
    layout.remove(folder)
    assert not folder.exists()


def test_what_was_never_finished_goes_when_a_later_one_is_published(tmp_path: pathlib.Path) -> None:
    state = some_state()
    finished = save(tmp_path, state, members=1, step=10)
    unfinished = [
        layout.step_folder(tmp_path, "job-1", step, generation)
        for step, generation in ((20, 2), (900, 1), (70, 2), (5, 3))
    ]
    for folder in unfinished:
        layout.part_folder(folder, 0).mkdir(parents=True)
    other = tmp_path / "job-1" / "notes"
    other.mkdir()
    published = save(tmp_path, state, members=1, step=50)
    left = set((tmp_path / "job-1").iterdir())
    assert left == {finished, published, other, *unfinished[2:]}


def test_shares_hold_everything_once_and_are_even() -> None:
    draw = random.Random(3)
    for _ in range(200):
        sizes = {f"array-{i}": draw.randrange(1, 1000) for i in range(draw.randrange(0, 30))}
        members = draw.randrange(1, 6)
        parts = shares(sizes, members)
        assert sorted(name for part in parts for name in part) == sorted(sizes)
        loads = [sum(sizes[name] for name in part) for part in parts]
        bound = max(sum(sizes.values()) / members, max(sizes.values(), default=0))
        assert max(loads) <= 4 / 3 * bound + max(sizes.values(), default=0) / 3
    assert shares({"a": 1}, 2) == [["a"], []]


def test_an_empty_share_is_written_and_read(tmp_path: pathlib.Path) -> None:
    state = {"a": jax.device_put(jnp.ones(3), sharding((2, 1)))}
    folder = save(tmp_path, state, 2)
    placed = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding((2, 1)))}
    np.testing.assert_array_equal(restore(folder, placed)[1]["a"], np.ones(3))


def test_a_part_that_only_its_writer_sees_is_told_apart(tmp_path: pathlib.Path) -> None:
    folder = save(tmp_path, some_state(), 2)
    (folder / "part-1.json").unlink()
    with pytest.raises(CheckpointError, match="storage that all pods share"):
        layout.publish(tmp_path, "job-1", 50, 2, 2, "")
