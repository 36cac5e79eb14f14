"""What readers may see: plain documents with the field names of the public API.

API, metrics and dashboard show these and compute nothing themselves. Unknown numbers are None; a
loss that is not finite is None too, since JSON has no word for it, and `loss_is_finite` says so.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from controller.core import exposure, goodput, sources
from controller.core.checkpoint import Saved
from controller.core.cluster import Host, Pod
from controller.core.job import Job
from controller.core.link import LinkConditions
from controller.core.record import MergedStep, finite
from controller.core.turn import State

Document = dict[str, Any]

_LATER: Document = {
    "checkpoints": [],
    "compression_ratio": None,
    "data": None,
    "digest_covers": "state",
    "exchange": None,
    "evaluation": None,
    "float32_bytes": None,
    "hidden_seconds": None,
    "link_retries": None,
    "recoveries": {},
    "residual_norm": None,
    "rewinds": 0,
    "setbacks": 0,
    "skipped": [],
    "steps_recomputed": None,
    "warnings": [],
}
"""Fields that jobs did not have from the first."""


def job_document(job: Job, state: State, now: float) -> Document:
    """One job as GET /api/v1/jobs/{id} answers it."""
    program, progress, totals = job.program, job.progress, job.totals
    last = progress.last if progress else None
    rate = goodput.tokens_per_second(job)
    seconds = goodput.step_seconds(job)
    peak = job.peak_flops_per_second
    step = progress.merged if progress else 0
    return {
        "id": job.id,
        "name": job.spec.name,
        "state": str(job.state),
        "reason": {"code": job.reason.code, "message": job.reason.message},
        "queue": job.spec.queue,
        "priority": job.spec.priority,
        "labels": dict(job.spec.labels),
        "created_at": job.created_at,
        "admitted_at": job.admitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempt": job.attempt,
        "generation": job.generation,
        "step": step,
        "target_steps": job.target_steps,
        "tokens": job.spec.tokens_through(step),
        "loss": finite(last.loss) if last else None,
        "loss_is_finite": math.isfinite(last.loss) if last else None,
        "tokens_per_second": rate,
        "step_seconds": dataclasses.asdict(seconds) if seconds else None,
        "eta_seconds": _eta(job),
        "mfu": utilisation_of(job, rate, "model_flops_per_token"),
        "hfu": utilisation_of(job, rate, "hardware_flops_per_token"),
        "flops": {
            "model_flops_per_token": program.model_flops_per_token if program else None,
            "hardware_flops_per_token": program.hardware_flops_per_token if program else None,
            "peak_flops_per_second": peak,
            "peak_source": job.peak_source,
        },
        "parameters": program.parameters if program else None,
        "bundle": program.digest if program else None,
        "goodput": goodput.goodput(job, now),
        "time_seconds": goodput.time_seconds(job, now),
        "steps_recomputed": totals.rerun_steps,
        "setbacks": job.setbacks.total,
        "recoveries": dict(job.account.recoveries),
        "link_bytes": totals.link_bytes,
        "float32_bytes": totals.float32_bytes,
        "compression_ratio": totals.compression_ratio,
        "exposed_seconds": totals.timeline.exposed_seconds,
        "hidden_seconds": totals.timeline.hidden_seconds,
        "link_retries": totals.link_retries,
        "residual_norm": finite(progress.residual_norm) if progress else None,
        "warnings": [dataclasses.asdict(w) for w in exposure.warnings(job, state.pods)],
        "data": _data(job),
        "digest_covers": job.spec.exchange.digest_covers,
        "exchange": _exchange(job),
        "evaluation": _evaluation(job),
        "rewinds": job.rewinds,
        "skipped": [list(skipped) for skipped in job.skipped],
        "checkpoints": [_checkpoint_document(saved) for saved in job.checkpoints.saved],
        "pods": [_member_document(job, pod, state) for pod in job.gang],
        "queue_position": queue_position(job, state),
    }


def completed(stored: Document) -> Document:
    """A job's document as it was written when the job ended, with the fields that came later."""
    return {**_LATER, **stored}


def queue_position(job: Job, state: State) -> int | None:
    """1 is next; None when the job does not wait."""
    if job.state != "PENDING":
        return None
    key = (job.created_at, job.id)
    ahead = [j for j in state.jobs.values() if j.state == "PENDING" and (j.created_at, j.id) < key]
    return len(ahead) + 1


def utilisation_of(job: Job, rate: float | None, flops: str) -> float | None:
    """MFU or HFU, by which of the program's FLOPs figures is named."""
    if job.program is None:
        return None
    return goodput.utilisation(rate, getattr(job.program, flops), job.peak_flops_per_second)


def step_document(step: MergedStep, job: Job) -> Document:
    """One step as GET /api/v1/jobs/{id}/steps answers it."""
    record = step.record
    tokens = job.spec.tokens_of(record.step)
    rate = tokens / record.seconds if record.seconds > 0 else None
    return {
        "step": record.step,
        "time": record.time,
        "generation": job.generation,
        "loss": finite(record.loss),
        "grad_norm": finite(record.grad_norm),
        "learning_rate": finite(record.learning_rate),
        "tokens": job.spec.tokens_through(record.step),
        "batch_tokens": tokens,
        "seconds": record.seconds,
        "compute_seconds": record.compute_seconds,
        "exchange_seconds": record.exchange_seconds,
        "exposed_seconds": record.exposed_seconds,
        "hidden_seconds": record.hidden_seconds,
        "data_wait_seconds": record.data_wait_seconds,
        "pause_seconds": record.pause_seconds,
        "straggler_seconds": record.straggler_seconds,
        "tokens_per_second": rate,
        "mfu": utilisation_of(job, rate, "model_flops_per_token"),
        "link_bytes": record.link_bytes,
        "float32_bytes": record.float32_bytes,
        "residual_norm": finite(record.residual_norm),
        "digests": dict(step.digests),
    }


def pod_document(pod: Pod, state: State, now: float) -> Document:
    """One pod as GET /api/v1/pods/{name} answers it."""
    inventories = pod.inventories
    dtypes = {dtype for inventory in inventories for dtype in inventory.peak_flops_per_second}
    return {
        "name": pod.name,
        "state": str(pod.state),
        "withheld": dataclasses.asdict(pod.withheld) if pod.withheld else None,
        "job": pod.assignment.job if pod.assignment else None,
        "num_hosts": pod.num_hosts,
        "num_devices": pod.num_devices,
        "platform": inventories[0].platform if inventories else None,
        "device_kind": inventories[0].device_kind if inventories else None,
        "device_memory_bytes": inventories[0].device_memory_bytes if inventories else None,
        "peak_flops_per_second": {d: pod.peak_flops_per_second(d) for d in sorted(dtypes)},
        "peak_source": inventories[0].peak_source if inventories else None,
        "hosts": [_host_document(host, now) for _, host in sorted(pod.hosts.items())],
    }


def link_documents(state: State) -> list[Document]:
    """Every pair of pods that has exchanged anything, one document per direction. Rate and round
    trip are those of lately; unknown ones are None."""
    return [
        {
            "src": src,
            "dst": dst,
            "bytes": traffic.sent_bytes,
            "sending_seconds": traffic.sending_seconds,
            "bandwidth_bytes_per_second": traffic.rate_bytes_per_second,
            "rtt_seconds": traffic.rtt_seconds,
            "retries": traffic.retries,
        }
        for src, pod in sorted(state.pods.items())
        for dst, traffic in sorted(pod.traffic.items())
    ]


def emulated_link_documents(state: State) -> list[Document]:
    """Every pod and what everything that it sends meets on its emulated link. `conditions` is None
    where the link is not emulated, and while its hosts differ because they are changing over."""
    return [_emulated_link(pod) for _, pod in sorted(state.pods.items())]


def link_conditions_document(conditions: LinkConditions) -> Document:
    """What PUT /api/v1/links/{pod} takes."""
    texts = {name.replace("-", "_"): text for name, text in conditions.texts().items()}
    return {**texts, "partitioned": conditions.is_partitioned}


def _emulated_link(pod: Pod) -> Document:
    told = {host.link for host in pod.hosts.values()}
    first = next(iter(told), None)
    agreed = first if len(told) == 1 else None
    return {
        "name": pod.name,
        "is_emulated": bool(told) and None not in told,
        "conditions": link_conditions_document(agreed) if agreed else None,
    }


def _data(job: Job) -> Document | None:
    """None before the hosts have opened the data, and for programs that take none."""
    if not job.sources:
        return None
    length = job.spec.sequence_length
    planned = job.spec.sequences_through(job.target_steps)
    seen = job.progress.seen if job.progress else None
    return {
        "digest": job.data_digest,
        "sources": [
            {
                "name": each.source.name,
                "documents": each.source.documents,
                "tokens": each.source.tokens,
                "share": each.share,
                "planned_tokens": each.planned * length,
                "seen_tokens": each.seen * length if each.seen is not None else None,
            }
            for each in sources.progress(job.sources, planned, seen)
        ],
    }


def _exchange(job: Job) -> Document:
    """How gradients cross the link; `choice` is None unless the way is chosen while the job runs.
    `since_step` is None before the first start, and `shares` has what every candidate would leave
    exposed of a step."""
    policy, choice = job.spec.choice, job.choosing
    rule = dataclasses.asdict(job.exchange)
    if policy is None:
        return {**rule, "choice": None}
    conditions = choice.conditions if choice else None
    shares = choice.shares if choice else ()
    return {
        **rule,
        "mode": "auto",
        "choice": {
            "budget": policy.budget,
            "candidates": [candidate.rule.dtype for candidate in policy.candidates],
            "since_step": choice.first_step if choice else None,
            "conditions": dataclasses.asdict(conditions) if conditions else None,
            "shares": list(shares) or None,
        },
    }


def _evaluation(job: Job) -> Document | None:
    newest = job.evaluations.newest
    return newest.document() if newest else None


def _checkpoint_document(saved: Saved) -> Document:
    """Without the losses that spikes are judged by, which are in the steps, nor their time."""
    document = dataclasses.asdict(saved)
    del document["losses"], document["timeline"]
    return document


def _member_document(job: Job, pod: str, state: State) -> Document:
    progress = job.progress
    digest = progress.digests.get(pod) if progress else None
    present = state.pods.get(pod)
    return {
        "name": pod,
        "state": str(present.state) if present else None,
        "applied_step": progress.applied.get(pod, 0) if progress else 0,
        "digest": {"step": digest[0], "sha256": digest[1]} if digest else None,
    }


def _host_document(host: Host, now: float) -> Document:
    inventory = host.inventory
    return {
        "index": host.ref.index,
        "incarnation": host.ref.incarnation,
        "pid": host.pid,
        "link_address": host.link_address,
        "num_devices": inventory.num_devices if inventory else None,
        "versions": dict(inventory.versions) if inventory else {},
        "heard_seconds_ago": max(0.0, now - host.last_heard),
    }


def _eta(job: Job) -> float | None:
    """Remaining steps times the recent median; an estimate, and absent before the first step."""
    if job.progress is None or job.progress.step_seconds is None or job.is_final:
        return None
    return (job.target_steps - job.progress.merged) * job.progress.step_seconds
