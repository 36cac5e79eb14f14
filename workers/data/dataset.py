"""The token stream of a job and its sequences, by random access.

Documents are packed without padding, each followed by end-of-document, sources in the order of the
specification. Sequence i predicts tokens i*T+1 .. (i+1)*T from the ones before them, so across the
epoch every token but the first, and a remainder shorter than a sequence, is predicted exactly once.
Mixing sources by weight is not done here: weights that differ are refused rather than ignored.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.data.errors import DataError
from workers.data.sources import TextSource, read_documents
from workers.data.tokenizer import ByteTokenizer


class TokenDataset:
    def __init__(self, tokens: np.ndarray, sequence_length: int, tokenizer_identity: str) -> None:
        """tokens: uint16, one dimension; needs sequence_length + 1 of them at least."""
        self.sequence_length = sequence_length
        self.num_tokens = len(tokens)
        self.num_sequences = (len(tokens) - 1) // sequence_length
        self.digest = _digest(tokens, tokenizer_identity)
        self._tokens = tokens

    def rows(self, sequence_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [len(sequence_ids), T]; targets are inputs shifted by one."""
        if sequence_ids.size and not (
            sequence_ids.min() >= 0 and sequence_ids.max() < self.num_sequences
        ):
            raise IndexError(f"sequence ids must lie in 0..{self.num_sequences - 1}")
        starts = sequence_ids.astype(np.int64)[:, None] * self.sequence_length
        windows = self._tokens[starts + np.arange(self.sequence_length + 1)].astype(np.int32)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def open_dataset(data: Mapping[str, Any], sequence_length: int) -> TokenDataset:
    """data is the data section of a job's specification. Raises DataError."""
    tokenizer = _tokenizer(data.get("tokenizer", {"kind": "bytes"}))
    sources = [_source(entry) for entry in data["sources"]]
    _refuse_mixing(data["sources"])
    parts: list[np.ndarray] = []
    end = np.array([tokenizer.end_of_document], np.uint16)
    for source in sources:
        for document in read_documents(source):
            parts += (tokenizer.encode(document), end)
    tokens = np.concatenate(parts) if parts else np.empty(0, np.uint16)
    if len(tokens) <= sequence_length:
        raise DataError(
            ", ".join(source.name for source in sources),
            f"{len(tokens)} tokens in all do not fill one sequence of {sequence_length} + 1",
            "add text or lower train.sequence_length",
        )
    return TokenDataset(tokens, sequence_length, tokenizer.identity)


def _tokenizer(section: Mapping[str, Any]) -> ByteTokenizer:
    if section.get("kind") != "bytes":
        raise DataError(
            "tokenizer", f"kind {section.get('kind')!r} is not available here", "use kind: bytes"
        )
    return ByteTokenizer()


def _source(entry: Mapping[str, Any]) -> TextSource:
    name = str(entry["name"])
    if entry.get("kind", "text") != "text":
        raise DataError(name, f"kind {entry['kind']!r} is not known", "use kind: text")
    paths: Sequence[str] = entry["paths"]
    return TextSource(name, paths)


def _refuse_mixing(entries: Sequence[Mapping[str, Any]]) -> None:
    first = entries[0].get("weight", 1.0)
    for entry in entries[1:]:
        weight = entry.get("weight", 1.0)
        if weight != first:
            raise DataError(
                str(entry["name"]),
                f"weight {weight} beside {first} asks for mixing, which is not available",
                "give all sources the same weight",
            )


def _digest(tokens: np.ndarray, tokenizer_identity: str) -> str:
    little_endian = tokens if sys.byteorder == "little" else tokens.byteswap()
    stream = hashlib.sha256(f"{tokenizer_identity}\n".encode())
    stream.update(little_endian.tobytes())
    return f"sha256:{stream.hexdigest()}"
