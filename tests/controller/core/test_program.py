from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.program import num_subtrees, slot_ranges
from model.slot_tree import part_sizes


@pytest.mark.parametrize(
    ("num_slots", "num_pods", "ranges"),
    [
        (1, 1, ((0, 1),)),
        (4, 2, ((0, 2), (2, 4))),
        (8, 3, ((0, 2), (2, 5), (5, 8))),
        (3, 3, ((0, 1), (1, 2), (2, 3))),
    ],
)
def test_slots_are_cut_over_pods(
    num_slots: int, num_pods: int, ranges: tuple[tuple[int, int], ...]
) -> None:
    assert slot_ranges(num_slots, num_pods) == ranges


@pytest.mark.parametrize(("num_slots", "num_pods"), [(2, 3), (4, 0), (0, 1)])
def test_slots_that_do_not_suffice_are_refused(num_slots: int, num_pods: int) -> None:
    with pytest.raises(ValueError, match=f"{num_slots} slots cannot be cut over {num_pods} pods"):
        slot_ranges(num_slots, num_pods)


@given(st.data(), st.integers(1, 4096))
def test_ranges_cover_every_slot_once_and_are_even(draw: st.DataObject, num_slots: int) -> None:
    num_pods = draw.draw(st.integers(1, num_slots))
    ranges = slot_ranges(num_slots, num_pods)
    assert [slot for first, end in ranges for slot in range(first, end)] == list(range(num_slots))
    sizes = [end - first for first, end in ranges]
    assert len(sizes) == num_pods and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9))
def test_powers_of_two_cut_on_nodes_of_the_slot_tree(pods: int, more: int, odd: int) -> None:
    """Recursive halving of the slots puts a node at every multiple of a pod's share."""
    num_pods, num_slots = 2**pods, 2 ** (pods + more) * odd
    share = num_slots // num_pods
    assert slot_ranges(num_slots, num_pods) == tuple(
        (i * share, (i + 1) * share) for i in range(num_pods)
    )


@given(st.data(), st.integers(1, 64))
def test_subtrees_are_those_that_plans_count(draw: st.DataObject, num_slots: int) -> None:
    first = draw.draw(st.integers(0, num_slots - 1))
    end = draw.draw(st.integers(first + 1, num_slots))
    assert num_subtrees(num_slots, first, end) == len(part_sizes(num_slots, first, end))
