"""From a valid specification to what the core decides from.

Everything is written out: what the lowerer and the hosts get does not depend on defaults that a
later version may change. Two specifications that mean the same give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from controller.api.spec import Placement, PodRange, Spec
from controller.api.validation import pod_range
from controller.core.batch import BatchPhase
from controller.core.checkpoint import Origin
from controller.core.choosing import DEFAULT_BUDGET, Candidate, ChoicePolicy, Departure
from controller.core.exchange import ExchangeRule
from controller.core.job import JobSpec
from controller.core.spikes import SpikePolicy
from model import overlap
from model.config import AdafactorConfig, ModelConfig, optimizer_from_spec
from model.outer_config import OUTER_MODES, OuterConfig
from model.planner import LINK_ITEM_BYTES
from model.segments import segment_count

DEFAULT_WAIT_TIMEOUT = "10m"
"""A machine that boots or pulls an image is back within minutes; waiting pods are idle."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def job_spec(spec: Spec, text: str, origin: Origin | None = None) -> JobSpec:
    """The core's specification; `text` is the document as submitted, `origin` the checkpoint that
    checkpoint.resume_from names."""
    normalised = normalise(spec)
    checkpoint = spec.checkpoint
    train, mesh = normalised["train"], normalised["placement"]["mesh"]
    fewest, most = pod_range(spec.placement)
    request = {
        "model": normalised["model"],
        "train": {key: train[key] for key in ("microbatch", "sequence_length", "optimizer")},
        "mesh": mesh,
        "exchange": _program_exchange(normalised["exchange"]),
        # Of the program, not of the job: two jobs of one kind share a bundle.
        "name": "palm",
    }
    return JobSpec(
        name=spec.name,
        steps=spec.train.steps,
        phases=tuple(
            BatchPhase(first_step, batch // spec.train.microbatch)
            for first_step, batch in batch_phases(spec)
        ),
        microbatch=spec.train.microbatch,
        sequence_length=spec.train.sequence_length,
        digest_every=spec.train.digest_every,
        seed=spec.train.seed,
        min_pods=fewest,
        max_pods=most,
        devices_per_pod=mesh["data"] * mesh["model"],
        compute_dtype=normalised["model"]["compute_dtype"],
        program_request=_canonical(request),
        data=_canonical(_data(normalised)),
        checkpoint_every=checkpoint.every if checkpoint else 0,
        checkpoint_keep=checkpoint.keep if checkpoint else 0,
        checkpoint_keep_every=(checkpoint and checkpoint.keep_every) or 0,
        checkpoint_keep_best=bool(checkpoint and checkpoint.keep_best),
        checkpoint_directory=(checkpoint and checkpoint.directory) or "",
        evaluate_every=spec.train.eval.every if spec.train.eval else 0,
        exchange=exchange_rule(spec),
        choice=_choice(spec, normalised["exchange"]) if spec.exchange.mode == "auto" else None,
        spikes=SpikePolicy(**train["spikes"]) if spec.train.spikes else None,
        on_pod_loss=spec.placement.on_pod_loss,
        least_pods=_least_pods(spec.placement),
        wait_timeout=seconds_of(spec.placement.wait_timeout or DEFAULT_WAIT_TIMEOUT),
        origin=origin,
        document=json.dumps({"text": text, "normalised": normalised}),
        queue=spec.queue,
        priority=spec.priority,
        labels=dict(spec.labels),
    )


def seconds_of(duration: str) -> float:
    """Of a number with its unit, such as 90s or 10m."""
    number = duration.rstrip("".join(_UNIT_SECONDS))
    return int(number) * _UNIT_SECONDS[duration.removeprefix(number)]


def _least_pods(placement: Placement) -> int:
    """A number is what a job starts with; it may go on with any. A range holds all the time."""
    return placement.pods.min if isinstance(placement.pods, PodRange) else 1


def exchange_rule(spec: Spec, dtype: str | None = None) -> ExchangeRule:
    """How a job exchanges, in the dtype that it says, or in another."""
    section = spec.exchange
    return ExchangeRule(
        # What auto chooses from are ways of a full exchange.
        mode="full" if section.mode == "auto" else section.mode,
        dtype=dtype or section.dtype,
        rounding=section.rounding,
        error_feedback=section.error_feedback,
        overlap=section.overlap,
        reproducible=section.reproducible,
    )


def _choice(spec: Spec, exchange: dict[str, Any]) -> ChoicePolicy:
    """From the normalised section of an exchange whose dtype is chosen."""
    model = ModelConfig.from_spec(spec.model)
    ready = overlap.departures(model, spec.train.sequence_length, exchange["segments"])
    return ChoicePolicy(
        tuple(
            Candidate(
                exchange_rule(spec, dtype),
                tuple(
                    Departure(each.ready, each.remaining * LINK_ITEM_BYTES[dtype]) for each in ready
                ),
            )
            for dtype in ("float32", *exchange["allow"])
        ),
        exchange["budget"],
    )


def normalise(spec: Spec) -> dict[str, Any]:
    """The specification with every default written out."""
    document = spec.model_dump(mode="json", exclude_none=True)
    model = ModelConfig.from_spec(spec.model)
    document["model"] = dataclasses.asdict(model)
    placement = document["placement"]
    if placement["on_pod_loss"] != "fail":
        placement.setdefault("wait_timeout", DEFAULT_WAIT_TIMEOUT)
    exchange = document["exchange"]
    exchange.setdefault("segments", segment_count(model))
    if spec.exchange.mode == "auto":
        _normalise_auto(exchange)
    elif spec.exchange.mode in OUTER_MODES or spec.exchange.dtype != "float32":
        # Nothing depends on it there, and to ask for it is an error.
        del exchange["reproducible"]
    outer = OuterConfig.from_spec(exchange, model.num_layers)
    if outer is not None:
        exchange["outer"] = dataclasses.asdict(outer)
    document["train"]["optimizer"] = _optimizer(spec)
    evaluate = document["train"].get("eval", {})
    for sources in (document["data"]["sources"], evaluate.get("sources", ())):
        for index, source in enumerate(sources):
            source.setdefault("name", f"source-{index}")
    return document


def _normalise_auto(exchange: dict[str, Any]) -> None:
    """What is allowed in the order in which it is preferred, and nothing that contradicts it."""
    exchange.setdefault("budget", DEFAULT_BUDGET)
    given = exchange.get("allow", ())
    exchange["allow"] = [dtype for dtype in ("bfloat16", "int8") if dtype in given]
    del exchange["dtype"]
    if given and exchange["reproducible"]:
        del exchange["reproducible"]


def batch_phases(spec: Spec) -> list[tuple[int, int]]:
    """(first step, sequences per step), ascending, from step 1 on."""
    batch = spec.train.global_batch
    schedule = [(0, batch)] if isinstance(batch, int) else batch
    return [(after + 1, sequences) for after, sequences in schedule]


def _data(normalised: dict[str, Any]) -> dict[str, Any]:
    """What the hosts get. They know no model, and must refuse a tokenizer too large for it."""
    data = {**normalised["data"], "vocab_size": normalised["model"]["vocab_size"]}
    evaluate = normalised["train"].get("eval")
    if evaluate:
        data["eval"] = {key: value for key, value in evaluate.items() if key != "every"}
    return data


def _program_exchange(exchange: dict[str, Any]) -> dict[str, Any]:
    """What of the exchange the program is made for, from the normalised section."""
    fields = ("segments", "mode", "outer") if "outer" in exchange else ("segments",)
    return {field: exchange[field] for field in fields}


def _optimizer(spec: Spec) -> dict[str, Any]:
    optimizer = optimizer_from_spec(spec.train.optimizer)
    kind = "adafactor" if isinstance(optimizer, AdafactorConfig) else "adamw"
    return {"kind": kind, **dataclasses.asdict(optimizer)}


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
