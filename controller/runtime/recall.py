"""A job as its rows tell it to a restarted controller: what was decided, and how far it came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from controller.core.checkpoint import Checkpoints, Saved
from controller.core.job import Job, JobSpec, JobState, Reason
from controller.core.step import Progress, StepRecord, Totals

Document = dict[str, Any]

_MAY_BE_INFINITE = ("loss", "grad_norm", "learning_rate")
"""Absent from a step document where they were no finite numbers."""


def recall(row: Mapping[Any, Any], newest: Document | None) -> Job:
    """The job of a row of the jobs table. `newest` is the document of the last step of its present
    generation, for a job that is being cancelled; all others start over and have come nowhere."""
    document = row["document"]
    job = Job(
        id=row["id"],
        spec=JobSpec(**row["spec"]),
        state=JobState(row["state"]),
        reason=Reason(document["reason"]["code"], document["reason"]["message"]),
        created_at=row["created_at"],
        attempt=row["attempt"],
        generation=row["generation"],
        checkpoints=Checkpoints(tuple(Saved(**saved) for saved in document.get("checkpoints", ()))),
    )
    if job.state is not JobState.CANCELLING:
        return job
    return dataclasses.replace(
        job,
        admitted_at=document["admitted_at"],
        started_at=document["started_at"],
        progress=_progress(job, document, newest) if newest is not None else None,
    )


def _progress(job: Job, document: Document, newest: Document) -> Progress:
    """Sums are those at the decision to cancel; the pods let go within a step or two of it."""
    spent = document["time_seconds"]
    exposed, data_wait = document["exposed_seconds"], spent["data_wait"]
    totals = Totals(
        spent["compute"] + exposed + data_wait, exposed, data_wait, document["link_bytes"]
    )
    return Progress(
        target_steps=job.spec.steps, merged=newest["step"], last=_record(newest), totals=totals
    )


def _record(document: Document) -> StepRecord:
    names = {field.name for field in dataclasses.fields(StepRecord)} & set(document)
    fields = {name: document[name] for name in names}
    unknown = {name: math.nan for name in _MAY_BE_INFINITE if fields[name] is None}
    return StepRecord(**{**fields, **unknown})
