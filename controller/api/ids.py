"""Job identifiers: UUIDv7 (RFC 9562), so that sorting by id is sorting by time of submission."""

from __future__ import annotations

import secrets
import uuid


def new_id(now: float) -> str:
    """A fresh identifier for something that came to be at Unix time `now`: 48 bits of
    milliseconds, then 74 random bits around the version and the variant."""
    milliseconds = int(now * 1000) & ((1 << 48) - 1)
    version_and_random = 0x7000 | secrets.randbits(12)
    variant_and_random = (0b10 << 62) | secrets.randbits(62)
    return str(
        uuid.UUID(int=(milliseconds << 80) | (version_and_random << 64) | variant_and_random)
    )
