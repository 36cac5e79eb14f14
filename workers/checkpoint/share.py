"""Which pod writes which arrays: all pods hold the same bits, so each writes a part of them."""

from __future__ import annotations

from collections.abc import Mapping


def shares(sizes: Mapping[str, int], num_members: int) -> list[list[str]]:
    """Names of the arrays of every member, sorted; sizes are bytes.

    Largest first to whoever has least: no share exceeds 4/3 of the best possible largest one
    (Graham's bound). The same at every pod, since it depends on nothing else.
    """
    parts: list[list[str]] = [[] for _ in range(num_members)]
    loads = [0] * num_members
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        member = loads.index(min(loads))
        parts[member].append(name)
        loads[member] += sizes[name]
    return [sorted(part) for part in parts]
