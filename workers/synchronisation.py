"""How the pods of a gang come to hold the same: the seam between a step and what crosses the link.

workers.every_step               gradients, after every step
workers.outer.synchronisation    how far each pod came, every so many steps
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from workers.exchange.base import GradientExchange
from workers.exchange.tree import Node
from workers.in_flight import Spent
from workers.orders import JobOrder
from workers.program import Group, Program
from workers.reduction.base import Add, Gang, Gradients, SegmentLayout, Sums
from workers.reduction.residuals import WholeGradients

Agree = Callable[[int, bool], bool]
"""(step, this host holds all it needs) -> whether the whole pod applies the step."""


class Synchronisation(Protocol):
    """Used by the thread that trains, in this order for every step."""

    def offer(self, step: int, segment: int, sums: Sums) -> None:
        """This pod's sums of a segment, which may still be in the making, once it is complete."""
        ...

    def gradients(self, step: int, spent: Spent) -> list[Gradients] | None:
        """What to update with, segment by segment; None when the pod agreed not to.

        Raises ExchangeError, once the pod has agreed not to, and whatever the devices raise.
        """
        ...

    def updated(self, step: int, params: Group, spent: Spent) -> Group | None:
        """The parameters to go on with, from those that the update left; None when the pod agreed
        not to. Raises what gradients() raises."""
        ...

    def digest(self, params: Group, optimizer: Group) -> jax.Array | None:
        """Lanes of a digest of what all pods hold alike; None when the program has none."""
        ...

    def shared_state(self, params: Group, optimizer: Group) -> list[jax.Array]:
        """What all pods hold alike, in the order of Program.state_buffers."""
        ...

    def own_state(self, params: Group, optimizer: Group) -> dict[str, jax.Array]:
        """What this pod has for itself, by names of Program.own_buffers."""
        ...

    def losses(self) -> dict[str, jax.Array]:
        """What encoding has lost and is still to be sent: copies, by names of
        WholeGradients.member_arrays."""
        ...

    def loss_squares(self) -> Sequence[jax.Array]:
        """Numbers whose sum is the squared norm of it; none where nothing is carried on."""
        ...

    def close(self) -> None:
        """End what is under way; the exchange's generation must be over where peers may be waited
        for."""
        ...


def member_node(member: int) -> Node:
    """The node of a member's whole share, where every member counts as one slot."""
    return member, member + 1


def member_nodes(order: JobOrder) -> list[list[Node]]:
    """Of every member, where each sends one sum."""
    return [[member_node(member)] for member in range(len(order.members))]


def gang_of(
    order: JobOrder,
    program: Program,
    exchange: GradientExchange,
    segments: Sequence[SegmentLayout],
    subtrees: Callable[[int], list[list[Node]]],
) -> Gang:
    """The gang of an order, whose members exchange these segments of a program."""
    return Gang(
        exchange=exchange,
        member_index=order.member_index,
        num_members=len(order.members),
        segments=segments,
        subtrees=subtrees,
        whole=WholeGradients.of(program),
        shares=[member.link_share for member in order.members],
    )


def as_one(sums: Sums, add: Add) -> Gradients:
    """The sum of all nodes, in slot order."""
    return functools.reduce(add, sums.values())
