"""From the files of a source to its documents: UTF-8 text, in the order of the files.

  - `text`: a file is a document.
  - `jsonl`: a line is a JSON object, and the string in one of its fields is a document.
  - `array_record`: a record is a document.
Empty files and empty strings are no documents. Everything else that is not as said is a DataError
that names file and line; nothing is skipped.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from workers.data.array_records import read_records
from workers.data.errors import DataError
from workers.data.files import SourceFile, opened


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of data.sources."""

    name: str
    kind: str
    paths: Sequence[str]
    field: str = "text"
    """Of a JSON object; for jsonl only."""
    weight: float = 1.0
    """How often one epoch goes through the source."""


def source_of(entry: Mapping[str, Any]) -> Source:
    """An entry of the specification. Raises DataError for a kind that is not known."""
    name, kind = str(entry["name"]), str(entry.get("kind", "text"))
    if kind not in _READERS:
        raise DataError(name, f"kind {kind!r} is not known", f"use one of {', '.join(_READERS)}")
    return Source(
        name, kind, entry["paths"], entry.get("field", "text"), float(entry.get("weight", 1.0))
    )


def read_documents(source: Source, files: Sequence[SourceFile]) -> Iterator[bytes]:
    """The documents of the files. Raises DataError when there are none, or when a file's content
    is no longer that of its digest: what is kept under the digest must be what was read."""
    is_empty = True
    for file in files:
        content = hashlib.sha256()
        with opened(source.name, file.path) as stream:
            for document in _READERS[source.kind](source, file.path, stream, content):
                is_empty = False
                yield document
        if content.hexdigest() != file.sha256:
            raise DataError(
                source.name,
                f"{file.path} changed while it was read",
                "train on files that nothing writes to any more",
            )
    if is_empty:
        what = {"text": "file", "jsonl": f"field {source.field!r}"}.get(source.kind, "record")
        raise DataError(source.name, f"every {what} is empty", "name files that hold text")


def _text(source: Source, path: Path, stream: BufferedReader, content: Any) -> Iterator[bytes]:
    document = stream.read()
    content.update(document)
    _check_utf8(source, str(path), document)
    if document:
        yield document


def _json_lines(
    source: Source, path: Path, stream: BufferedReader, content: Any
) -> Iterator[bytes]:
    for number, line in enumerate(stream, 1):
        content.update(line)
        try:
            document = _field(line, source.field)
        except ValueError as error:
            raise DataError(
                source.name,
                f"{path} line {number}: {error}",
                f"every line must be a JSON object with text in the field {source.field!r};"
                " mend the line, or name another field",
            ) from error
        if document:
            yield document


def _array_records(
    source: Source, path: Path, stream: BufferedReader, content: Any
) -> Iterator[bytes]:
    for number, record in enumerate(read_records(source.name, path)):
        _check_utf8(source, f"{path} record {number}", record)
        if record:
            yield record
    # The library reads the file by itself; what it has read is what is still there.
    while chunk := stream.read(1 << 20):
        content.update(chunk)


_READERS = {"text": _text, "jsonl": _json_lines, "array_record": _array_records}


def _check_utf8(source: Source, place: str, document: bytes) -> None:
    try:
        document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            source.name,
            f"{place} is not UTF-8 at byte {error.start} ({error.reason})",
            "convert it to UTF-8, or leave it out of paths",
        ) from error


def _field(line: bytes, field: str) -> bytes:
    """The text in a field of a JSON object, as UTF-8; ValueError says what is not so."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"not an object but {type(value).__name__}")
    if field not in value:
        raise ValueError(f"no field {field!r}")
    text = value[field]
    if not isinstance(text, str):
        raise ValueError(f"the field {field!r} is not a string but {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair in {field!r}: no Unicode text") from error
