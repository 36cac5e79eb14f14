"""Documents are packed without loss, and each token is predicted once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.dataset import TokenDataset, open_dataset
from workers.data.errors import DataError
from workers.data.tokenizer import ByteTokenizer


def data(*paths: str, name: str = "text", **more: Any) -> dict[str, Any]:
    return {"sources": [{"name": name, "kind": "text", "paths": list(paths), **more}]}


@settings(deadline=None)
@given(num_tokens=st.integers(2, 500), length=st.integers(1, 50))
def test_rows_predict_each_token_exactly_once(num_tokens: int, length: int) -> None:
    if num_tokens <= length:
        num_tokens += length
    tokens = np.arange(num_tokens, dtype=np.uint16)
    dataset = TokenDataset(tokens, length, "test")
    assert dataset.num_sequences == (num_tokens - 1) // length
    inputs, targets = dataset.rows(np.arange(dataset.num_sequences))
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (dataset.num_sequences, length)
    predicted = dataset.num_sequences * length
    assert np.array_equal(targets.ravel(), np.arange(1, predicted + 1))
    assert np.array_equal(inputs.ravel(), np.arange(predicted))


@settings(deadline=None)
@given(st.data())
def test_rows_are_random_access(draw: st.DataObject) -> None:
    dataset = TokenDataset(np.arange(1000, dtype=np.uint16), 10, "test")
    ids = np.array(draw.draw(st.lists(st.integers(0, 98), min_size=1)))
    together = dataset.rows(ids)
    for row, sequence in enumerate(ids):
        alone = dataset.rows(np.array([sequence]))
        assert np.array_equal(alone[0][0], together[0][row])
        assert np.array_equal(alone[1][0], together[1][row])


def test_rows_outside_the_dataset_are_an_index_error() -> None:
    dataset = TokenDataset(np.arange(101, dtype=np.uint16), 10, "test")
    with pytest.raises(IndexError, match=r"0\.\.9"):
        dataset.rows(np.array([10]))
    with pytest.raises(IndexError, match=r"0\.\.9"):
        dataset.rows(np.array([-1]))


def test_documents_end_with_end_of_document_and_decode_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grüße", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_text("tail")
    dataset = open_dataset(data(f"{tmp_path}/*.txt"), 1)
    inputs, targets = dataset.rows(np.arange(dataset.num_sequences))
    stream = np.concatenate([inputs[:1].ravel(), targets.ravel()])
    end = ByteTokenizer.end_of_document
    assert stream.tolist() == [*"grüße".encode(), end, *b"tail", end]
    assert ByteTokenizer().decode(stream) == "grüßetail"
    assert stream.max() < ByteTokenizer.vocab_size


def test_digest_is_of_the_text_and_nothing_else(tmp_path: Path) -> None:
    for folder, tail in (("one", "cd"), ("two", "cd"), ("three", "cD")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("ab")
        (tmp_path / folder / "b").write_text(tail)
    one, two, three = (
        open_dataset(data(f"{tmp_path}/{folder}/*"), 2) for folder in ("one", "two", "three")
    )
    assert one.digest == two.digest != three.digest
    assert open_dataset(data(f"{tmp_path}/one/*"), 3).digest == one.digest
    # Changing this number means that running jobs no longer agree with new workers.
    assert one.digest == ("sha256:0cad6354572a08da7e18d449e84a2f884f846a932254222ea426684966fd92d0")


def test_sources_are_read_in_the_order_of_the_specification(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("aa")
    (tmp_path / "b").write_text("bb")
    both = {"sources": [*data(f"{tmp_path}/b")["sources"], *data(f"{tmp_path}/a")["sources"]]}
    inputs, _ = open_dataset(both, 3).rows(np.array([0]))
    assert inputs[0].tolist() == [*b"bb", ByteTokenizer.end_of_document]


def test_python_stdlib_opens_and_is_real_text() -> None:
    dataset = open_dataset(data("python-stdlib:json/*.py"), 256)
    inputs, _ = dataset.rows(np.arange(dataset.num_sequences))
    assert "def loads(" in ByteTokenizer().decode(inputs.ravel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "parquet"}, "kind 'parquet' is not known"),
        ({"paths": ["/nowhere/*.txt"]}, "no file matches '/nowhere/"),
    ],
)
def test_bad_source_is_a_data_error_that_names_it(change: dict[str, Any], message: str) -> None:
    section = data("x", name="corpus")
    section["sources"][0].update(change)
    with pytest.raises(DataError, match=f"'corpus'.*{message}"):
        open_dataset(section, 8)


def test_too_little_text_is_a_data_error_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("short")
    with pytest.raises(DataError, match="6 tokens in all do not fill one sequence of 6"):
        open_dataset(data(f"{tmp_path}/a"), 6)


def test_weights_that_differ_and_unknown_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("some text")
    entry = {"name": "a", "kind": "text", "paths": [f"{tmp_path}/a"]}
    mixed = {"sources": [{**entry, "weight": 2.0}, {**entry, "weight": 1.0}]}
    with pytest.raises(DataError, match="mixing"):
        open_dataset(mixed, 4)
    assert open_dataset({"sources": [{**entry, "weight": 2.0}]}, 4).num_tokens == 10
    with pytest.raises(DataError, match="'sentencepiece' is not available"):
        open_dataset({"sources": [entry], "tokenizer": {"kind": "sentencepiece"}}, 4)
