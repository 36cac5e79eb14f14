"""The order of summation is the tree's, whoever holds the slots."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.exchange.tree import Node, children, maximal_subtrees, reduce_tree

# A sum written down: a slot number, or a pair of sums.
Sum = int | tuple["Sum", "Sum"]


def pair(left: Sum, right: Sum) -> Sum:
    return left, right


def slot_alone(node: Node) -> Sum | None:
    return node[0] if node[1] - node[0] == 1 else None


def fold_alone(node: Node) -> Sum:
    return reduce_tree(node, slot_alone, pair)


@st.composite
def pods(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A number of slots and the contiguous ranges that 1 to 5 pods hold of them."""
    num_slots = draw(st.integers(1, 64))
    num_pods = draw(st.integers(1, min(5, num_slots)))
    inner = st.integers(1, max(1, num_slots - 1))
    cuts = draw(st.sets(inner, min_size=num_pods - 1, max_size=num_pods - 1))
    return num_slots, list(pairwise([0, *sorted(cuts), num_slots]))


@given(pods())
def test_association_is_the_same_for_any_pods(gang: tuple[int, list[tuple[int, int]]]) -> None:
    num_slots, ranges = gang
    sums = {
        node: fold_alone(node)
        for first, end in ranges
        for node in maximal_subtrees(num_slots, first, end)
    }
    over_pods = reduce_tree((0, num_slots), sums.get, pair)
    assert over_pods == fold_alone((0, num_slots))


@given(pods())
def test_maximal_subtrees_cover_every_slot_once_in_order(
    gang: tuple[int, list[tuple[int, int]]],
) -> None:
    num_slots, ranges = gang
    nodes = [n for first, end in ranges for n in maximal_subtrees(num_slots, first, end)]
    assert [slot for node in nodes for slot in range(*node)] == list(range(num_slots))


@given(st.integers(1, 64))
def test_reduce_tree_asks_for_slots_in_order(num_slots: int) -> None:
    asked: list[int] = []

    def lookup(node: Node) -> int | None:
        if node[1] - node[0] > 1:
            return None
        asked.append(node[0])
        return 1

    assert reduce_tree((0, num_slots), lookup, lambda a, b: a + b) == num_slots
    assert asked == list(range(num_slots))


def test_power_of_two_pods_send_one_subtree_each() -> None:
    assert maximal_subtrees(8, 0, 4) == [(0, 4)]
    assert maximal_subtrees(8, 6, 8) == [(6, 8)]
    assert maximal_subtrees(8, 3, 6) == [(3, 4), (4, 6)]
    assert children((0, 5)) == ((0, 3), (3, 5))


def test_bad_ranges_are_value_errors() -> None:
    with pytest.raises(ValueError, match="no children"):
        children((3, 4))
    with pytest.raises(ValueError, match="outside"):
        maximal_subtrees(4, 2, 5)
    with pytest.raises(ValueError, match="slot 1 has no value"):
        reduce_tree((0, 2), {(0, 1): 1}.get, lambda a, b: a + b)
