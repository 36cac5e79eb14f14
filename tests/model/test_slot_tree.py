"""The plan of the slot tree is what the workers do with it."""

import itertools

import pytest

from model.slot_tree import gradients_at_once, part_sizes
from workers.exchange.tree import maximal_subtrees, reduce_tree


def test_parts_are_those_that_workers_sum():
    for num_slots in range(1, 20):
        for first, end in itertools.combinations(range(num_slots + 1), 2):
            sizes = [b - a for a, b in maximal_subtrees(num_slots, first, end)]
            assert part_sizes(num_slots, first, end) == sizes


def most_held(pods: list[tuple[int, int]]) -> int:
    """Gradients alive in a pod when most are, by summing as the workers do."""
    num_slots = pods[-1][1]
    nodes = [maximal_subtrees(num_slots, *slots) for slots in pods]
    held = [0]

    def computed(node: tuple[int, int]) -> int | None:
        if node[1] - node[0] > 1:
            return None
        held.append(held[-1] + 1)
        return 1

    def added(left: int, right: int) -> int:
        held.append(held[-1] - 1)
        return left + right

    most = 0
    for mine in nodes:
        held[:] = [0]
        assert sum(reduce_tree(node, computed, added) for node in mine) == mine[-1][1] - mine[0][0]
        most = max(most, *held)
    return max(most, sum(map(len, nodes)))


@pytest.mark.parametrize("num_pods", [1, 2, 3, 4])
def test_gradients_at_once_are_those_that_workers_hold(num_pods: int):
    for num_slots in range(num_pods, 40):
        bounds = [round(num_slots * pod / num_pods) for pod in range(num_pods + 1)]
        pods = list(itertools.pairwise(bounds))
        assert gradients_at_once(pods) == most_held(pods), pods
