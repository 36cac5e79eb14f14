"""A job as its rows tell it to a restarted controller: what was decided, and how far it came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controller.core.account import Account, Phase
from controller.core.batch import BatchPhase, Range
from controller.core.checkpoint import Checkpoints, Origin, Saved
from controller.core.choosing import Candidate, Choice, ChoicePolicy, Departure
from controller.core.evaluation import Evaluation, Evaluations
from controller.core.exchange import ExchangeRule
from controller.core.job import Begun, Divergence, Healing, Job, JobSpec, JobState, Reason, Setbacks
from controller.core.program import Program
from controller.core.record import StepRecord
from controller.core.sources import DataSource
from controller.core.spikes import Spike, SpikePolicy
from controller.core.step import Progress, taken_over
from controller.core.totals import Durations, Totals, durations

Document = dict[str, Any]

_DURATIONS = ("timeline", "undone", "rerun")
"""Fields of Totals."""

_MAY_BE_INFINITE = ("loss", "learning_rate")
"""Absent from a step document where they were no finite numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class OnRecord:
    """The steps of a job that are in the store."""

    newest: Sequence[Document]
    """Documents, oldest first, from that of the newest checkpoint on."""
    sums: Mapping[str, float]
    """By field, over those since the job was last decided about."""


_RECOVERABLE = frozenset({JobState.RUNNING, JobState.RECOVERING})
"""States in which hosts have a state that the controller does not."""


NEEDS_STEPS = _RECOVERABLE | {JobState.CANCELLING}
"""States in which `recall` looks at the steps on record."""


def recall(row: Mapping[Any, Any], on_record: OnRecord) -> Job:
    """The job of a row of the jobs table, with what it came to, where hosts may go on with it, or
    where it is being cancelled and people want to know."""
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
    job = dataclasses.replace(job, admitted_at=document.get("admitted_at"))
    if job.state is JobState.PENDING:
        return job
    job = dataclasses.replace(job, started_at=document["started_at"])
    if job.state in _RECOVERABLE:
        flops, decided = document["flops"], row["course"].get("merged", 0)
        return dataclasses.replace(
            job,
            progress=_taken_over(job, document, on_record, decided),
            peak_flops_per_second=flops["peak_flops_per_second"],
            peak_source=flops["peak_source"],
        )
    if job.state is JobState.CANCELLING and on_record.newest:
        progress = _progress(job, document, on_record.newest[-1])
        return dataclasses.replace(job, progress=progress)
    return job


def course_document(job: Job) -> Document:
    """What was decided about the course of a job and must outlive the controller."""
    return {
        "checkpoints": [dataclasses.asdict(saved) for saved in job.checkpoints.saved],
        "skipped": job.skipped,
        "rewinds": job.rewinds,
        "candidate": job.choosing.index if job.choosing else None,
        "chosen_for_step": job.choosing.first_step if job.choosing else None,
        "evaluation": dataclasses.asdict(newest) if (newest := job.evaluations.newest) else None,
        "gang": job.gang,
        "program": dataclasses.asdict(job.program) if job.program else None,
        "healing": dataclasses.asdict(job.healing) if job.healing else None,
        "divergence": dataclasses.asdict(job.divergence) if job.divergence else None,
        "setbacks": dataclasses.asdict(job.setbacks),
        "spike": dataclasses.asdict(job.spike) if job.spike else None,
        "merged": job.progress.merged if job.progress else 0,
        "account": dataclasses.asdict(dataclasses.replace(job.account, totals=job.totals)),
        "data_digest": job.data_digest,
        "sources": [dataclasses.asdict(source) for source in job.sources],
    }


def _course(document: Document) -> dict[str, Any]:
    """Fields of Job. A row written before there were courses has none."""
    saved = [
        Saved(
            **{
                **fields,
                "losses": tuple(fields["losses"]),
                "timeline": Durations(**fields.get("timeline", {})),
            }
        )
        for fields in document.get("checkpoints", ())
    ]
    program, spike = document.get("program"), document.get("spike")
    evaluation = document.get("evaluation")
    return {
        "checkpoints": Checkpoints(tuple(saved)),
        "losses": saved[-1].losses if saved else (),
        "skipped": _ranges(document.get("skipped", ())),
        "rewinds": document.get("rewinds", 0),
        "choosing": _choosing(document.get("candidate"), document.get("chosen_for_step")),
        "evaluations": _evaluations(Evaluation(**evaluation) if evaluation else None),
        "gang": tuple(document.get("gang", ())),
        "program": Program(**program) if program else None,
        "healing": _healing(document.get("healing")),
        "divergence": Divergence(**differed) if (differed := document.get("divergence")) else None,
        "setbacks": Setbacks(**document.get("setbacks", {})),
        "account": _account(document.get("account", {})),
        "spike": Spike(**spike) if spike else None,
        "data_digest": document.get("data_digest"),
        "sources": tuple(DataSource(**fields) for fields in document.get("sources", ())),
    }


def _account(document: Document) -> Account:
    totals = document.get("totals", {})
    sums = {name: Durations(**totals[name]) for name in _DURATIONS if name in totals}
    phase = document.get("phase")
    nested = {"phase": Phase(phase) if phase else None, "totals": Totals(**{**totals, **sums})}
    return Account(**{**document, **nested})


def _choosing(candidate: int | None, first_step: int | None) -> Choice | None:
    """Without what was measured."""
    return Choice(candidate, first_step or 1) if candidate is not None else None


def _evaluations(newest: Evaluation | None) -> Evaluations:
    return Evaluations(complete={newest.step: newest} if newest else {})


def _healing(document: Document | None) -> Healing | None:
    if document is None:
        return None
    begun = document["begun"]
    nested = {
        "cause": Reason(**document["cause"]),
        "begun": Begun(begun["state_sha256"], tuple(begun["lacking"])) if begun else None,
    }
    return Healing(**{**document, **nested})


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


def _taken_over(job: Job, document: Document, on_record: OnRecord, decided: int) -> Progress:
    """Sums are those of the last decision, which was made after step `decided`, and of the steps
    since. Of those that had been run before, as many are known as `newest` has."""
    records = [record_of(step) for step in on_record.newest]
    merged = records[-1].step if records else document["step"]
    known, sums = job.account.totals, on_record.sums
    again = [r for r in records if decided < r.step <= known.furthest]
    since = Durations(**{f.name: sums.get(f.name, 0.0) for f in dataclasses.fields(Durations)})
    totals = dataclasses.replace(
        known,
        timeline=known.timeline.plus(since),
        rerun=known.rerun.plus(durations(again)),
        rerun_steps=known.rerun_steps + max(0, min(merged, known.furthest) - decided),
        furthest=max(known.furthest, merged),
        link_bytes=known.link_bytes + int(sums.get("link_bytes", 0)),
        float32_bytes=known.float32_bytes + int(sums.get("float32_bytes", 0)),
    )
    of_generation = bool(records) and on_record.newest[-1]["generation"] == job.generation
    progress = taken_over(document["target_steps"], job.gang, records, merged, totals)
    return progress if of_generation else dataclasses.replace(progress, begun_after=merged)


def _progress(job: Job, document: Document, newest: Document) -> Progress:
    """Sums are those at the decision to cancel; the pods let go within a step or two of it."""
    return Progress(
        target_steps=document["target_steps"],
        merged=newest["step"],
        last=record_of(newest),
        residual_norm=document.get("residual_norm"),
        source_sequences={"": _seen(job, document)},
        totals=job.account.totals,
    )


def _seen(job: Job, document: Document) -> tuple[int, ...]:
    """Sequences of every source; none where that was not known."""
    told = [source["seen_tokens"] for source in (document.get("data") or {}).get("sources", ())]
    return () if None in told else tuple(n // job.spec.sequence_length for n in told)


def record_of(document: Document) -> StepRecord:
    """The step of a document."""
    names = {field.name for field in dataclasses.fields(StepRecord)} & set(document)
    fields = {name: document[name] for name in names}
    unknown = {name: math.nan for name in _MAY_BE_INFINITE if fields[name] is None}
    return StepRecord(**{**fields, **unknown})
