"""What is a document, and what is said of text that is none."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from array_record.python import array_record_module

from workers.data.errors import DataError
from workers.data.files import digest_files, find_files
from workers.data.sources import Source, read_documents, source_of


def source(*paths: str | Path, kind: str = "text", **more: Any) -> Source:
    return source_of(
        {"name": "corpus", "kind": kind, "paths": [str(path) for path in paths], **more}
    )


def documents(of: Source) -> list[bytes]:
    return list(read_documents(of, digest_files(of.name, find_files(of.name, of.paths))))


def test_entry_becomes_a_source_with_its_defaults() -> None:
    assert source("a") == Source("corpus", "text", ["a"], "text", 1.0)
    given = source("a", kind="jsonl", field="body", weight=2)
    assert given == Source("corpus", "jsonl", ["a"], "body", 2.0)


def test_kind_that_is_not_known_is_an_error() -> None:
    with pytest.raises(DataError, match="'corpus': kind 'parquet' is not known; use one of text, "):
        source("a", kind="parquet")


def test_text_documents_are_whole_files_without_the_empty_ones(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b""), ("c", b"two\n")):
        (tmp_path / name).write_bytes(content)
    assert documents(source(f"{tmp_path}/*")) == [b"one", b"two\n"]


def test_python_stdlib_reads_in_full() -> None:
    assert len(documents(source("python-stdlib:**/*.py"))) > 500


@pytest.mark.parametrize(("kind", "content"), [("text", b""), ("jsonl", b'{"text": ""}\n')])
def test_nothing_but_empty_text_is_an_error(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=r"'corpus': every .* is empty"):
        documents(source(f"{tmp_path}/a", kind=kind))


def test_text_that_is_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 at byte 3 .*convert it"):
        documents(source(f"{tmp_path}/latin.txt"))


def test_json_lines_documents_are_the_strings_of_the_field(tmp_path: Path) -> None:
    texts = ["one\n\ttwo  ", "", "grüße 😀", "last"]
    lines = [json.dumps({"text": text, "body": "x", "n": 1}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = documents(source(f"{tmp_path}/a.jsonl", kind="jsonl"))
    assert read == [text.encode() for text in texts if text]
    bodies = documents(source(f"{tmp_path}/a.jsonl", kind="jsonl", field="body"))
    assert bodies == [b"x"] * 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON: .* at column"),
        (b"", "not JSON"),
        (b"[1]", "not an object but list"),
        (b'{"body": "x"}', "no field 'text'"),
        (b'{"text": null}', "the field 'text' is not a string but NoneType"),
        (b'{"text": "\xe9"}', "not UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_bad_json_line_names_file_and_line(tmp_path: Path, line: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "fine"}\n')
    with pytest.raises(DataError, match=rf"'corpus': .*a\.jsonl line 2: {words}.*; every line"):
        documents(source(f"{tmp_path}/a.jsonl", kind="jsonl"))


def write_records(path: Path, *records: bytes) -> Path:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:4")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_array_record_documents_are_its_records(tmp_path: Path) -> None:
    records = [f"record {n} ü".encode() for n in range(1000)]
    records[3] = b""
    path = write_records(tmp_path / "a.array_record", *records)
    assert documents(source(path, kind="array_record")) == [r for r in records if r]


def test_array_record_that_is_not_utf8_names_file_and_record(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.array_record", b"fine", b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.array_record record 1 is not UTF-8 at byte 3"):
        documents(source(path, kind="array_record"))


def test_file_that_is_no_array_record_is_an_error_with_the_cause(tmp_path: Path) -> None:
    whole = write_records(tmp_path / "a", b"fine" * 50_000).read_bytes()
    for content in (b"", b"text" * 50_000, whole[:-1], whole[: len(whole) // 2]):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(DataError, match=r"'corpus': .*b is no ArrayRecord file .*: \w+"):
            documents(source(tmp_path / "b", kind="array_record"))


def test_array_record_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a", b"before")
    files = digest_files("corpus", [path])
    write_records(path, b"after")
    with pytest.raises(DataError, match=r"'corpus': .*a changed while it was read"):
        list(read_documents(source(path, kind="array_record"), files))


def test_missing_array_record_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_records(tmp_path / "a", b"fine")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(DataError, match=r"pip install 'landbridge\[array-record\]'"):
        documents(source(path, kind="array_record"))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text('{"text": "before"}\n')
    files = digest_files("corpus", [path])
    path.write_text('{"text": "after"}\n')
    with pytest.raises(DataError, match=r"'corpus': .*a changed while it was read"):
        list(read_documents(source(str(path), kind=kind), files))
