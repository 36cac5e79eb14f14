"""Names and values of the metrics, as Prometheus sees them."""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import PIPE

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.core import events
from controller.core.account import Category
from controller.core.cluster import Assignment, HostRef
from controller.core.turn import State
from controller.runtime.metrics import KEPT_JOBS, Metrics
from tests.controller.rig import PROGRAM, Rig, spec

ALWAYS = {
    "landbridge_jobs",
    "landbridge_dispatch_latency_seconds",
    "landbridge_event_loop_lag_seconds",
}
WITH_A_JOB = {
    "landbridge_job_exchange_info",
    "landbridge_job_info",
    "landbridge_job_step",
    "landbridge_job_target_steps",
    "landbridge_job_loss",
    "landbridge_job_tokens",
    "landbridge_job_model_flops",
    "landbridge_job_mfu_ratio",
    "landbridge_job_hfu_ratio",
    "landbridge_job_goodput_ratio",
    "landbridge_job_step_duration_seconds",
    "landbridge_job_time_seconds",
    "landbridge_job_last_step_timestamp_seconds",
    "landbridge_job_attempts",
    "landbridge_link_exposed_seconds",
    "landbridge_link_hidden_seconds",
    "landbridge_job_link_bytes",
    "landbridge_job_link_retries",
    "landbridge_job_compression_ratio",
    "landbridge_job_residual_norm",
    "landbridge_job_exposed_ratio",
}
WITH_PODS = {
    "landbridge_pod_up",
    "landbridge_pod_peak_flops_per_second",
    "landbridge_pod_devices",
    "landbridge_link_bytes",
    "landbridge_link_bandwidth_bytes_per_second",
    "landbridge_link_retries",
    "landbridge_link_rtt_seconds",
    "landbridge_link_sending_seconds",
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(controller: Rig) -> tuple[str, set[str], Samples]:
    text = (await controller.http.get("/metrics")).text
    families = list(text_string_to_metric_families(text))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return text, {family.name for family in families if family.samples}, samples


async def trained(controller: Rig, steps: int = 20) -> str:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    job_id = await controller.submit(spec(train={"steps": steps}))
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 11))
    return job_id


async def test_the_catalogue_is_there(controller: Rig) -> None:
    await trained(controller)
    await controller.hear("pod-0", "pod-1", 1000, 2.0, 1)
    _, names, _ = await scrape(controller)
    assert names >= ALWAYS | WITH_A_JOB | WITH_PODS


async def test_values(controller: Rig) -> None:
    job_id = await trained(controller)
    await controller.hear("pod-0", "pod-1", 1000, 2.0, 1)
    _, _, samples = await scrape(controller)
    job, pod, link = (("job", job_id),), (("pod", "pod-0"),), (("dst", "pod-1"), ("src", "pod-0"))
    tokens = 10 * 16 * 256
    assert samples["landbridge_job_step", job] == 10
    assert samples["landbridge_job_target_steps", job] == 20
    assert samples["landbridge_job_loss", job] == 2.5
    assert samples["landbridge_job_tokens_total", job] == tokens
    flops = samples["landbridge_job_model_flops_total", job]
    assert flops == tokens * PROGRAM.model_flops_per_token
    assert samples["landbridge_job_step_duration_seconds_count", job] == 10
    assert samples["landbridge_job_attempts_total", job] == 1
    assert samples["landbridge_job_setbacks_total", job] == 0
    assert samples["landbridge_job_steps_recomputed_total", job] == 0
    assert samples["landbridge_pod_up", pod] == 1
    assert samples["landbridge_pod_devices", pod] == 1
    assert samples["landbridge_link_bytes_total", link] == 1000
    assert samples["landbridge_link_bandwidth_bytes_per_second", link] == 500
    assert samples["landbridge_link_retries_total", link] == 1
    assert samples["landbridge_link_rtt_seconds", link] == 0.01
    assert samples["landbridge_link_sending_seconds_total", link] == 2.0
    assert samples["landbridge_link_hidden_seconds_total", job] == pytest.approx(1.5)
    assert samples["landbridge_job_link_retries_total", job] == 1
    assert samples["landbridge_job_link_bytes_total", job] == 20_000
    assert samples["landbridge_job_compression_ratio", job] == 2.0
    assert samples["landbridge_job_residual_norm", job] == 0.25
    full = (("dtype", "float32"), ("job", job_id), ("mode", "full"))
    assert samples["landbridge_job_exchange_info", full] == 1
    assert samples["landbridge_job_exposed_ratio", job] == pytest.approx(0.1, rel=0.2)
    assert samples["landbridge_jobs", (("queue", "default"), ("state", "RUNNING"))] == 1
    assert samples["landbridge_jobs", (("queue", "default"), ("state", "FAILED"))] == 0


async def test_what_went_wrong_and_what_it_cost_is_counted(controller: Rig) -> None:
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    job_id = await controller.submit(spec(placement={"on_pod_loss": "wait"}))
    await controller.start(job_id)
    await controller.step(job_id, 1, 2, 3)
    for pod in ("pod-0", "pod-1"):
        await controller.detach(pod)
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    await controller.start(job_id)
    await controller.step(job_id, 1, 2)
    _, _, samples = await scrape(controller)
    job = (("job", job_id),)
    assert samples["landbridge_job_recoveries_total", (("cause", "PodLost"), *job)] == 1
    assert samples["landbridge_job_setbacks_total", job] == 2
    assert samples["landbridge_job_steps_recomputed_total", job] == 2
    spent = {
        dict(labels)["category"]: seconds
        for (name, labels), seconds in samples.items()
        if name == "landbridge_job_time_seconds_total"
    }
    assert set(spent) == {str(category) for category in Category}
    # Half a second a step, of which 0.05 s exposed; the first is timed by its pods.
    assert spent["rework"] == pytest.approx(1.0, rel=0.1)
    assert spent["productive"] == pytest.approx(3 * 0.45, rel=0.1)


async def test_unknown_numbers_have_no_sample(controller: Rig) -> None:
    await controller.attach_pod("pod-0", peak=None)
    job_id = await controller.submit()
    _, names, samples = await scrape(controller)
    assert not names & {"landbridge_job_loss", "landbridge_job_mfu_ratio"}
    assert "landbridge_pod_peak_flops_per_second" not in names
    waiting = (("queue", "default"), ("reason", "DoesNotFit"))
    assert samples["landbridge_queue_pending_jobs", waiting] == 1
    assert samples["landbridge_job_step", (("job", job_id),)] == 0


async def test_a_finished_job_is_shown_as_it_ended_until_it_is_deleted(controller: Rig) -> None:
    job_id = await trained(controller, steps=10)
    _, _, samples = await scrape(controller)
    assert samples["landbridge_job_step", (("job", job_id),)] == 10
    assert samples["landbridge_jobs", (("queue", "default"), ("state", "SUCCEEDED"))] == 1
    await controller.http.delete(f"/api/v1/jobs/{job_id}")
    text, _, _ = await scrape(controller)
    assert job_id not in text


async def test_only_so_many_finished_jobs_are_kept(controller: Rig) -> None:
    for _ in range(KEPT_JOBS + 3):
        job_id = await controller.submit()
        await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    _, _, samples = await scrape(controller)
    assert sum(name == "landbridge_job_info" for name, _ in samples) == KEPT_JOBS


@pytest.mark.prometheus
async def test_promtool_finds_nothing_to_complain_about(controller: Rig) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    await trained(controller)
    await controller.hear("pod-0", "pod-1", 1000, 2.0, 1)
    text, _, _ = await scrape(controller)
    checked = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    said = await checked.communicate(text.encode())
    assert (checked.returncode, said) == (0, (b"", b""))


def written(step: int, error: str = "") -> events.CheckpointWritten:
    host = HostRef("pod-0", 0, "a")
    return events.CheckpointWritten(host, Assignment("job-1", 1), step, "", 10, 2.0, 0.02, 0, error)


def test_checkpoints_are_measured_until_the_job_is_forgotten() -> None:
    metrics = Metrics(State)
    metrics.observe_event(written(10))
    metrics.observe_event(written(20, "disk full"))
    published = events.CheckpointPublished(
        HostRef("pod-0", 0, "a"), Assignment("job-1", 1), 30, "x"
    )
    metrics.observe_event(published)
    metrics.observe_event(events.Ticked())
    job = {"job": "job-1"}
    value = metrics.registry.get_sample_value
    assert value("landbridge_checkpoint_save_seconds_sum", job) == 2.0
    assert value("landbridge_checkpoint_stall_seconds_count", job) == 1
    assert value("landbridge_checkpoint_failures_total", job) == 2
    metrics.forget("job-1")
    assert value("landbridge_checkpoint_failures_total", job) is None
    assert value("landbridge_checkpoint_save_seconds_sum", job) is None
