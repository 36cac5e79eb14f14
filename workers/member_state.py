"""State that each member of a gang has for itself, beside that of which all hold the same bits.

A member is a pod by its index in the gang. `Training.member_state` gives such arrays by name; a
checkpoint holds those of every member, and `Training` takes them when it is made. What a member
takes where another number of members wrote the checkpoint is a rule of the array.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

import jax


class Takeover(enum.Enum):
    """What a member takes of a checkpoint that other members wrote."""

    SUM = "sum"
    """Together the members hold the sum of what was written: member i of P that of all j with
    j % P == i, and nothing where there is none. The same number of members takes each its own."""
    ONE = "one"
    """Member i takes that of member i % W, of W that wrote."""


@dataclasses.dataclass(frozen=True, slots=True)
class MemberArray:
    """An array that every member has for itself."""

    struct: jax.ShapeDtypeStruct
    """With the sharding on the pod's own mesh."""
    takeover: Takeover


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint gives a pod, by name: what all pods hold alike, and its own."""

    shared: Mapping[str, jax.Array]
    own: Mapping[str, jax.Array]


def sources(takeover: Takeover, index: int, num_members: int, num_written: int) -> list[int]:
    """The members whose arrays member `index` of `num_members` takes, of `num_written`."""
    if takeover is Takeover.ONE:
        return [index % num_written]
    return list(range(index, num_written, num_members))
