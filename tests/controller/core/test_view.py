from __future__ import annotations

import dataclasses
import json
import math

import pytest

from controller.core import events, view
from controller.core.cluster import Traffic
from controller.core.evaluation import Part
from controller.core.exchange import ExchangeRule
from controller.core.job import Job
from controller.core.sources import DataSource, progress
from tests.controller.core.test_saving import saves
from tests.controller.core.world import World, attached, ref, two_pods

JOB_FIELDS = {
    *("id", "name", "state", "reason", "queue", "priority", "labels", "created_at", "started_at"),
    *("finished_at", "attempt", "generation", "step", "target_steps", "tokens", "loss"),
    *("tokens_per_second", "step_seconds", "mfu", "hfu", "flops", "goodput", "time_seconds"),
    *("pods", "queue_position"),
}
"""What was promised; names may be added, never renamed or dropped."""

MORE_JOB_FIELDS = {
    "checkpoints",
    *("admitted_at", "bundle", "eta_seconds", "exposed_seconds", "link_bytes", "loss_is_finite"),
    "parameters",
    *("compression_ratio", "float32_bytes", "hidden_seconds", "link_retries", "residual_norm"),
    "warnings",
    *("data", "digest_covers", "evaluation", "exchange", "rewinds", "skipped"),
    *("recoveries", "setbacks", "steps_recomputed"),
}

STEP_FIELDS = {
    *("step", "time", "generation", "loss", "grad_norm", "learning_rate", "tokens", "seconds"),
    *("compute_seconds", "exchange_seconds", "exposed_seconds", "data_wait_seconds", "mfu"),
    *("link_bytes", "digests", "pause_seconds", "batch_tokens"),
    *("float32_bytes", "hidden_seconds", "residual_norm", "straggler_seconds"),
}


def _trained(**record: object) -> World:
    world = two_pods()
    world.start(labels={"team": "a"})
    world.now += 10.0
    for host in world.hosts():
        world.apply(host, [1, 2], digest="d" * 64, **record)
    return world


def _document(world: World, job_id: str = "job-1") -> view.Document:
    document = view.job_document(world.job(job_id), world.state, world.now)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    return document


def test_job_document_has_the_promised_fields() -> None:
    document = _document(_trained())
    assert set(document) == JOB_FIELDS | MORE_JOB_FIELDS
    assert set(document["reason"]) == {"code", "message"}
    assert {"model_flops_per_token", "peak_flops_per_second", "peak_source"} <= set(
        document["flops"]
    )
    assert set(document["step_seconds"]) == {"p50", "p95", "max"}
    for pod in document["pods"]:
        assert set(pod) == {"name", "state", "applied_step", "digest"}
        assert set(pod["digest"]) == {"step", "sha256"}


def test_step_document_has_the_promised_fields() -> None:
    world = _trained()
    (_, (first, _)) = world.outcome.steps[0]
    document = view.step_document(first, world.job())
    assert set(document) == STEP_FIELDS | {"tokens_per_second"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["digests"] == {"pod-0": "d" * 64, "pod-1": "d" * 64}
    assert document["tokens"] == 1024 and document["tokens_per_second"] == 2048.0
    assert document["mfu"] == pytest.approx(2048.0 * 12e6 / 100e9)


def test_job_document_tells_numbers_of_a_running_job() -> None:
    document = _document(_trained())
    assert (document["step"], document["tokens"], document["target_steps"]) == (2, 2048, 4)
    assert document["loss"] == 2.5 and document["loss_is_finite"] is True
    assert document["tokens_per_second"] == 2048.0
    assert document["mfu"] == pytest.approx(2048.0 * 12e6 / 100e9)
    assert document["hfu"] == pytest.approx(2048.0 * 13e6 / 100e9)
    assert document["eta_seconds"] == 1.0
    assert sum(document["time_seconds"].values()) == pytest.approx(10.0)
    assert document["pods"][0] == {
        "name": "pod-0",
        "state": "BUSY",
        "applied_step": 2,
        "digest": {"step": 2, "sha256": "d" * 64},
    }
    assert document["labels"] == {"team": "a"} and document["link_bytes"] == 400


def test_unknown_numbers_are_absent() -> None:
    world = World()
    world.submit()
    document = _document(world)
    for field in (
        *("admitted_at", "started_at", "finished_at", "loss", "loss_is_finite"),
        *("tokens_per_second", "step_seconds", "eta_seconds", "mfu", "hfu", "parameters"),
        *("bundle", "goodput"),
    ):
        assert document[field] is None, field
    assert document["time_seconds"] == {} and document["pods"] == []
    assert set(document["flops"].values()) == {None}


def test_job_that_has_not_stepped_shows_its_pods_at_zero() -> None:
    world = two_pods()
    world.submit()
    pod = _document(world)["pods"][0]
    assert pod == {"name": "pod-0", "state": "BUSY", "applied_step": 0, "digest": None}


def test_pod_that_nobody_knows_any_more_has_no_state() -> None:
    world = _trained()
    job = world.job()
    document = view.job_document(job, dataclasses.replace(world.state, pods={}), world.now)
    assert [pod["state"] for pod in document["pods"]] == [None, None]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_no_number_is_absent_and_said_to_be(loss: float) -> None:
    world = _trained(loss=loss, grad_norm=loss, learning_rate=loss)
    document = _document(world)
    assert document["loss"] is None and document["loss_is_finite"] is False
    step = view.step_document(world.outcome.steps[0][1][0], world.job())
    assert (step["loss"], step["grad_norm"], step["learning_rate"]) == (None, None, None)


def test_step_that_took_no_time_has_no_rate() -> None:
    world = _trained()
    merged = world.outcome.steps[0][1][0]
    instant = dataclasses.replace(merged, record=dataclasses.replace(merged.record, seconds=0.0))
    document = view.step_document(instant, world.job())
    assert document["tokens_per_second"] is None and document["mfu"] is None


def test_ended_job_has_no_eta() -> None:
    world = _trained()
    for host in world.hosts():
        if world.state.jobs:
            world.apply(host, [3, 4])
    assert _document(world)["eta_seconds"] is None
    assert _document(world)["state"] == "SUCCEEDED"


def test_queue_position_counts_waiting_jobs_in_order() -> None:
    world = two_pods()
    positions: dict[str, int | None] = {}
    jobs: list[Job] = []
    for name in ("c", "b", "a"):
        world.now += 1.0
        jobs.append(world.submit(name))
    for job in jobs:
        positions[job.id] = view.queue_position(job, world.state)
    assert positions == {"c": None, "b": 1, "a": 2}


def test_pod_document_tells_what_a_pod_holds_and_does() -> None:
    world = _trained()
    world.now += 2.0
    document = view.pod_document(world.state.pods["pod-0"], world.state, world.now)
    assert document["name"] == "pod-0" and document["state"] == "BUSY"
    assert document["job"] == "job-1" and document["num_devices"] == 1
    assert document["peak_flops_per_second"] == {"float32": 50e9}
    assert document["platform"] == document["device_kind"] == "cpu"
    (host,) = document["hosts"]
    assert host["heard_seconds_ago"] == 12.0 and host["num_devices"] == 1
    assert host["versions"] == {"jax": "0"}


def test_pod_that_forms_tells_no_numbers() -> None:
    world = World()
    world.happens(attached(ref("pod-0")))
    document = view.pod_document(world.state.pods["pod-0"], world.state, world.now)
    assert document["state"] == "FORMING" and document["job"] is None
    for field in ("platform", "device_kind", "device_memory_bytes", "peak_source"):
        assert document[field] is None
    assert document["peak_flops_per_second"] == {}
    assert document["hosts"][0]["num_devices"] is None and document["hosts"][0]["versions"] == {}


def test_links_sum_the_hosts_of_a_pod_by_direction() -> None:
    world = World()
    world.pod_joins("pod-0", hosts=2)
    world.pod_joins("pod-1")
    for index in (0, 1):
        traffic = Traffic(500, 0.5, index, 400.0, 0.01 * (1 + index))
        world.happens(events.HostHeard(ref("pod-0", index), {"pod-1": traffic}))
    world.happens(events.HostHeard(ref("pod-1"), {"pod-0": Traffic(7, 0.0, 0)}))
    assert view.link_documents(world.state) == [
        {
            "src": "pod-0",
            "dst": "pod-1",
            "bytes": 1000,
            "sending_seconds": 1.0,
            "bandwidth_bytes_per_second": 800.0,
            "rtt_seconds": 0.02,
            "retries": 1,
        },
        {
            "src": "pod-1",
            "dst": "pod-0",
            "bytes": 7,
            "sending_seconds": 0.0,
            "bandwidth_bytes_per_second": None,
            "rtt_seconds": None,
            "retries": 0,
        },
    ]


def test_checkpoints_are_shown_without_what_only_decisions_need() -> None:
    world = two_pods()
    world.start(checkpoint_every=4)
    for host in world.hosts():
        world.apply(host, range(1, 5))
    saves(world, 4)
    (shown,) = _document(world)["checkpoints"]
    assert shown == {
        "step": 4,
        "generation": 1,
        "state_sha256": "ab" * 32,
        "num_bytes": 20,
        "saved_at": world.now,
        "data_position": 16,
        "evaluation_loss": None,
    }


def test_job_document_tells_what_is_planned_and_seen_of_every_source() -> None:
    world = two_pods()
    world.submit()
    assert _document(world)["data"] is None
    world.lower()
    sources = (DataSource("books", 3, 800, 3, 3), DataSource("news", 2, 400, 1, 1))
    for host in world.hosts():
        world.ready(host, sources=sources)
    unseen = _document(world)["data"]
    assert unseen["digest"] == "d"
    assert unseen["sources"][0] == {
        "name": "books",
        "documents": 3,
        "tokens": 800,
        "share": 0.75,
        "planned_tokens": 12 * 256,
        "seen_tokens": None,
    }
    fast, slow = world.hosts()
    world.apply(fast, [1, 2], seen=(6, 2))
    world.apply(slow, [1], seen=(2, 2))
    assert [s["seen_tokens"] for s in _document(world)["data"]["sources"]] == [512, 512]
    world.apply(slow, [2], seen=(6, 2))
    assert [s["seen_tokens"] for s in _document(world)["data"]["sources"]] == [6 * 256, 512]
    # Hosts that still count say nothing, and what is known stays.
    world.apply(fast, [3])
    world.apply(slow, [3])
    assert [s["seen_tokens"] for s in _document(world)["data"]["sources"]] == [6 * 256, 512]


def test_counts_of_other_sources_than_those_known_are_not_shown() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    for host in world.hosts():
        world.ready(host, sources=(DataSource("a", 1, 1, 1, 1), DataSource("b", 1, 1, 1, 1)))
    for host in world.hosts():
        world.apply(host, [1], seen=(4,))
    assert [s["seen_tokens"] for s in _document(world)["data"]["sources"]] == [None, None]


def test_what_is_planned_of_a_last_epoch_follows_what_was_seen_of_it() -> None:
    sources = (DataSource("books", 3, 800, 9, 9), DataSource("news", 2, 400, 3, 3))
    shares = [(each.planned, each.seen) for each in progress(sources, 18, (9, 3))]
    assert shares == [(14, 9), (4, 3)]  # an epoch, and the half of one
    shares = [(each.planned, each.seen) for each in progress(sources, 18, (11, 5))]
    assert shares == [(13, 11), (5, 5)]
    assert [each.planned for each in progress(sources, 18, (12, 6))] == [12, 6]


def test_documents_written_before_a_field_was_there_have_it_empty() -> None:
    document = _document(_trained())
    later = {"checkpoints", "data", "evaluation", "rewinds", "skipped"}
    later |= {"compression_ratio", "float32_bytes", "hidden_seconds", "link_retries"}
    later |= {"exchange", "residual_norm", "warnings"}
    old = {n: value for n, value in document.items() if n not in {*later, "digest_covers"}}
    completed = view.completed(old)
    assert set(completed) == set(document)
    assert {name: completed[name] for name in old} == old
    assert not any(completed[name] for name in later)
    # All that was ever trained so far.
    assert completed["digest_covers"] == "state"
    assert view.completed(document) == document


@pytest.mark.parametrize("loss", [2.0, math.nan])
def test_job_document_tells_the_newest_evaluation_and_no_number_as_null(loss: float) -> None:
    world = two_pods()
    world.start(evaluate_every=1)
    for host in world.hosts():
        world.apply(host, [1])
        part = Part((loss,), num_tokens=4, num_bytes=4)
        world.happens(events.Evaluated(host, world.assignment(), 1, part))
    found = _document(world)["evaluation"]
    assert found["step"] == 1
    expected = [2.0, pytest.approx(2.0 / math.log(2))] if math.isfinite(loss) else [None, None]
    assert [found["loss"], found["bits_per_byte"]] == expected


@pytest.mark.parametrize(
    ("mode", "covers"), [("full", "state"), ("diloco", "outer"), ("streaming_diloco", "outer")]
)
def test_job_document_says_what_digests_are_of(mode: str, covers: str) -> None:
    assert ExchangeRule(mode=mode).digest_covers == covers
