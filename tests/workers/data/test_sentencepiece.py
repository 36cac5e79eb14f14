"""A trained vocabulary is lossless, the same every time, and told of clearly when unusable."""

import hashlib
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.data.dataset import open_dataset
from workers.data.errors import DataError
from workers.data.files import digest_files, find_files
from workers.data.sentencepiece_tokenizer import SentencePieceTokenizer
from workers.data.sentencepiece_training import train
from workers.data.sources import read_documents, source_of

SOURCE = {"name": "json", "kind": "text", "paths": ["python-stdlib:json/*.py"]}


def documents() -> list[bytes]:
    source = source_of(SOURCE)
    return list(read_documents(source, digest_files("json", find_files("json", source.paths))))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.model"
    path.write_bytes(train(documents(), 600))
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(str(model))


def foreign_model(path: Path, **options: Any) -> str:
    """A model as others make them."""
    made = io.BytesIO()
    lines = iter(b"".join(documents()).decode().splitlines())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=made, vocab_size=500, minloglevel=2, **options
    )
    path.write_bytes(made.getvalue())
    return str(path)


# The module's fixture is the same object for every example.
def any_text(test: Callable[..., None]) -> Callable[..., None]:
    """Gives a test random text and what is likely to go wrong."""
    test = settings(max_examples=300)(given(text=st.text())(test))
    for text in (
        "\tif x:\r\n\n\n        return  y  \n ",
        "  two  spaces  ",
        "😀👩‍👩‍👧 grüße 日本語 \u200b\ufeff",
        "▁ ▁▁ the library's own mark ▁",
        "</s> <unk> <0x41> \x00 \x7f ⁇ ▅",
        "ﬁ Å Å ① half\u00a0space",
        "",
    ):
        test = example(text=text)(test)
    return test


@any_text
def test_text_survives_the_way_there_and_back(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text.encode())
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(np.append(ids, tokenizer.end_of_document).astype(np.uint16)) == text


@any_text
def test_bytes_of_the_tokens_add_up_to_those_of_the_text(
    tokenizer: SentencePieceTokenizer, text: str
) -> None:
    ids = tokenizer.encode(text.encode())
    assert tokenizer.bytes_per_token()[ids].sum() == len(text.encode())


def test_bytes_of_real_documents_add_up_and_an_end_of_document_has_none(
    tokenizer: SentencePieceTokenizer,
) -> None:
    sizes = tokenizer.bytes_per_token()
    assert (sizes.dtype, sizes.shape) == (np.int32, (tokenizer.vocab_size,))
    assert sizes[tokenizer.end_of_document] == 0
    for document in documents():
        assert sizes[tokenizer.encode(document)].sum() == len(document)


def test_real_documents_survive_and_take_fewer_tokens_than_bytes(
    tokenizer: SentencePieceTokenizer,
) -> None:
    for document in documents():
        ids = tokenizer.encode(document)
        assert tokenizer.decode(ids).encode() == document
        assert len(ids) < len(document) / 1.5
        assert ids.max() < tokenizer.vocab_size == 600


def test_digits_are_tokens_of_their_own_and_indentation_is_one(
    tokenizer: SentencePieceTokenizer,
) -> None:
    digits = tokenizer.encode(b"31415926")
    assert [tokenizer.decode(digits[i : i + 1]) for i in range(8)] == [*"31415926"]
    assert len(tokenizer.encode(b"        ")) == 1


def test_training_gives_the_same_bytes_every_time(model: Path) -> None:
    assert train(documents(), 600) == model.read_bytes()
    sampled = [train(documents(), 400, max_lines=200) for _ in range(2)]
    assert sampled[0] == sampled[1]


def test_vocabulary_that_the_text_does_not_fill_is_an_error() -> None:
    with pytest.raises(DataError, match=r"100000 could be trained: Vocabulary size too high"):
        train(documents(), 100_000)


def test_error_of_a_source_comes_out_of_training_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"caf\xe9")
    source = source_of({"name": "bad", "paths": [f"{tmp_path}/bad"]})
    files = digest_files("bad", find_files("bad", source.paths))
    with pytest.raises(DataError, match=r"'bad': .* is not UTF-8"):
        train(read_documents(source, files), 600)


def test_identity_is_of_the_model_file_and_so_is_the_digest_of_the_data(
    tmp_path: Path, model: Path, tokenizer: SentencePieceTokenizer
) -> None:
    assert hashlib.sha256(model.read_bytes()).hexdigest() in tokenizer.identity
    other = tmp_path / "other.model"
    other.write_bytes(train(documents(), 500))
    same = tmp_path / "same.model"
    same.write_bytes(model.read_bytes())
    digests = [
        open_dataset(
            {"sources": [SOURCE], "tokenizer": {"kind": "sentencepiece", "path": str(path)}},
            64,
            tmp_path / "cache",
        ).digest
        for path in (model, other, same)
    ]
    assert digests[0] == digests[2] != digests[1]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_dataset_decodes_to_its_text(model: Path, tokenizer: SentencePieceTokenizer) -> None:
    section = {
        "sources": [SOURCE],
        "tokenizer": {"kind": "sentencepiece", "path": str(model)},
        "vocab_size": 600,
    }
    dataset = open_dataset(section, 64)
    inputs, _ = dataset.rows(0, range(dataset.mixture.epoch_size))
    assert any("def " in tokenizer.decode(row) for row in inputs)


def test_model_vocabulary_that_is_too_small_is_an_error_with_both_numbers(model: Path) -> None:
    section = {"sources": [SOURCE], "tokenizer": {"kind": "sentencepiece", "path": str(model)}}
    with pytest.raises(DataError, match="600 tokens do not fit in the model's vocab_size of 599"):
        open_dataset({**section, "vocab_size": 599}, 64)


def test_model_without_end_of_sentence_is_an_error(tmp_path: Path) -> None:
    path = foreign_model(tmp_path / "no-eos.model", eos_id=-1, byte_fallback=True)
    with pytest.raises(DataError, match=r"no-eos\.model has no end-of-sentence piece"):
        SentencePieceTokenizer(path)


def test_model_without_byte_fallback_works_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        foreign = SentencePieceTokenizer(foreign_model(tmp_path / "foreign.model"))
    assert "foreign.model has no byte fallback" in caplog.text
    assert foreign.decode(foreign.encode(b"return  the value")) == "return the value"


def test_file_that_is_no_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(DataError, match=r"text\.model is not a SentencePiece model"):
        SentencePieceTokenizer(f"{tmp_path}/text.model")
    with pytest.raises(DataError, match=r"cannot read .*absent\.model: No such file"):
        SentencePieceTokenizer(f"{tmp_path}/absent.model")


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"not installed here; pip install 'landbridge\[worker\]'"):
        SentencePieceTokenizer(str(model))
