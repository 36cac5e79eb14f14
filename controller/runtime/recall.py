"""A job as its rows tell it to a restarted controller: what was decided, and how far it came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controller.core.batch import BatchPhase, Range
from controller.core.checkpoint import Checkpoints, Origin, Saved
from controller.core.choosing import Candidate, Choice, ChoicePolicy, Departure
from controller.core.exchange import ExchangeRule
from controller.core.job import Job, JobSpec, JobState, Reason
from controller.core.sources import DataSource
from controller.core.spikes import SpikePolicy
from controller.core.step import Progress, StepRecord, Totals

Document = dict[str, Any]

_MAY_BE_INFINITE = ("loss", "learning_rate")
"""Absent from a step document where they were no finite numbers."""


def recall(row: Mapping[Any, Any], newest: Document | None) -> Job:
    """The job of a row of the jobs table. `newest` is the document of the last step of its present
    generation, for a job that is being cancelled; all others start over and have come nowhere."""
    document = row["document"]
    job = Job(
        id=row["id"],
        spec=_spec(row["spec"]),
        state=JobState(row["state"]),
        reason=Reason(document["reason"]["code"], document["reason"]["message"]),
        created_at=row["created_at"],
        attempt=row["attempt"],
        generation=row["generation"],
        **_course(row["course"]),
    )
    if job.state is not JobState.CANCELLING:
        return job
    return dataclasses.replace(
        job,
        admitted_at=document["admitted_at"],
        started_at=document["started_at"],
        progress=_progress(job, document, newest) if newest is not None else None,
    )


def course_document(job: Job) -> Document:
    """What was decided about the course of a job and must outlive the controller."""
    return {
        "checkpoints": [dataclasses.asdict(saved) for saved in job.checkpoints.saved],
        "skipped": job.skipped,
        "rewinds": job.rewinds,
        "candidate": job.choosing.index if job.choosing else None,
        "data_digest": job.data_digest,
        "sources": [dataclasses.asdict(source) for source in job.sources],
    }


def _course(document: Document) -> dict[str, Any]:
    """Fields of Job. A row written before there were courses has none."""
    saved = [
        Saved(**{**fields, "losses": tuple(fields["losses"])})
        for fields in document.get("checkpoints", ())
    ]
    return {
        "checkpoints": Checkpoints(tuple(saved)),
        "skipped": _ranges(document.get("skipped", ())),
        "rewinds": document.get("rewinds", 0),
        "choosing": _choosing(document.get("candidate")),
        "data_digest": document.get("data_digest"),
        "sources": tuple(DataSource(**fields) for fields in document.get("sources", ())),
    }


def _choosing(candidate: int | None) -> Choice | None:
    """What was measured is of a generation that is over."""
    return Choice(candidate) if candidate is not None else None


def _spec(document: Document) -> JobSpec:
    """JSON knows neither tuples nor what the nested sections are."""
    nested: dict[str, Any] = {"phases": tuple(BatchPhase(**phase) for phase in document["phases"])}
    if document.get("exchange"):
        nested["exchange"] = ExchangeRule(**document["exchange"])
    if document.get("choice"):
        nested["choice"] = _policy(document["choice"])
    if document.get("spikes"):
        nested["spikes"] = SpikePolicy(**document["spikes"])
    if document.get("origin"):
        origin = document["origin"]
        listed = {"losses": tuple(origin["losses"]), "skipped": _ranges(origin["skipped"])}
        nested["origin"] = Origin(**{**origin, **listed})
    return JobSpec(**{**document, **nested})


def _policy(document: Document) -> ChoicePolicy:
    candidates = tuple(
        Candidate(
            ExchangeRule(**fields["rule"]),
            tuple(Departure(**departure) for departure in fields["departures"]),
        )
        for fields in document["candidates"]
    )
    return ChoicePolicy(candidates, document["budget"])


def _ranges(pairs: Iterable[Sequence[int]]) -> tuple[Range, ...]:
    return tuple((first, end) for first, end in pairs)


def _progress(job: Job, document: Document, newest: Document) -> Progress:
    """Sums are those at the decision to cancel; the pods let go within a step or two of it."""
    spent = document["time_seconds"]
    exposed, data_wait = document["exposed_seconds"], spent["data_wait"]
    pause = spent["evaluation_and_checkpoint"]
    totals = Totals(
        seconds=spent["compute"] + exposed + data_wait + pause,
        exposed_seconds=exposed,
        hidden_seconds=document.get("hidden_seconds") or 0.0,
        data_wait_seconds=data_wait,
        pause_seconds=pause,
        link_bytes=document["link_bytes"],
        float32_bytes=document.get("float32_bytes") or 0,
        link_retries=document.get("link_retries") or 0,
        rework_seconds=spent["rework"],
        recovery_seconds=spent["recovery"],
    )
    return Progress(
        target_steps=document["target_steps"],
        merged=newest["step"],
        last=_record(newest),
        residual_norm=document.get("residual_norm"),
        source_sequences={"": _seen(job, document)},
        totals=totals,
    )


def _seen(job: Job, document: Document) -> tuple[int, ...]:
    """Sequences of every source; none where that was not known."""
    told = [source["seen_tokens"] for source in (document.get("data") or {}).get("sources", ())]
    return () if None in told else tuple(n // job.spec.sequence_length for n in told)


def _record(document: Document) -> StepRecord:
    names = {field.name for field in dataclasses.fields(StepRecord)} & set(document)
    fields = {name: document[name] for name in names}
    unknown = {name: math.nan for name in _MAY_BE_INFINITE if fields[name] is None}
    return StepRecord(**{**fields, **unknown})
