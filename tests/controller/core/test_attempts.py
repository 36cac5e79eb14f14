from __future__ import annotations

from typing import Any

from controller.core.attempts import KINDS, attempts
from tests.controller.core.test_account import Course
from tests.controller.core.test_saving import saves
from tests.controller.core.test_training import POLICY
from tests.controller.core.world import ref


def journal(course: Course) -> list[dict[str, Any]]:
    """What the store keeps of the job from now on."""
    kept: list[dict[str, Any]] = []

    def keep(_before: object, _event: object, outcome: Any) -> None:
        for entry in outcome.entries:
            if entry.kind in KINDS:
                told = {"kind": entry.kind, "message": entry.message, "data": entry.data}
                kept.append({**told, "time": course.world.now})

    course.world.observers.append(keep)
    return kept


def admitted(**data: Any) -> dict[str, Any]:
    return {"kind": "job.admitted", "time": 1000.0, "message": "", "data": data}


STARTED = {"kind": "job.started", "time": 1005.0, "message": "", "data": {"step": 0, "attempt": 1}}


def spans(attempt: dict[str, Any]) -> list[tuple[str, int, float, float | None]]:
    return [
        (span["phase"], span["generation"], span["started_at"], span["ended_at"])
        for span in attempt["spans"]
    ]


def test_journal_without_an_admission_has_no_attempt() -> None:
    assert attempts([]) == []
    assert attempts([{"kind": "job.cancelled", "time": 1.0, "message": "", "data": {}}]) == []


def test_attempt_that_runs_goes_on_until_it_ends() -> None:
    begun = [admitted(attempt=1, generation=1), STARTED]
    (attempt,) = attempts(begun)
    assert (attempt["attempt"], attempt["ended_at"], attempt["outcome"]) == (1, None, None)
    assert spans(attempt) == [("startup", 1, 1000.0, 1005.0), ("running", 1, 1005.0, None)]
    end = {"kind": "job.succeeded", "time": 1100.0, "message": "", "data": {}}
    (attempt,) = attempts([*begun, end])
    assert (attempt["outcome"], attempt["ended_at"]) == ("succeeded", 1100.0)
    assert spans(attempt)[-1] == ("running", 1, 1005.0, 1100.0)


def test_admission_that_does_not_say_which_attempt_it_is_is_the_next() -> None:
    end = {"kind": "job.failed", "time": 1100.0, "message": "", "data": {}}
    found = attempts([admitted(), end, end, admitted()])
    assert [attempt["attempt"] for attempt in found] == [1, 2]
    # Somebody wanted it tried again: nothing is recovered from.
    assert spans(found[1])[0][0] == "startup"


def test_loss_of_a_pod_is_a_mark_and_a_new_generation() -> None:
    course = Course(on_pod_loss="wait")
    kept = [admitted(attempt=1, generation=1), STARTED, *(later := journal(course))]
    course.steps(1, 4)
    course.world.loses("pod-1")
    course.world.hold(ref("pod-0"), 4)
    course.passes(9.0)
    course.world.pod_joins("pod-1", incarnation="b")
    course.passes(1.0)
    course.goes_on()
    (attempt,) = attempts([*kept, *later])
    assert spans(attempt)[1:] == [
        ("running", 1, 1005.0, 1007.0),
        ("recovery", 1, 1007.0, 1016.0),
        ("recovery", 2, 1016.0, 1017.0),
        ("running", 2, 1017.0, None),
    ]
    marks = [(mark["kind"], mark["generation"], mark["time"]) for mark in attempt["marks"]]
    assert marks == [("job.recovering", 1, 1007.0), ("job.recovered", 2, 1017.0)]
    assert "was lost at step 4" in attempt["marks"][0]["message"]


def test_rewind_is_a_mark_and_a_new_generation() -> None:
    course = Course(checkpoint_every=4, spikes=POLICY)
    kept = journal(course)
    course.steps(1, 16, loss=2.0)
    saves(course.world, 16)
    course.steps(17, 17, loss=9.0)
    course.goes_on()
    (attempt,) = attempts([admitted(attempt=1, generation=1), STARTED, *kept])
    assert [span[:2] for span in spans(attempt)[1:]] == [
        ("running", 1),
        ("recovery", 2),
        ("running", 2),
    ]
    assert [mark["kind"] for mark in attempt["marks"]] == ["spike.rewound"]


def test_gang_that_is_lost_as_a_whole_begins_another_attempt_in_recovery() -> None:
    course = Course(on_pod_loss="wait")
    kept = journal(course)
    course.steps(1, 4)
    for pod in ("pod-0", "pod-1"):
        course.world.loses(pod)
    course.passes(10.0)
    for pod in ("pod-0", "pod-1"):
        course.world.pod_joins(pod, incarnation="b")
    course.gets_ready()
    first, second = attempts([admitted(attempt=1, generation=1), STARTED, *kept])
    assert (first["outcome"], first["ended_at"]) == ("requeued", 1007.0)
    assert first["marks"][-1]["kind"] == "job.requeued"
    assert second["attempt"] == 2 and second["started_at"] == 1017.0
    assert spans(second) == [("recovery", 2, 1017.0, 1022.0), ("running", 2, 1022.0, None)]
