"""Tokens are made once, found again by what they depend on, and made again when damaged."""

import itertools
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.data.errors import DataError
from workers.data.files import SourceFile
from workers.data.sources import Source, source_of
from workers.data.tokenizer import ByteTokenizer
from workers.data.tokenizing import cache_key, encoded, tokens_of


class CountingTokenizer(ByteTokenizer):
    """Says how many documents it has encoded."""

    def __init__(self, identity: str = "counting", is_parallel: bool = False) -> None:
        self.identity = identity
        self.is_parallel = is_parallel
        self.changed = threading.Lock()
        self.num_encoded = 0

    def encode(self, document: bytes) -> np.ndarray:
        with self.changed:
            self.num_encoded += 1
        return super().encode(document)


def source(*paths: Any, kind: str = "text") -> Source:
    return source_of({"name": "corpus", "kind": kind, "paths": [str(path) for path in paths]})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text" / "a.txt"
    path.parent.mkdir()
    path.write_text("some text")
    return path


def test_tokens_are_made_once(tmp_path: Path, text: Path) -> None:
    tokenizer = CountingTokenizer()
    first, second = (tokens_of(source(text), tokenizer, tmp_path / "cache") for _ in range(2))
    assert tokenizer.num_encoded == 1
    assert first.tokens.tolist() == second.tokens.tolist() == [*b"some text", 256]
    assert first.sha256 == second.sha256


def test_tokens_are_found_by_content_wherever_the_file_is(tmp_path: Path, text: Path) -> None:
    tokenizer = CountingTokenizer()
    tokens_of(source(text), tokenizer, tmp_path / "cache")
    moved = text.rename(tmp_path / "moved.txt")
    tokens_of(source(moved), tokenizer, tmp_path / "cache")
    assert tokenizer.num_encoded == 1
    moved.write_text("other text")
    assert tokens_of(source(moved), tokenizer, tmp_path / "cache").tokens[0] == ord("o")
    assert tokenizer.num_encoded == 2


def test_key_names_everything_that_tokens_depend_on() -> None:
    a, b = (SourceFile(Path(name), name * 32) for name in "ab")
    text, lines, body = (
        Source("x", "text", []),
        Source("x", "jsonl", []),
        Source("x", "jsonl", [], "body"),
    )
    one, two = CountingTokenizer("one"), CountingTokenizer("two")
    keys = [
        cache_key(of, tokenizer, files)
        for of, tokenizer, files in itertools.product(
            (text, lines, body), (one, two), ([a], [a, b], [b, a])
        )
    ]
    assert len(set(keys)) == len(keys)
    other_place = SourceFile(Path("/elsewhere"), a.sha256)
    assert cache_key(Source("y", "text", ["z"], weight=3), one, [other_place]) == keys[0]


def test_damaged_tokens_are_made_again(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = CountingTokenizer()
    tokens_of(source(text), tokenizer, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"\7", b""):
        kept.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            made = tokens_of(source(text), tokenizer, tmp_path / "cache")
        assert made.tokens.tolist() == [*b"some text", 256]
        assert kept.read_bytes() == whole
        assert "made again" in caplog.text
        caplog.clear()
    assert tokenizer.num_encoded == 4


def test_workers_of_one_machine_may_race(tmp_path: Path, text: Path) -> None:
    start = threading.Barrier(4)

    def race() -> list[int]:
        start.wait(20)
        return tokens_of(source(text), ByteTokenizer(), tmp_path / "cache").tokens.tolist()

    with ThreadPoolExecutor(4) as pool:
        racers = [pool.submit(race) for _ in range(4)]
        assert all(racer.result() == [*b"some text", 256] for racer in racers)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".tokens"]


def test_folder_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, text: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"'corpus': its tokens cannot be kept in .*file/cache"):
        tokens_of(source(text), ByteTokenizer(), tmp_path / "file" / "cache")


def test_parallel_encoding_keeps_the_order_of_documents() -> None:
    documents = [bytes([n % 251]) * (1 + 3001 * n % 70_000) for n in range(200)]
    tokenizer = CountingTokenizer(is_parallel=True)
    made = [ids.tobytes() for ids in encoded(documents, tokenizer)]
    assert made == documents


def test_parallel_encoding_reads_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.tokenizing._num_cores", lambda: 2)
    taken = itertools.count()
    documents = (bytes(1 << 20) for _ in iter(lambda: next(taken), 100))
    stream = encoded(documents, CountingTokenizer(is_parallel=True))
    next(stream)
    assert next(taken) == 4
    stream.close()


def test_error_of_a_document_comes_out_of_parallel_encoding() -> None:
    class Failing(CountingTokenizer):
        def encode(self, document: bytes) -> np.ndarray:
            raise ValueError("no such piece")

    with pytest.raises(ValueError, match="no such piece"):
        list(encoded([b"a"], Failing(is_parallel=True)))
