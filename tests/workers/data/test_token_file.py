"""A file of tokens is whole and right, or it is not believed."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workers.data import token_file
from workers.data.token_file import Damaged, id_dtype


def documents(*lengths: int) -> list[np.ndarray]:
    return [np.arange(length) for length in lengths]


@pytest.mark.parametrize(
    ("vocab_size", "bits"), [(257, 16), (65_535, 16), (65_536, 16), (65_537, 32), (256_000, 32)]
)
def test_ids_take_as_few_bytes_as_the_vocabulary_needs(vocab_size: int, bits: int) -> None:
    dtype = id_dtype(vocab_size)
    assert dtype.itemsize * 8 == bits
    assert np.iinfo(dtype).max >= vocab_size - 1


@pytest.mark.parametrize("vocab_size", [257, 256_000])
def test_what_is_written_is_read(tmp_path: Path, vocab_size: int) -> None:
    path, dtype = tmp_path / "new" / "x.tokens", id_dtype(vocab_size)
    written = token_file.write(path, dtype, documents(3, 1, 5), vocab_size - 1)
    read = token_file.read(path, dtype)
    end = vocab_size - 1
    assert read.tokens.tolist() == [0, 1, 2, end, 0, end, 0, 1, 2, 3, 4, end]
    assert (written.num_documents, written.sha256) == (read.num_documents, read.sha256)
    assert read.num_documents == 3
    assert np.array_equal(written.tokens, read.tokens)
    assert [item.name for item in path.parent.iterdir()] == ["x.tokens"]


def test_tokens_are_read_only_and_survive_their_file(tmp_path: Path) -> None:
    path, dtype = tmp_path / "x.tokens", id_dtype(257)
    tokens = token_file.write(path, dtype, documents(1000), 256).tokens
    path.unlink()
    assert tokens[999] == 999
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_damage_anywhere_is_found(tmp_path: Path) -> None:
    path, dtype = tmp_path / "x.tokens", id_dtype(257)
    token_file.write(path, dtype, documents(50, 20), 256)
    whole = path.read_bytes()
    for length in (0, 10, 64, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="bytes"):
            token_file.read(path, dtype)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged, match="bytes instead of"):
        token_file.read(path, dtype)
    for place in (0, 8, 24, 40, 64, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            token_file.read(path, dtype)


def test_other_width_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.tokens"
    token_file.write(path, id_dtype(257), documents(50), 256)
    with pytest.raises(Damaged, match="format"):
        token_file.read(path, id_dtype(100_000))


def test_error_while_writing_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    path, dtype = tmp_path / "x.tokens", id_dtype(257)
    token_file.write(path, dtype, documents(5), 256)

    def failing() -> Iterator[np.ndarray]:
        yield np.arange(3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        token_file.write(path, dtype, failing(), 256)
    assert list(tmp_path.iterdir()) == [path]
    assert token_file.read(path, dtype).num_documents == 1


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left, growing = tmp_path / "left.part", tmp_path / "growing.part"
    for path in (left, growing):
        path.write_bytes(b"x")
    os.utime(left, (0, 0))
    token_file.write(tmp_path / "x.tokens", id_dtype(257), documents(5), 256)
    assert not left.exists()
    assert growing.exists()


def test_absent_file_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        token_file.read(tmp_path / "x.tokens", id_dtype(257))
