"""The data of a job, by random access: a batch is a pure function of (digest, seed, positions).

What a sequence is, is `workers.data.packing`; which of them stands at a position
`workers.data.mixture`; which positions a step trains on `workers.data.batches`; and what is kept
out of training `workers.data.held_out`.
"""

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.batches import BatchPlan
from workers.data.errors import DataError
from workers.data.held_out import HeldOut, HeldOutSource, check_eval, hold_out
from workers.data.mixture import Mixture, locate, quota
from workers.data.packing import SourceTokens, gather, num_sequences
from workers.data.report import SourceReport
from workers.data.sentencepiece_tokenizer import SentencePieceTokenizer
from workers.data.sources import Source, source_of
from workers.data.tokenizer import ByteTokenizer, Tokenizer
from workers.data.tokenizing import tokens_of

logger = logging.getLogger(__name__)


class TokenDataset:
    def __init__(
        self,
        sources: Sequence[SourceTokens],
        sequence_length: int,
        tokenizer_identity: str,
        held_out: HeldOut | None = None,
    ) -> None:
        """`sources` are trained on, without what is held out of them. Raises DataError for one
        without a whole sequence, or without one in an epoch."""
        self.sequence_length = sequence_length
        self.held_out = held_out
        self.digest = _digest(sources, sequence_length, tokenizer_identity, held_out)
        self.mixture = _mixture(sources, sequence_length)
        self.reports = [
            SourceReport(
                name=source.name,
                documents=source.num_documents,
                tokens=len(source.tokens),
                sequences=size,
                epoch_sequences=share,
            )
            for source, size, share in zip(
                sources, self.mixture.sizes, self.mixture.quotas, strict=True
            )
        ]
        self._tokens = [source.tokens for source in sources]

    def rows(
        self, seed: int, positions: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets at positions of the endless stream, int32 [len(positions), T] each;
        targets are inputs shifted by one."""
        sources, sequences = locate(self.mixture, seed, np.asarray(positions, np.int64))
        return gather(self._tokens, sources, sequences, self.sequence_length)

    def num_steps(self, epochs: int, plan: BatchPlan) -> int:
        """The last step that so many epochs suffice for. Raises DataError when they do not fill
        the plan's first batch."""
        steps = plan.num_steps(epochs * self.mixture.epoch_size)
        before, position = plan.start
        if steps <= before:
            without = ", without those that are skipped," if plan.skipped else ""
            trained = f" after the {position} of step {before}" if position else ""
            raise DataError(
                ", ".join(report.name for report in self.reports),
                f"{epochs} x {self.mixture.epoch_size} sequences{without} do not fill one batch of"
                f" {plan.global_batch(before + 1)}{trained}",
                "add text, raise data.epochs or lower train.global_batch",
            )
        return steps


def open_dataset(
    data: Mapping[str, Any], sequence_length: int, folder: Path | None = None
) -> TokenDataset:
    """The data section of a job's specification, opened. Raises DataError.

    Tokens are kept in `folder` for later jobs and other workers of the machine; without one they
    are forgotten with the dataset. `data` may hold the model's `vocab_size`, which must then hold
    the tokenizer's, and `eval`, which says what is held out of training: a `share` of every source
    or `sources` of its own, and how many `sequences` of it are evaluated at most.
    """
    tokenizer = tokenizer_of(data.get("tokenizer", {"kind": "bytes"}))
    _check_vocabulary(tokenizer, data.get("vocab_size"))
    section = data.get("eval")
    if section is not None:
        check_eval(section)
    listed = [source_of(entry) for entry in data["sources"]]
    apart = [source_of(entry) for entry in (section or {}).get("sources") or ()]
    with contextlib.ExitStack() as stack:
        if folder is None:
            # The files may go at once: what is mapped stays readable without its name.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokens-")))
        sources: Sequence[SourceTokens] = _opened(listed, tokenizer, folder)
        others = _opened(apart, tokenizer, folder)
    held_out = None
    if section is not None:
        sources, held_out = _held_out(section, sources, others, tokenizer, sequence_length)
    dataset = TokenDataset(sources, sequence_length, tokenizer.identity, held_out)
    _log(dataset)
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


def _held_out(
    section: Mapping[str, Any],
    sources: Sequence[SourceTokens],
    others: Sequence[SourceTokens],
    tokenizer: Tokenizer,
    sequence_length: int,
) -> tuple[Sequence[SourceTokens], HeldOut]:
    """What is left of `sources` to train on, and what is held out of them or is all of `others`."""
    held = [HeldOutSource(other, range(num_sequences(other, sequence_length))) for other in others]
    if (share := section.get("share")) is not None:
        end = tokenizer.end_of_document
        cut = [hold_out(source, share, sequence_length, end) for source in sources]
        sources, held = [trained for trained, _ in cut], [part for _, part in cut]
    sizes = tokenizer.bytes_per_token()
    return sources, HeldOut(held, sequence_length, sizes, section.get("sequences"))


def _opened(sources: Sequence[Source], tokenizer: Tokenizer, folder: Path) -> list[SourceTokens]:
    opened: list[SourceTokens] = []
    for source in sources:
        file = tokens_of(source, tokenizer, folder)
        opened.append(
            SourceTokens(source.name, source.weight, file.tokens, file.num_documents, file.sha256)
        )
    return opened


def _log(dataset: TokenDataset) -> None:
    for report in dataset.reports:
        logger.info(
            "data source %s: %d documents, %d tokens, %d sequences of %d, %d in an epoch of %d",
            *(report.name, report.documents, report.tokens, report.sequences),
            *(dataset.sequence_length, report.epoch_sequences, dataset.mixture.epoch_size),
        )
    if (held_out := dataset.held_out) is not None:
        for part in held_out.held:
            logger.info("held out of %s: %d sequences", part.source.name, len(part.sequences))
        logger.info(
            "held-out text: %d of %d sequences are evaluated",
            *(held_out.num_sequences, held_out.num_held_out),
        )


def _mixture(sources: Sequence[SourceTokens], sequence_length: int) -> Mixture:
    sizes, quotas = [], []
    for source in sources:
        size = num_sequences(source, sequence_length)
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


def _digest(
    sources: Sequence[SourceTokens],
    sequence_length: int,
    tokenizer_identity: str,
    held_out: HeldOut | None,
) -> str:
    """Of all that a batch depends on but the seed and the positions, and of what is held out; how
    many sequences of that are evaluated may change."""
    said: dict[str, Any] = {
        "tokenizer": tokenizer_identity,
        "sequence_length": sequence_length,
        "sources": [[source.sha256, source.weight] for source in sources],
    }
    if held_out is not None:
        said["held_out"] = [[part.source.sha256, part.sequences.start] for part in held_out.held]
    return f"sha256:{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}"
