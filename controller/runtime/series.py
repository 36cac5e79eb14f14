"""The metric catalogue: which numbers of jobs, pods and links become which series.

A pure function of the state, of names that people's dashboards rely on (docs: the metric
reference). A number that is not known has no sample. Counters may fall when a process starts over,
as Prometheus expects of counters.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from controller.core import exposure, goodput, view
from controller.core.cluster import Pod
from controller.core.job import Job, JobState
from controller.core.turn import State

Samples = Iterator[tuple[tuple[str, ...], float | None]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Snapshot:
    """All that a series may be made from."""

    jobs: Sequence[Job]
    """Live ones, and ended ones that are kept."""
    state: State
    now: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Family:
    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[_Snapshot], Samples]
    is_counter: bool = False


def families(jobs: Sequence[Job], state: State, now: float) -> Iterator[Metric]:
    """Every family of the catalogue, with samples for what is known."""
    snapshot = _Snapshot(jobs, state, now)
    for family in _CATALOGUE:
        kind = CounterMetricFamily if family.is_counter else GaugeMetricFamily
        metric = kind(f"landbridge_{family.name}", family.help, labels=family.labels)
        for values, number in family.samples(snapshot):
            if number is not None:
                metric.add_metric(values, number)
        yield metric


def _per_job(value: Callable[[Job, float], float | None]) -> Callable[[_Snapshot], Samples]:
    return lambda s: (((job.id,), value(job, s.now)) for job in s.jobs)


def _merged(job: Job) -> int:
    return job.progress.merged if job.progress else 0


def _tokens(job: Job) -> float:
    return job.spec.tokens_through(_merged(job))


def _model_flops(job: Job) -> float | None:
    return _tokens(job) * job.program.model_flops_per_token if job.program else None


def _loss(job: Job) -> float | None:
    return job.progress.last.loss if job.progress and job.progress.last else None


def _last_step_time(job: Job) -> float | None:
    return job.progress.last.time if job.progress and job.progress.last else None


def _ratio(job: Job, flops: str) -> float | None:
    return view.utilisation_of(job, goodput.tokens_per_second(job), flops)


def _job_info(s: _Snapshot) -> Samples:
    return (((job.id, job.spec.name, job.spec.queue), 1.0) for job in s.jobs)


def _exchange_info(s: _Snapshot) -> Samples:
    for job in s.jobs:
        mode = job.spec.exchange.mode if job.spec.choice is None else "auto"
        yield (job.id, mode, job.exchange.dtype), 1.0


def _jobs(s: _Snapshot) -> Samples:
    counts = collections.Counter((str(job.state), job.spec.queue) for job in s.jobs)
    queues = {"default"} | {queue for _, queue in counts}
    return (((state, q), float(counts[state, q])) for state in JobState for q in sorted(queues))


def _job_times(s: _Snapshot) -> Samples:
    for job in s.jobs:
        spent = goodput.passed_seconds(job, s.now)
        yield from (((job.id, category), seconds) for category, seconds in spent.items())


def _recoveries(s: _Snapshot) -> Samples:
    for job in s.jobs:
        counts = job.account.recoveries.items()
        yield from (((job.id, cause), float(count)) for cause, count in counts)


def _pending(s: _Snapshot) -> Samples:
    waiting = (job for job in s.jobs if job.state is JobState.PENDING)
    counts = collections.Counter((job.spec.queue, job.reason.code) for job in waiting)
    return ((labels, float(count)) for labels, count in sorted(counts.items()))


def _per_pod(value: Callable[[Pod], float]) -> Callable[[_Snapshot], Samples]:
    return lambda s: (((name,), value(pod)) for name, pod in sorted(s.state.pods.items()))


def _is_up(pod: Pod) -> float:
    return float(len(pod.inventories) == pod.num_hosts)


def _pod_peaks(s: _Snapshot) -> Samples:
    for name, pod in sorted(s.state.pods.items()):
        dtypes = {d for inventory in pod.inventories for d in inventory.peak_flops_per_second}
        yield from (((name, dtype), pod.peak_flops_per_second(dtype)) for dtype in sorted(dtypes))


def _per_link(field: str) -> Callable[[_Snapshot], Samples]:
    return lambda s: (
        ((link["src"], link["dst"]), link[field]) for link in view.link_documents(s.state)
    )


_JOB, _POD, _LINK = ("job",), ("pod",), ("src", "dst")

_CATALOGUE = (
    _Family("job_info", "A job; always 1.", ("job", "name", "queue"), _job_info),
    _Family(
        "job_exchange_info",
        "How the gradients of a job cross the link, as last decided; always 1.",
        ("job", "mode", "dtype"),
        _exchange_info,
    ),
    _Family("jobs", "Jobs live, or ended and kept.", ("state", "queue"), _jobs),
    _Family(
        "job_step", "Last step all pods applied.", _JOB, _per_job(lambda job, _: _merged(job))
    ),
    _Family(
        "job_target_steps", "Steps the job wants.", _JOB, _per_job(lambda job, _: job.target_steps)
    ),
    _Family("job_loss", "Loss of the last step.", _JOB, _per_job(lambda job, _: _loss(job))),
    _Family("job_tokens", "Tokens trained on.", _JOB, _per_job(lambda j, _: _tokens(j)), True),
    _Family(
        "job_model_flops",
        "FLOPs the model needed for its tokens, recomputation not counted.",
        _JOB,
        _per_job(lambda job, _: _model_flops(job)),
        True,
    ),
    _Family(
        "job_mfu_ratio",
        "Model FLOP/s of the recent steps over the peak of all devices.",
        _JOB,
        _per_job(lambda job, _: _ratio(job, "model_flops_per_token")),
    ),
    _Family(
        "job_hfu_ratio",
        "As MFU, with recomputation.",
        _JOB,
        _per_job(lambda job, _: _ratio(job, "hardware_flops_per_token")),
    ),
    _Family(
        "job_goodput_ratio",
        "Share of the time since admission that went into computing steps that count.",
        _JOB,
        _per_job(goodput.goodput),
    ),
    _Family(
        "job_time_seconds",
        "Time since admission, by what it went into, once that is known.",
        ("job", "category"),
        _job_times,
        True,
    ),
    _Family(
        "job_evaluation_loss",
        "Held-out loss of the last evaluation, nats per token.",
        _JOB,
        _per_job(lambda job, _: job.evaluations.newest.loss if job.evaluations.newest else None),
    ),
    _Family(
        "job_bits_per_byte",
        "Held-out loss of the last evaluation, bits per byte of text.",
        _JOB,
        _per_job(
            lambda job, _: job.evaluations.newest.bits_per_byte if job.evaluations.newest else None
        ),
    ),
    _Family(
        "job_rewinds",
        "Times a job went back over a spike.",
        _JOB,
        _per_job(lambda job, _: job.rewinds),
        True,
    ),
    _Family(
        "job_last_step_timestamp_seconds",
        "When the last step was applied.",
        _JOB,
        _per_job(lambda job, _: _last_step_time(job)),
    ),
    _Family("job_attempts", "Starts of the job.", _JOB, _per_job(lambda j, _: j.attempt), True),
    _Family(
        "job_recoveries",
        "Times a job had to recover, by what went wrong.",
        ("job", "cause"),
        _recoveries,
        True,
    ),
    _Family(
        "job_setbacks",
        "Losses of pods.",
        _JOB,
        _per_job(lambda j, _: j.setbacks.total),
        True,
    ),
    _Family(
        "job_steps_recomputed",
        "Steps that were run before and were run again.",
        _JOB,
        _per_job(lambda j, _: j.totals.rerun_steps),
        True,
    ),
    _Family("pod_up", "Whether all hosts of a pod are there and initialised.", _POD,
            _per_pod(_is_up)),
    _Family("pod_devices", "Devices of a pod.", _POD, _per_pod(lambda pod: pod.num_devices)),
    _Family("pod_peak_flops_per_second", "Peak of all devices of a pod; absent when unknown.",
            ("pod", "dtype"), _pod_peaks),
    _Family("link_bytes", "Bytes sent from pod to pod.", _LINK, _per_link("bytes"), True),
    _Family("link_sending_seconds", "Time in which anything was under way from pod to pod.",
            _LINK, _per_link("sending_seconds"), True),
    _Family("link_bandwidth_bytes_per_second", "Rate of what was sent lately, while sending.",
            _LINK, _per_link("bandwidth_bytes_per_second")),
    _Family("link_rtt_seconds", "Time of a small message there and back, lately.",
            _LINK, _per_link("rtt_seconds")),
    _Family("link_retries", "Chunks sent again.", _LINK, _per_link("retries"), True),
    _Family(
        "link_exposed_seconds",
        "Time steps of a job waited for the link.",
        _JOB,
        _per_job(lambda j, _: j.totals.all_steps.exposed_seconds),
        True,
    ),
    _Family(
        "link_hidden_seconds",
        "Time that exchanges of a job took behind its computation.",
        _JOB,
        _per_job(lambda j, _: j.totals.all_steps.hidden_seconds),
        True,
    ),
    _Family(
        "job_link_bytes",
        "Bytes that the lead hosts of a job sent to their peers.",
        _JOB,
        _per_job(lambda j, _: j.totals.link_bytes),
        True,
    ),
    _Family(
        "job_link_retries",
        "Chunks of a job sent again.",
        _JOB,
        _per_job(lambda j, _: j.totals.link_retries),
        True,
    ),
    _Family(
        "job_compression_ratio",
        "Bytes that float32 gradients take on the link at least, over those sent.",
        _JOB,
        _per_job(lambda j, _: j.totals.compression_ratio),
    ),
    _Family(
        "job_residual_norm",
        "Norm of what encoding gradients lost and carries on, of the pod with the largest.",
        _JOB,
        _per_job(lambda j, _: j.progress.residual_norm if j.progress else None),
    ),
    _Family(
        "job_exposed_ratio",
        "Share of the median of the last steps that waited for the link.",
        _JOB,
        _per_job(lambda j, _: exposure.share(j.progress) if j.progress else None),
    ),
    _Family("queue_pending_jobs", "Jobs that wait, and for what.", ("queue", "reason"), _pending),
)  # fmt: skip
