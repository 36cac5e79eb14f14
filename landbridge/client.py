"""A client for the REST API: one method per thing to ask, plain documents back, typed errors.

    with Client("http://127.0.0.1:8400") as client:
        job = client.submit(pathlib.Path("examples/palm-tiny.yaml"))
        job = client.wait(job["id"])

Synchronous, and safe to use from one thread at a time.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import httpx2

from landbridge import errors, sse

Document = dict[str, Any]
Spec = str | pathlib.Path | Mapping[str, Any]
"""YAML or JSON text, a file of it, or plain values."""

DEFAULT_ADDRESS = "http://127.0.0.1:8400"
FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})

_STREAM_SILENCE_SECONDS = 40.0
"""The controller sends a comment every 15 s; after two missed ones the stream is opened anew."""


class Client:
    """Talks to one controller. Address and token default to LANDBRIDGE_ADDRESS and _TOKEN."""

    def __init__(
        self, address: str | None = None, token: str | None = None, *, timeout: float = 30.0
    ) -> None:
        self.address = (address or os.environ.get("LANDBRIDGE_ADDRESS") or DEFAULT_ADDRESS).rstrip(
            "/"
        )
        token = os.environ.get("LANDBRIDGE_TOKEN", "") if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(
            base_url=f"{self.address}/api/v1", headers=headers, timeout=timeout
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Document:
        """Submit a job. Asking again with the same key and spec gives the same job."""
        return self._send_spec("/jobs", spec, idempotency_key or uuid.uuid4().hex)

    def validate(self, spec: Spec) -> Document:
        """The plan of a sound spec; raises InvalidSpec. Nothing starts."""
        return self._send_spec("/jobs:validate", spec)

    def plan(self, spec: Spec) -> Document:
        """What the job would be. Nothing starts."""
        return self._send_spec("/jobs:plan", spec)

    def jobs(self, **filters: Any) -> Document:
        """A page of jobs: {"jobs", "next_page_token"}; filters are those of GET /jobs."""
        return self._get("/jobs", **filters)

    def job(self, job_id: str) -> Document:
        return self._get(f"/jobs/{_quoted(job_id)}")

    def steps(
        self, job_id: str, *, after: int = 0, limit: int | None = None, points: int | None = None
    ) -> Document:
        """{"steps", "next_after"}: behind step `after`, or a sample of about `points` of them."""
        path = f"/jobs/{_quoted(job_id)}/steps"
        return self._get(path, after=after, limit=limit, points=points)

    def events(self, job_id: str | None = None, *, after: int = 0) -> Document:
        """{"events", "next_after"}: of one job, or of everything."""
        path = "/events" if job_id is None else f"/jobs/{_quoted(job_id)}/events"
        return self._get(path, after=after)

    def every_step(self, job_id: str) -> Iterator[Document]:
        """All that are recorded now, in order, page by page."""
        after = 0
        while (page := self.steps(job_id, after=after))["steps"]:
            yield from page["steps"]
            after = page["next_after"]

    def step(self, job_id: str, step: int, timeout: float = 30.0) -> Document:
        """The record of a step, once it is written, which is a moment after it was applied; raises
        WaitTimedOut."""
        deadline = time.monotonic() + timeout
        while True:
            for record in self.steps(job_id, after=step - 1, limit=1)["steps"]:
                return record
            if time.monotonic() >= deadline:
                raise errors.WaitTimedOut(f"no record of step {step} of job {job_id}", timeout)
            time.sleep(0.05)

    def every_event(self, job_id: str | None = None, *, after: int = 0) -> Iterator[Document]:
        """All that are recorded now, oldest first, page by page: of one job, or of everything."""
        while (page := self.events(job_id, after=after))["events"]:
            yield from page["events"]
            after = page["next_after"]

    def cancel(self, job_id: str) -> Document:
        return self._ask("POST", f"/jobs/{_quoted(job_id)}/cancel").json()

    def retry(self, job_id: str) -> Document:
        """Try a job that failed or was cancelled once more, from its newest checkpoint."""
        return self._ask("POST", f"/jobs/{_quoted(job_id)}/retry").json()

    def checkpoint(self, job_id: str) -> Document:
        """Have the state of a running job written to disk soon."""
        return self._ask("POST", f"/jobs/{_quoted(job_id)}/checkpoint").json()

    def checkpoints(self, job_id: str) -> Document:
        """Those that are kept, oldest first."""
        return self._get(f"/jobs/{_quoted(job_id)}/checkpoints")

    def spec(self, job_id: str) -> Document:
        """{"text": as submitted, "normalised": with every default written out}."""
        return self._get(f"/jobs/{_quoted(job_id)}/spec")

    def delete(self, job_id: str) -> None:
        """Forget a finished job."""
        self._ask("DELETE", f"/jobs/{_quoted(job_id)}")

    def pods(self) -> Document:
        return self._get("/pods")

    def drain(self, pod: str) -> Document:
        """Have a pod do nothing more; its job goes on elsewhere. The pod, which may still be at its
        last step."""
        return self._ask("POST", f"/pods/{_quoted(pod)}/drain").json()

    def undrain(self, pod: str) -> Document:
        """Use a pod again that was drained or quarantined."""
        return self._ask("POST", f"/pods/{_quoted(pod)}/undrain").json()

    def links(self) -> Document:
        """{"links": traffic by direction, "pods": conditions of their emulated links}."""
        return self._get("/links")

    def set_link(self, pod: str, conditions: Mapping[str, Any]) -> Document:
        """Have everything that a pod sends meet these conditions, as texts such as 200Mbit; what is
        left out is none."""
        return self._ask("PUT", f"/links/{_quoted(pod)}", json=dict(conditions)).json()

    def version(self) -> Document:
        return self._get("/version")

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_change: Callable[[Document], None] = lambda job: None,
        until: Callable[[Document], bool] = lambda job: False,
    ) -> Document:
        """The job once it has ended or `until` says yes; raises WaitTimedOut.

        `on_change` sees the job as it moves on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            on_change(job)
            if job["state"] in FINAL_STATES or until(job):
                return job
            for message in self._stream(f"job:{job_id}", None, deadline):
                if message.event == "job" and message.data is not None:
                    on_change(message.data)
                    if message.data["state"] in FINAL_STATES or until(message.data):
                        return message.data
            if deadline is not None and time.monotonic() >= deadline:
                raise errors.WaitTimedOut(f"job {job_id} had not ended; it goes on", timeout or 0.0)

    def wait_for_pods(self, count: int, timeout: float | None = None) -> list[Document]:
        """The pods once `count` of them are free to take a job; raises WaitTimedOut."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            for message in self._stream("pods", None, deadline):
                if message.event == "pods" and message.data is not None:
                    ready = [pod for pod in message.data["pods"] if pod["state"] == "READY"]
                    if len(ready) >= count:
                        return ready
        raise errors.WaitTimedOut(f"{count} pods were not ready", timeout or 0.0)

    def follow(self, job_id: str) -> Iterator[Document]:
        """Events of a job, from its first to the one that ends it."""
        after = 0
        while True:
            page = self.events(job_id, after=after)
            yield from page["events"]
            after = page["next_after"]
            if not page["events"] and self.job(job_id)["state"] in FINAL_STATES:
                return
            for message in self._stream(f"job:{job_id}", after, None):
                if message.event == "event":
                    yield message.data
                    after = message.data["seq"]
                elif message.event == "job" and message.data["state"] in FINAL_STATES:
                    break

    def _stream(
        self, topic: str, after: int | None, deadline: float | None
    ) -> Iterator[sse.Message]:
        """Messages until the stream ends, falls silent or the deadline passes."""
        silence = _STREAM_SILENCE_SECONDS
        if deadline is not None:
            silence = max(0.01, min(silence, deadline - time.monotonic()))
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        timeout = httpx2.Timeout(30.0, read=silence)
        try:
            with self._http.stream(
                "GET", "/stream", params={"topics": topic}, headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code == 503:
                    time.sleep(float(answer.headers.get("Retry-After", 1)))
                    return
                if answer.is_error:
                    answer.read()
                    raise _error_of(answer)
                for message in sse.messages(answer.iter_lines()):
                    yield message
                    if deadline is not None and time.monotonic() >= deadline:
                        return
        except httpx2.TimeoutException:
            return
        except httpx2.TransportError as error:
            # The stream may break when the controller restarts; the next question tells whether.
            if isinstance(error, httpx2.ConnectError):
                raise errors.Unreachable(self.address, str(error)) from error

    def _send_spec(self, path: str, spec: Spec, key: str | None = None) -> Document:
        if isinstance(spec, pathlib.Path):
            content, media_type = spec.read_bytes(), "application/yaml"
            if spec.suffix == ".json":
                media_type = "application/json"
        elif isinstance(spec, str):
            content, media_type = spec.encode(), "application/yaml"
        else:
            content, media_type = json.dumps(spec).encode(), "application/json"
        headers = {"Content-Type": media_type}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._ask("POST", path, content=content, headers=headers).json()

    def _get(self, path: str, **parameters: Any) -> Document:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given).json()

    def _ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, **request)
        except (httpx2.TransportError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise errors.Unreachable(self.address, str(error) or type(error).__name__) from error
        if answer.is_error:
            raise _error_of(answer)
        return answer


def _error_of(answer: httpx2.Response) -> errors.ApiError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {"detail": answer.text[:500], "status": answer.status_code, "errors": []}
    kind = errors.BY_STATUS.get(answer.status_code, errors.ApiError)
    return kind(answer.status_code, problem, answer.headers)


def _quoted(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):02X}" for c in name) or "%20"
