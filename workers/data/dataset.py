"""The data of a job, by random access: a batch is a pure function of (digest, seed, positions).

The documents of a source are packed without padding, each followed by end-of-document. Sequence i
of a source predicts its tokens i*T+1 .. (i+1)*T from the ones before them, so every token but the
first, and a remainder shorter than a sequence, is predicted exactly once when each sequence is read
once. Sequences do not cross from one source to another; which of them stands where is
`workers.data.mixture`.
"""

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.batches import data_steps
from workers.data.errors import DataError
from workers.data.mixture import Mixture, locate, quota
from workers.data.sentencepiece_tokenizer import SentencePieceTokenizer
from workers.data.sources import source_of
from workers.data.tokenizer import ByteTokenizer, Tokenizer
from workers.data.tokenizing import tokens_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """What a source gives to a dataset."""

    name: str
    weight: float
    tokens: np.ndarray
    """Unsigned ids, one dimension, in which every document ends with end-of-document."""
    num_documents: int
    sha256: str
    """Of the tokens."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What a source amounts to."""

    name: str
    documents: int
    tokens: int
    sequences: int
    weight: float
    share: float
    """Of the sequences of an epoch."""


class TokenDataset:
    def __init__(
        self, sources: Sequence[SourceTokens], sequence_length: int, tokenizer_identity: str
    ) -> None:
        """Raises DataError for a source without a whole sequence, or without one in an epoch."""
        self.sequence_length = sequence_length
        self.digest = _digest(sources, sequence_length, tokenizer_identity)
        self.mixture = _mixture(sources, sequence_length)
        self.reports = [
            SourceReport(
                name=source.name,
                documents=source.num_documents,
                tokens=len(source.tokens),
                sequences=size,
                weight=source.weight,
                share=share / self.mixture.epoch_size,
            )
            for source, size, share in zip(
                sources, self.mixture.sizes, self.mixture.quotas, strict=True
            )
        ]
        self._tokens = [source.tokens for source in sources]

    def rows(self, seed: int, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets at positions of the endless stream, int32 [len(positions), T] each;
        targets are inputs shifted by one."""
        sources, sequences = locate(self.mixture, seed, np.asarray(positions, np.int64))
        windows = np.empty((len(sources), self.sequence_length + 1), np.int32)
        for source in np.unique(sources):
            inside = sources == source
            starts = sequences[inside, None] * self.sequence_length
            windows[inside] = self._tokens[source][starts + np.arange(self.sequence_length + 1)]
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])

    def num_steps(self, epochs: int, global_batch: int) -> int:
        """Steps that so many epochs last. Raises DataError when they do not fill one batch."""
        steps = data_steps(epochs, self.mixture.epoch_size, global_batch)
        if steps < 1:
            raise DataError(
                ", ".join(report.name for report in self.reports),
                f"{epochs} x {self.mixture.epoch_size} sequences do not fill one batch of"
                f" {global_batch}",
                "add text, raise data.epochs or lower train.global_batch",
            )
        return steps


def open_dataset(
    data: Mapping[str, Any], sequence_length: int, folder: Path | None = None
) -> TokenDataset:
    """The data section of a job's specification, opened. Raises DataError.

    Tokens are kept in `folder` for later jobs and other workers of the machine; without one they
    are forgotten with the dataset. `data` may hold the model's `vocab_size`, which must then hold
    the tokenizer's.
    """
    tokenizer = tokenizer_of(data.get("tokenizer", {"kind": "bytes"}))
    _check_vocabulary(tokenizer, data.get("vocab_size"))
    sources = [source_of(entry) for entry in data["sources"]]
    opened: list[SourceTokens] = []
    with contextlib.ExitStack() as stack:
        if folder is None:
            # The files may go at once: what is mapped stays readable without its name.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokens-")))
        for source in sources:
            file = tokens_of(source, tokenizer, folder)
            opened.append(
                SourceTokens(
                    source.name, source.weight, file.tokens, file.num_documents, file.sha256
                )
            )
    dataset = TokenDataset(opened, sequence_length, tokenizer.identity)
    for report in dataset.reports:
        logger.info(
            "data source %s: %d documents, %d tokens, %d sequences of %d, weight %g,"
            " %.1f%% of an epoch",
            *(report.name, report.documents, report.tokens, report.sequences, sequence_length),
            *(report.weight, 100 * report.share),
        )
    return dataset


def tokenizer_of(section: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of data.tokenizer. Raises DataError."""
    match section.get("kind"):
        case "bytes":
            return ByteTokenizer()
        case "sentencepiece":
            return SentencePieceTokenizer(section["path"])
        case kind:
            raise DataError(
                "tokenizer", f"kind {kind!r} is not known", "use kind: bytes or sentencepiece"
            )


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int | None) -> None:
    if vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise DataError(
            "tokenizer",
            f"its {tokenizer.vocab_size} tokens do not fit in the model's vocab_size of"
            f" {vocab_size}",
            f"set model.vocab_size to {tokenizer.vocab_size} at least",
        )


def _mixture(sources: Sequence[SourceTokens], sequence_length: int) -> Mixture:
    sizes, quotas = [], []
    for source in sources:
        size = (len(source.tokens) - 1) // sequence_length
        if size < 1:
            raise DataError(
                source.name,
                f"{len(source.tokens)} tokens do not fill one sequence of {sequence_length} + 1",
                "add text or lower train.sequence_length",
            )
        share = quota(source.weight, size)
        if share < 1:
            raise DataError(
                source.name,
                f"weight {source.weight:g} of {size} sequences is less than one sequence an epoch",
                f"raise its weight to {1 / size:g} at least, or leave it out",
            )
        sizes.append(size)
        quotas.append(share)
    return Mixture(tuple(sizes), tuple(quotas))


def _digest(sources: Sequence[SourceTokens], sequence_length: int, tokenizer_identity: str) -> str:
    """Of all that a batch depends on but the seed and the positions."""
    said = {
        "tokenizer": tokenizer_identity,
        "sequence_length": sequence_length,
        "sources": [[source.sha256, source.weight] for source in sources],
    }
    return f"sha256:{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}"
