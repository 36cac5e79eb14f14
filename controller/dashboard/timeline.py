"""Attempts of a job on an axis of time: where every span and mark is drawn, in percent of its
width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.dashboard import figures

Document = dict[str, Any]

MOST_ATTEMPTS = 8
MOST_MARKS = 20
"""Shown, the newest; the API has all."""

MOST_TICKS = 5

APART = 4.0
"""Percent between the numbers of two marks: 14 pixels on a phone, two digits wide. Closer ones
share a label."""

_ROUND_SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200),
    *(86_400, 172_800, 604_800, 1_209_600, 2_592_000),
)

SIGNS = {
    "job.recovering": "lost",
    "job.growing": "more",
    "job.recovered": "again",
    "job.taken_over": "again",
    "spike.rewound": "spike",
    "job.requeued": "lost",
    "checkpoint.damaged": "lost",
    "job.awaited": "away",
    "job.failed": "lost",
}
"""How a mark looks, by what happened."""


def drawn(attempts: Sequence[Mapping[str, Any]], now: float) -> Document | None:
    """What the job page draws of documents of attempts; None before the first one. What goes on
    still ends now."""
    if not attempts:
        return None
    first = attempts[0]["started_at"]
    last = attempts[-1]["ended_at"]
    length = max((now if last is None else last) - first, 1e-3)
    marks = [mark for attempt in attempts for mark in attempt["marks"]]
    hidden = max(0, len(marks) - MOST_MARKS)
    shown = list(attempts[-MOST_ATTEMPTS:])
    number, rows = 1 - hidden, []
    for attempt in attempts:
        if attempt in shown:
            rows.append(_row(attempt, number, first, length, now))
        number += len(attempt["marks"])
    return {
        "rows": rows,
        "hidden_attempts": len(attempts) - len(shown),
        "ticks": _ticks(length),
        "marks": [
            {**mark, "number": number, "after": mark["time"] - first, "sign": SIGNS[mark["kind"]]}
            for number, mark in enumerate(marks[hidden:], 1)
        ],
        "hidden_marks": hidden,
    }


def _row(
    attempt: Mapping[str, Any], first_number: int, first: float, length: float, now: float
) -> Document:
    ended = now if attempt["ended_at"] is None else attempt["ended_at"]
    numbered = [
        (100 * (mark["time"] - first) / length, number, SIGNS[mark["kind"]])
        for number, mark in enumerate(attempt["marks"], first_number)
        if number > 0
    ]
    return {
        "attempt": attempt["attempt"],
        "outcome": attempt["outcome"] or "goes on",
        "seconds": max(0.0, ended - attempt["started_at"]),
        "spans": [_span(span, first, length, now) for span in attempt["spans"]],
        "marks": [{"x": x, "sign": sign} for x, _, sign in numbered],
        "labels": _labels([(x, number) for x, number, _ in numbered]),
    }


def _span(span: Mapping[str, Any], first: float, length: float, now: float) -> Document:
    end = now if span["ended_at"] is None else span["ended_at"]
    seconds = max(0.0, end - span["started_at"])
    return {
        "phase": span["phase"],
        "x": 100 * (span["started_at"] - first) / length,
        "width": 100 * seconds / length,
        "title": f"{span['phase']}, generation {span['generation']}: {figures.duration(seconds)}",
    }


def _labels(marks: Sequence[tuple[float, int]]) -> list[Document]:
    """Numbers over the marks; one label for those that would run into each other."""
    groups: list[list[tuple[float, int]]] = []
    for mark in marks:
        if groups and mark[0] - groups[-1][0][0] < APART:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return [
        {
            "x": min(group[0][0], 97.0),
            "text": str(group[0][1])
            if len(group) == 1
            else f"{group[0][1]}\N{EN DASH}{group[-1][1]}",
        }
        for group in groups
    ]


def _ticks(length: float) -> list[Document]:
    """Round times since the first admission."""
    step = next((s for s in _ROUND_SECONDS if length / s <= MOST_TICKS), _ROUND_SECONDS[-1])
    count = min(int(length / step), 2 * MOST_TICKS) if length >= 1 else 0
    return [
        {"x": 100 * number * step / length, "text": _since(number * step)}
        for number in range(count + 1)
    ]


def _since(seconds: int) -> str:
    if seconds == 0:
        return "0"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s" if seconds < 60 else f"{seconds / 60:g} min"
