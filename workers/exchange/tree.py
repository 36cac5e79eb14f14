"""The fixed summation tree over the microbatch slots of a step.

A node is a half-open slot range. [a, b) splits at a + (b - a + 1) // 2, so the left child is the
larger when the range is odd, and the shape depends on nothing but the number of slots. Sums that
follow the tree have the same bits however many pods hold the slots: each pod sums the largest nodes
wholly inside its range, and everyone finishes the rest in the same order.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

Node = tuple[int, int]
T = TypeVar("T")


def children(node: Node) -> tuple[Node, Node]:
    first, end = node
    if end - first < 2:
        raise ValueError(f"slot range {node} holds fewer than two slots and has no children")
    middle = first + (end - first + 1) // 2
    return (first, middle), (middle, end)


def maximal_subtrees(num_slots: int, first: int, end: int) -> list[Node]:
    """The largest nodes of the tree that lie wholly inside [first, end), in order."""
    if not 0 <= first < end <= num_slots:
        raise ValueError(f"slot range [{first}, {end}) is empty or outside 0..{num_slots}")
    return _inside((0, num_slots), first, end)


def subtrees(num_slots: int, members: Sequence[range]) -> list[list[Node]]:
    """Those of every member, whose slots are given."""
    return [maximal_subtrees(num_slots, slots.start, slots.stop) for slots in members]


def _inside(node: Node, first: int, end: int) -> list[Node]:
    if node[1] <= first or end <= node[0]:
        return []
    if first <= node[0] and node[1] <= end:
        return [node]
    left, right = children(node)
    return _inside(left, first, end) + _inside(right, first, end)


def reduce_tree(node: Node, lookup: Callable[[Node], T | None], combine: Callable[[T, T], T]) -> T:
    """Fold node with the tree's association.

    lookup(n) returns the value of a node that is at hand (a slot computed now, a subtree a peer
    sent) and None for a node that must be folded from its children. Nodes are asked for in slot
    order, so a lookup that computes needs memory for log2(num_slots) partial sums only.
    """
    value = lookup(node)
    if value is not None:
        return value
    if node[1] - node[0] == 1:
        raise ValueError(f"slot {node[0]} has no value: no member of the gang covers it")
    left, right = children(node)
    return combine(reduce_tree(left, lookup, combine), reduce_tree(right, lookup, combine))


class SlotFold(Generic[T]):
    """Folds the slots of nodes that lie next to each other, one slot after the other.

    Values are combined as soon as both are there, so that as few wait as reduce_tree needs.
    """

    def __init__(self, nodes: Sequence[Node], combine: Callable[[T, T], T]) -> None:
        self._folds = _each(nodes, combine)
        next(self._folds)

    def add(self, value: T) -> dict[Node, T] | None:
        """Take the value of the next slot; the values of all nodes once it was the last."""
        try:
            self._folds.send(value)
        except StopIteration as done:
            return done.value
        return None


def _each(nodes: Sequence[Node], combine: Callable[[T, T], T]) -> Generator[None, T, dict[Node, T]]:
    folded = {}
    for node in nodes:
        folded[node] = yield from _fold(node, combine)
    return folded


def _fold(node: Node, combine: Callable[[T, T], T]) -> Generator[None, T, T]:
    if node[1] - node[0] == 1:
        return (yield)
    left, right = children(node)
    first = yield from _fold(left, combine)
    return combine(first, (yield from _fold(right, combine)))
