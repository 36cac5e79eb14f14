"""What a job's sources amount to, for people to read."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class SourceReport:
    """A source as training sees it, without what is held out of it."""

    name: str
    documents: int
    tokens: int
    """Ends of documents counted."""
    sequences: int
    epoch_sequences: int
    """Of one epoch: its sequences times its weight."""
