"""What a job trains on: sequences of every source, planned and seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class DataSource:
    """As the hosts found it, without what is held out of training."""

    name: str
    documents: int
    tokens: int
    """Ends of documents counted."""
    sequences: int
    epoch_sequences: int
    """Of one epoch: its sequences times its weight."""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceProgress:
    source: DataSource
    share: float
    """Of an epoch."""
    planned: int
    """Sequences of it among all that the job is to train on: exact for whole epochs, and of what is
    left of a last one that is cut short its share."""
    seen: int | None
    """Sequences of it trained on so far; None before the first report."""


def progress(
    sources: Sequence[DataSource], planned: int, seen: Sequence[int] | None
) -> list[SourceProgress]:
    """`planned` is the number of all sequences, `seen` that of every source."""
    total = sum(source.epoch_sequences for source in sources)
    known = seen if seen is not None and len(seen) == len(sources) else None
    seen_in_all = sum(known or ())
    is_last_epoch = seen_in_all > planned // total * total
    found = []
    for index, source in enumerate(sources):
        share = source.epoch_sequences / total
        if known is not None and is_last_epoch:
            expected = known[index] + round((planned - seen_in_all) * share)
        else:
            expected = round(planned * share)
        found.append(SourceProgress(source, share, expected, known[index] if known else None))
    return found
