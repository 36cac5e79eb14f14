"""Commands about jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from landbridge import figures
from landbridge.cli import output
from landbridge.cli.options import Address, JobId, Json, SpecFile, client

if TYPE_CHECKING:
    from landbridge.client import Client

Document = dict[str, Any]


def submit(
    spec: SpecFile,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the job ends.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait at most; the job goes on.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: submit once, however often asked.")
    ] = None,
    address: Address = "",
    json: Json = False,
) -> int:
    """Submit a job. With --wait the exit code is the job's."""
    with client(address) as api:
        job = api.submit(spec, idempotency_key=key)
        output.say(f"submitted {job['name']}; see {api.address}/jobs/{job['id']}")
        if wait:
            return _wait(api, job, timeout, json)
        return output.answer(job, json, _show_submitted)


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only with the label KEY=VALUE.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    page: Annotated[str | None, typer.Option(help="Token of the page to show.")] = None,
    address: Address = "",
    json: Json = False,
) -> int:
    """List jobs, newest first."""
    states = [item.upper() for item in state or []] or None
    with client(address) as api:
        found = api.jobs(state=states, label=label or None, page_size=limit, page_token=page)
        return output.answer(found, json, _show_jobs)


def job(job_id: JobId, address: Address = "", json: Json = False) -> int:
    """Show one job."""
    with client(address) as api:
        return output.answer(api.job(job_id), json, _show_job)


def steps(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only behind this step.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 1000,
    points: Annotated[int | None, typer.Option(min=2, max=2000, help="An even sample.")] = None,
    address: Address = "",
    json: Json = False,
) -> int:
    """List the steps of a job."""
    with client(address) as api:
        found = api.steps(job_id, after=after, limit=limit, points=points)
        return output.answer(found, json, _show_steps)


def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the job ends.")] = False,
    address: Address = "",
    json: Json = False,
) -> int:
    """Tell what was decided about a job, and why. With --follow and --json: one event a line."""
    with client(address) as api:
        if not follow:
            return output.answer(api.events(job_id), json, _show_events)
        for event in api.follow(job_id):
            output.answer(event, json, _show_event)
    return output.OK


def cancel(job_id: JobId, address: Address = "", json: Json = False) -> int:
    """Stop a job."""
    with client(address) as api:
        return output.answer(api.cancel(job_id), json, _show_state)


def retry(job_id: JobId, address: Address = "", json: Json = False) -> int:
    """Try a failed or cancelled job once more, from its newest checkpoint."""
    with client(address) as api:
        return output.answer(api.retry(job_id), json, _show_state)


def checkpoint(job_id: JobId, address: Address = "", json: Json = False) -> int:
    """Have the state of a running job written to disk soon."""
    with client(address) as api:
        return output.answer(api.checkpoint(job_id), json, _show_state)


def checkpoints(job_id: JobId, address: Address = "", json: Json = False) -> int:
    """List the checkpoints of a job."""
    with client(address) as api:
        return output.answer(api.checkpoints(job_id), json, _show_checkpoints)


COMMANDS = (submit, jobs, job, steps, events, cancel, retry, checkpoint, checkpoints)


def _wait(api: Client, job: Document, timeout: float | None, as_json: bool) -> int:
    # Only now: Rich costs 60 ms that other commands need not wait for.
    from rich.console import Console

    from landbridge import progress

    try:
        with progress.shown(Console(stderr=True)) as show:
            ended = api.wait(job["id"], timeout, show)
    except KeyboardInterrupt:
        output.say(
            f"detached; the job goes on. Look again: landbridge job {job['id']}; "
            f"stop it: landbridge cancel {job['id']}"
        )
        raise
    output.answer(ended, as_json, _show_job)
    return output.OK if ended["state"] == "SUCCEEDED" else output.JOB_FAILED


def _show_submitted(job: Document) -> None:
    output.say(f"follow it with: landbridge job {job['id']}")
    print(job["id"])


def _show_jobs(document: Document) -> None:
    headings = ("ID", "NAME", "STATE", "STEP", "LOSS", "TOKENS/S", "MFU", "REASON")
    output.table(headings, [_job_row(job) for job in document["jobs"]])
    if document["next_page_token"]:
        output.say(f"there are more: --page {document['next_page_token']}")


def _job_row(job: Document) -> tuple[str, ...]:
    return (
        job["id"],
        job["name"],
        job["state"],
        f"{job['step']}/{job['target_steps']}",
        figures.fixed(job["loss"]),
        figures.amount(job["tokens_per_second"]),
        figures.percent(job["mfu"]),
        (job["warnings"] or [job["reason"]])[0]["message"].partition("\n")[0],
    )


def _show_job(job: Document) -> None:
    seconds = job["step_seconds"] or {}
    facts = {
        "id": job["id"],
        "name": job["name"],
        "state": job["state"],
        "reason": job["reason"]["message"],
        "step": f"{job['step']} of {job['target_steps']}",
        "time left": figures.duration(job["eta_seconds"]),
        "loss": figures.fixed(job["loss"]),
        "tokens/s": figures.amount(job["tokens_per_second"]),
        "step time": figures.amount(seconds.get("p50"), "s"),
        "MFU": figures.percent(job["mfu"]),
        "peak": figures.amount(job["flops"]["peak_flops_per_second"], "FLOP/s"),
        "goodput": figures.percent(job["goodput"]),
        **_exchange(job),
        **_course(job),
    }
    for warned in job["warnings"]:
        output.say(f"{warned['message']}. What helps: {warned['hint']}")
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}")
    for pod in job["pods"]:
        digest = pod["digest"]
        held = f"digest {digest['sha256'][:16]} at step {digest['step']}" if digest else "no digest"
        print(f"{pod['name'].ljust(width)}  step {pod['applied_step']}, {held}")


def _exchange(job: Document) -> dict[str, str]:
    """What crossed the link and what it cost; nothing of a job that sent nothing."""
    if not job["link_bytes"]:
        return {}
    ratio = job["compression_ratio"]
    facts = {
        "sent": figures.amount(job["link_bytes"], "B")
        + (f", 1/{ratio:.3g} of float32's" if ratio and ratio >= 1.01 else "")
        + f"; {job['link_retries'] or 0} chunks again",
        "exchange": f"{figures.amount(job['exposed_seconds'], 's')} waited for the link, "
        f"{figures.amount(job['hidden_seconds'], 's')} hidden behind computing",
    }
    way = job["exchange"]
    if way and way["choice"]:
        since = way["choice"]["since_step"]
        facts["chosen"] = f"{way['dtype']} since step {since}"
    if job["residual_norm"] is not None:
        facts["residual norm"] = f"{job['residual_norm']:.3g}"
    return facts


def _course(job: Document) -> dict[str, str]:
    """What happened on the way and what was read, where there is anything to tell."""
    facts = {}
    if evaluation := job["evaluation"]:
        facts["held-out loss"] = f"{figures.fixed(evaluation['loss'])} at step {evaluation['step']}"
    if job["rewinds"]:
        passed = sum(end - first for first, end in job["skipped"])
        facts["rewinds"] = f"{job['rewinds']}, {passed} sequences passed over"
    if job["checkpoints"]:
        newest = job["checkpoints"][-1]
        size = figures.amount(newest["num_bytes"], "B")
        facts["checkpoint"] = f"step {newest['step']}, {size}; {len(job['checkpoints'])} kept"
    for source in (job["data"] or {"sources": ()})["sources"]:
        seen, planned = (figures.amount(source[f"{which}_tokens"]) for which in ("seen", "planned"))
        facts[f"data {source['name']}"] = f"{seen} of {planned} tokens"
    return facts


def _show_state(job: Document) -> None:
    print(f"{job['id']} {job['state']}")


def _show_steps(document: Document) -> None:
    rows = [
        (
            str(step["step"]),
            figures.fixed(step["loss"]),
            f"{step['seconds']:.3f}",
            f"{step['exposed_seconds']:.3f}",
            figures.percent(step["mfu"]),
        )
        for step in document["steps"]
    ]
    output.table(("STEP", "LOSS", "SECONDS", "EXPOSED", "MFU"), rows)


def _show_events(document: Document) -> None:
    for event in document["events"]:
        _show_event(event)


def _show_event(event: Document) -> None:
    print(f"{_moment(event['time'])}  {event['kind']:<16}  {event['message']}", flush=True)


def _moment(unix_seconds: float) -> str:
    import datetime

    return f"{datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _show_checkpoints(document: Document) -> None:
    rows = [
        (
            str(saved["step"]),
            _moment(saved["saved_at"]),
            figures.amount(saved["num_bytes"], "B"),
            saved["state_sha256"][:16],
        )
        for saved in document["checkpoints"]
    ]
    output.table(("STEP", "SAVED", "SIZE", "DIGEST"), rows)
