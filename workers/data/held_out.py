"""Text that nobody trains on, to evaluate on.

Either the last sequences of every source that is trained on, or other sources as a whole. Those of
a source come from its end, in one piece, so that no document but the one at the border is in both;
no token is predicted in both. Of what is held out, the evaluated sequences are spread evenly: every
source gives in proportion to what it holds out, from its beginning to its end.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.data.errors import DataError
from workers.data.packing import SourceTokens, gather, num_sequences


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOutSource:
    """Sequences of a source that are held out of training."""

    source: SourceTokens
    sequences: range


class HeldOut:
    """The sequences that are evaluated; indexes count from 0 to `num_sequences` - 1."""

    def __init__(
        self,
        held: Sequence[HeldOutSource],
        sequence_length: int,
        bytes_per_token: np.ndarray,
        at_most: int | None = None,
    ) -> None:
        """`bytes_per_token` is the tokenizer's; without `at_most` everything is evaluated."""
        self.held = tuple(held)
        self.num_held_out = sum(len(part.sequences) for part in held)
        self.num_sequences = self.num_held_out
        if at_most is not None:
            self.num_sequences = min(self.num_held_out, at_most)
        self._sequence_length = sequence_length
        self._bytes_per_token = bytes_per_token
        self._tokens = [part.source.tokens for part in held]
        self._ends = np.cumsum([len(part.sequences) for part in held])
        self._starts = np.array([part.sequences.start for part in held], np.int64)

    def rows(self, indexes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [len(indexes), T] each; targets are inputs shifted by one.
        Raises IndexError for an index that is not there."""
        wanted = np.asarray(indexes, np.int64)
        if (outside := wanted[(wanted < 0) | (wanted >= self.num_sequences)]).size:
            raise IndexError(f"{self.num_sequences} sequences have no index {outside[0]}")
        # The middle of the index's share of what is held out.
        places = (2 * wanted + 1) * self.num_held_out // (2 * self.num_sequences)
        sources = np.searchsorted(self._ends, places, side="right")
        before = np.append(0, self._ends)[sources]
        sequences = self._starts[sources] + places - before
        return gather(self._tokens, sources, sequences, self._sequence_length)

    def num_bytes(self, targets: np.ndarray) -> int:
        """UTF-8 bytes of the text that the tokens stand for; ends of documents are no text."""
        return int(self._bytes_per_token[targets].sum(dtype=np.int64))


def check_eval(section: Mapping[str, Any]) -> None:
    """How held-out text is given in a specification. Raises DataError for what cannot be meant."""
    share, sources, at_most = (section.get(name) for name in ("share", "sources", "sequences"))
    if (share is None) == (sources is None):
        raise DataError(
            "eval",
            "held-out text is a share of every source or sources of its own, and one of the two",
            "give either train.eval.share or train.eval.sources",
        )
    if share is not None and not 0 < share < 1:
        raise DataError(
            "eval",
            f"the share {share:g} is not between 0 and 1",
            "give train.eval.share as a fraction of every source",
        )
    if sources is not None and not sources:
        raise DataError("eval", "it has no sources", "name one at least in train.eval.sources")
    if at_most is not None and at_most < 1:
        raise DataError(
            "eval",
            f"{at_most} sequences are nothing to evaluate",
            "give train.eval.sequences as 1 at least",
        )


def hold_out(
    source: SourceTokens, share: float, sequence_length: int, end_of_document: int
) -> tuple[SourceTokens, HeldOutSource]:
    """What is left of the source to train on, and its last ceil(share * size) sequences. Raises
    DataError when nothing would be left."""
    size = num_sequences(source, sequence_length)
    left = size - math.ceil(share * size)
    if left < 1:
        raise DataError(
            source.name,
            f"a share of {share:g} for evaluation holds out all of its {size} sequences",
            "add text or lower train.eval.share",
        )
    # The first token that is held out is still the last target of training.
    tokens = source.tokens[: left * sequence_length + 1]
    num_ends = int(np.count_nonzero(tokens == end_of_document))
    trained = dataclasses.replace(
        source, tokens=tokens, num_documents=num_ends + int(tokens[-1] != end_of_document)
    )
    return trained, HeldOutSource(source, range(left, size))
