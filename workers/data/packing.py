"""Documents packed into sequences without padding, each document followed by end-of-document.

Sequence i of a source predicts its tokens i*T+1 .. (i+1)*T from the ones before them, so every
token but the first, and a remainder shorter than a sequence, is predicted by exactly one sequence.
Sequences do not cross from one source to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.errors import DataError


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """What a source gives to a dataset."""

    name: str
    weight: float
    tokens: np.ndarray
    """Unsigned ids, one dimension, in which every document ends with end-of-document."""
    num_documents: int
    sha256: str
    """Of the tokens; of all tokens of the source where these are only its first ones."""


def num_sequences(source: SourceTokens, sequence_length: int) -> int:
    """Whole sequences of a source. Raises DataError when it has none."""
    size = (len(source.tokens) - 1) // sequence_length
    if size < 1:
        raise DataError(
            source.name,
            f"{len(source.tokens)} tokens do not fill one sequence of {sequence_length} + 1",
            "add text or lower train.sequence_length",
        )
    return size


def gather(
    tokens: Sequence[np.ndarray], sources: np.ndarray, sequences: np.ndarray, sequence_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of sequences of sources, int32 [len(sources), T] each; targets are inputs
    shifted by one. `sources` index `tokens`."""
    windows = np.empty((len(sources), sequence_length + 1), np.int32)
    for source in np.unique(sources):
        inside = sources == source
        starts = sequences[inside, None] * sequence_length
        windows[inside] = tokens[source][starts + np.arange(sequence_length + 1)]
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
