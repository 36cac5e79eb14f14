"""Bytes a device holds while the calls of a slot run one after the other.

A call holds what it takes, what it returns and its temporaries; beside it lie the groups that a
later call takes and the gradients that are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.program import Call


def held_beside(
    calls: Sequence[Call], gradients: Sequence[str], group_bytes: Mapping[str, int]
) -> list[int]:
    """Of every call, bytes of the groups that lie there and that it neither takes nor returns.

    `params` and `batch` are there from the first call to the last; `gradients` are what the chain
    is for and stay to its end. `group_bytes` are of one device.
    """
    there = {"params", "batch"}
    beside = []
    for index, call in enumerate(calls):
        own = {*call.inputs, *call.outputs}
        beside.append(sum(group_bytes[name] for name in there - own))
        there |= {*call.outputs}
        later = {name for after in calls[index + 1 :] for name in after.inputs}
        there &= {"params", "batch", *gradients, *later}
    return beside
