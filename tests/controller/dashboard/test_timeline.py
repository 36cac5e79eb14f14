from __future__ import annotations

from typing import Any

import pytest

from controller.core import attempts
from controller.dashboard import timeline


def attempt(number: int, start: float, end: float | None, *marks: float) -> dict[str, Any]:
    span = {"phase": "running", "generation": number, "started_at": start, "ended_at": end}
    return {
        "attempt": number,
        "started_at": start,
        "ended_at": end,
        "outcome": "requeued" if end else None,
        "spans": [span],
        "marks": [
            {"time": time, "kind": "job.recovering", "generation": number, "message": "lost"}
            for time in marks
        ],
    }


def labels(row: dict[str, Any]) -> list[str]:
    return [label["text"] for label in row["labels"]]


def test_no_attempt_is_drawn_before_the_first() -> None:
    assert timeline.drawn([], 10.0) is None


def test_attempts_share_one_axis_that_ends_now() -> None:
    drawn = timeline.drawn([attempt(1, 1000.0, 1050.0), attempt(2, 1075.0, None)], 1100.0)
    assert drawn is not None
    first, second = (row["spans"][0] for row in drawn["rows"])
    assert (first["x"], first["width"]) == (0.0, 50.0)
    assert (second["x"], second["width"]) == (75.0, 25.0)
    assert [row["outcome"] for row in drawn["rows"]] == ["requeued", "goes on"]
    assert [(tick["x"], tick["text"]) for tick in drawn["ticks"]] == [
        (0.0, "0"),
        (30.0, "30 s"),
        (60.0, "1 min"),
        (90.0, "1.5 min"),
    ]


def test_axis_of_a_job_that_has_ended_ends_with_it() -> None:
    drawn = timeline.drawn([attempt(1, 1000.0, 1050.0)], 9000.0)
    assert drawn is not None and drawn["rows"][0]["spans"][0]["width"] == 100.0


def test_marks_are_numbered_through_and_close_ones_share_a_label() -> None:
    marked = [attempt(1, 0.0, 50.0, 10.0, 40.0, 41.0, 50.0), attempt(2, 50.0, None, 80.0)]
    drawn = timeline.drawn(marked, 100.0)
    assert drawn is not None
    assert [labels(row) for row in drawn["rows"]] == [["1", "2\N{EN DASH}3", "4"], ["5"]]
    assert [mark["number"] for mark in drawn["marks"]] == [1, 2, 3, 4, 5]
    assert [mark["after"] for mark in drawn["marks"]] == [10.0, 40.0, 41.0, 50.0, 80.0]


def test_only_the_newest_attempts_and_marks_are_drawn() -> None:
    many = [attempt(n, 10.0 * n, 10.0 * n + 9, 10.0 * n + 1, 10.0 * n + 5) for n in range(30)]
    drawn = timeline.drawn(many, 300.0)
    assert drawn is not None
    assert len(drawn["rows"]) == timeline.MOST_ATTEMPTS
    assert drawn["hidden_attempts"] == 30 - timeline.MOST_ATTEMPTS
    assert len(drawn["marks"]) == timeline.MOST_MARKS
    assert drawn["hidden_marks"] == 60 - timeline.MOST_MARKS
    assert labels(drawn["rows"][-1]) == [
        f"{timeline.MOST_MARKS - 1}\N{EN DASH}{timeline.MOST_MARKS}"
    ]


@pytest.mark.parametrize("length", [0.0, 0.5, 7.0, 59.0, 3600.0, 1e5, 1e6, 1e7, 1e9])
def test_axis_has_a_few_ticks_however_long_it_is(length: float) -> None:
    drawn = timeline.drawn([attempt(1, 0.0, length)], length)
    assert drawn is not None
    assert 1 <= len(drawn["ticks"]) <= 2 * timeline.MOST_TICKS + 1
    assert all(0.0 <= tick["x"] <= 100.0 for tick in drawn["ticks"])


def test_every_mark_of_a_journal_has_a_sign() -> None:
    assert set(timeline.SIGNS) == attempts.MARKS
