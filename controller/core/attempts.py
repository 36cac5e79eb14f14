"""The attempts of a job, from its journal: what each was at and when, and what happened to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Document = dict[str, Any]

_PHASES: Mapping[str, str] = {
    "job.admitted": "startup",
    "job.started": "running",
    "job.recovering": "recovery",
    "job.growing": "recovery",
    "job.regrouped": "recovery",
    "job.recovered": "running",
    "spike.rewound": "recovery",
    "job.cancelling": "ending",
}
"""What a job is at after an entry of such a kind."""

_ENDS: Mapping[str, str] = {
    "job.requeued": "requeued",
    "checkpoint.damaged": "requeued",
    "job.succeeded": "succeeded",
    "job.failed": "failed",
    "job.cancelled": "cancelled",
}
"""How an attempt ends."""

MARKS = frozenset(
    {
        *("job.recovering", "job.growing", "job.recovered", "spike.rewound", "job.requeued"),
        *("checkpoint.damaged", "job.awaited", "job.taken_over", "job.failed"),
    }
)

KINDS = frozenset(_PHASES) | frozenset(_ENDS) | MARKS
"""Entries that say anything of this."""


def attempts(entries: Iterable[Mapping[str, Any]]) -> list[Document]:
    """Attempts, oldest first. `entries` are the job's, of KINDS and in order: kind, time (Unix
    seconds), message, data.

    Spans of an attempt follow each other without a gap. What goes on still has no end: None.
    """
    found: list[Document] = []
    for entry in entries:
        kind, time, data = entry["kind"], entry["time"], entry["data"]
        if kind == "job.admitted":
            found.append(_begun(data.get("attempt", len(found) + 1), time))
        elif not found or found[-1]["ended_at"] is not None:
            continue
        attempt, is_first = found[-1], len(found) == 1
        spans = attempt["spans"]
        generation = data.get("generation", spans[-1]["generation"] if spans else 0)
        if kind in MARKS:
            mark = {"time": time, "kind": kind, "generation": generation}
            attempt["marks"].append({**mark, "message": entry["message"]})
        phase = _PHASES.get(kind)
        if kind == "job.admitted" and not is_first and found[-2]["outcome"] == "requeued":
            phase = "recovery"
        if phase is not None:
            _enter(spans, phase, generation, time)
        if kind in _ENDS:
            attempt["outcome"] = _ENDS[kind]
            attempt["ended_at"] = spans[-1]["ended_at"] = time
    return found


def _begun(number: int, time: float) -> Document:
    begun: Document = {"attempt": number, "started_at": time, "ended_at": None, "outcome": None}
    return {**begun, "spans": [], "marks": []}


def _enter(spans: list[Document], phase: str, generation: int, time: float) -> None:
    """One span ends and another begins, if it is another."""
    if spans and (spans[-1]["phase"], spans[-1]["generation"]) == (phase, generation):
        return
    if spans:
        spans[-1]["ended_at"] = time
    span: Document = {"phase": phase, "generation": generation, "started_at": time}
    spans.append({**span, "ended_at": None})
