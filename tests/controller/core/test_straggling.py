from __future__ import annotations

import pytest

from controller.core import exposure
from controller.core.straggling import JUDGED_STEPS, Straggler, judge, recorded
from tests.controller.core.world import World, ref

EVEN = (0.5,) * JUDGED_STEPS


def test_last_steps_are_kept_of_the_same_pods() -> None:
    paces = recorded({}, {"a": 1.0, "b": 2.0})
    for _ in range(JUDGED_STEPS):
        paces = recorded(paces, {"a": 3.0, "b": 4.0})
    assert paces == {"a": (3.0,) * JUDGED_STEPS, "b": (4.0,) * JUDGED_STEPS}
    assert recorded(paces, {"a": 1.0}) == {"a": (1.0,)}


def test_pod_that_is_slower_step_after_step_is_one() -> None:
    found = judge({"a": EVEN, "b": (0.7,) * JUDGED_STEPS, "c": EVEN}, "")
    assert found == Straggler("b", 0.7, 0.5) and isinstance(found, Straggler)
    assert str(found) == (
        "b takes 700 ms for a slot and the others 500 ms, 1.40 times as long, over 32 steps"
    )


@pytest.mark.parametrize(
    "paces",
    [
        {"a": EVEN},
        {"a": EVEN, "b": (0.7,) * (JUDGED_STEPS - 1)},
        {"a": EVEN, "b": (0.6,) * JUDGED_STEPS},
        # Slow in turn: by the median one of them is, but not in nearly all steps.
        {"a": (0.5, 0.9, 0.5, 0.5) * 8, "b": (0.7, 0.7, 0.7, 0.7) * 8},
        {"a": (0.0,) * JUDGED_STEPS, "b": EVEN},
    ],
)
def test_there_is_none(paces: dict[str, tuple[float, ...]]) -> None:
    assert judge(paces, "") == ""


def test_who_was_called_one_is_until_it_is_even_again() -> None:
    assert judge({"a": EVEN, "b": (0.56,) * JUDGED_STEPS}, "b") == "b"
    assert judge({"a": EVEN, "b": (0.54,) * JUDGED_STEPS}, "b") == ""
    assert judge({"a": EVEN, "b": EVEN[1:]}, "b") == "b"
    assert judge({"a": EVEN}, "b") == ""


def test_people_are_told_who_it_is_and_when_it_is_over() -> None:
    world = World()
    for index in range(3):
        world.pod_joins(f"pod-{index}")
    world.start(steps=200, min_pods=3, max_pods=3)
    # Four slots over three pods: one has two, and may take twice as long.
    slots = world.job().slots(1)
    assert sorted(slots.values()) == [1, 1, 2]
    told: list[tuple[str, str | None]] = []
    for number in range(1, 2 * JUDGED_STEPS + 2):
        slow = 2.0 if number <= JUDGED_STEPS else 1.0
        for pod, count in slots.items():
            factor = slow if pod == "pod-1" else 1.0
            world.apply(ref(pod), [number], seconds=0.5 * count * factor, exposed_seconds=0.0)
            told += [(e.kind, e.pod) for e in world.outcome.entries if e.kind.startswith("pod.")]
        if number == JUDGED_STEPS:
            assert told == [("pod.straggles", "pod-1")]
            (warned,) = exposure.warnings(world.job(), world.state.pods)
            assert warned.code == "Straggler" and "landbridge drain pod-1" in warned.hint
    assert told[1:] == [("pod.keeps_up", "pod-1")]
    assert exposure.warnings(world.job(), world.state.pods) == []
