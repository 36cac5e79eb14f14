"""From a valid specification to what the core decides from.

Everything is written out: what the lowerer and the hosts get does not depend on defaults that a
later version may change. Two specifications that mean the same give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from controller.api.spec import Spec
from controller.api.validation import pod_range
from controller.core.job import JobSpec
from model.config import AdafactorConfig, ModelConfig, optimizer_from_spec


def job_spec(spec: Spec, text: str) -> JobSpec:
    """The core's specification; `text` is the document as submitted."""
    normalised = normalise(spec)
    train, mesh = normalised["train"], normalised["placement"]["mesh"]
    fewest, most = pod_range(spec.placement)
    request = {
        "model": normalised["model"],
        "train": {key: train[key] for key in ("microbatch", "sequence_length", "optimizer")},
        "mesh": mesh,
        # Of the program, not of the job: two jobs of one kind share a bundle.
        "name": "palm",
    }
    return JobSpec(
        name=spec.name,
        steps=spec.train.steps,
        num_slots=num_slots(spec),
        tokens_per_step=global_batch(spec) * spec.train.sequence_length,
        digest_every=spec.train.digest_every,
        seed=spec.train.seed,
        min_pods=fewest,
        max_pods=most,
        devices_per_pod=mesh["data"] * mesh["model"],
        compute_dtype=normalised["model"]["compute_dtype"],
        program_request=_canonical(request),
        # The hosts know no model, and must refuse a tokenizer that is too large for it.
        data=_canonical({**normalised["data"], "vocab_size": normalised["model"]["vocab_size"]}),
        checkpoint_every=spec.checkpoint.every if spec.checkpoint else 0,
        checkpoint_keep=spec.checkpoint.keep if spec.checkpoint else 0,
        checkpoint_directory=(spec.checkpoint and spec.checkpoint.directory) or "",
        document=json.dumps({"text": text, "normalised": normalised}),
        queue=spec.queue,
        priority=spec.priority,
        labels=dict(spec.labels),
    )


def normalise(spec: Spec) -> dict[str, Any]:
    """The specification with every default written out."""
    document = spec.model_dump(mode="json", exclude_none=True)
    document["model"] = dataclasses.asdict(ModelConfig.from_spec(spec.model))
    document["train"]["optimizer"] = _optimizer(spec)
    for index, source in enumerate(document["data"]["sources"]):
        source.setdefault("name", f"source-{index}")
    return document


def global_batch(spec: Spec) -> int:
    """Sequences per step."""
    if not isinstance(spec.train.global_batch, int):
        raise TypeError("schedules of batch sizes are refused before this")
    return spec.train.global_batch


def num_slots(spec: Spec) -> int:
    """Microbatch slots of the global batch."""
    return global_batch(spec) // spec.train.microbatch


def _optimizer(spec: Spec) -> dict[str, Any]:
    optimizer = optimizer_from_spec(spec.train.optimizer)
    kind = "adafactor" if isinstance(optimizer, AdafactorConfig) else "adamw"
    return {"kind": kind, **dataclasses.asdict(optimizer)}


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
