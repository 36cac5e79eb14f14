"""The way in for specifications: bytes of a request to a checked specification, and on to a job.

A repeated request (same Idempotency-Key, same body) gets the job of the first; the key with another
body is an error, and so is one whose first request is still under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from starlette.requests import Request

from controller.api.context import ApiContext
from controller.api.conversion import job_spec
from controller.api.documents import Parsed, parse_json, parse_yaml
from controller.api.ids import new_id
from controller.api.origin import origin_of
from controller.api.problems import ApiProblem, SpecProblem, refused
from controller.api.spec import Spec
from controller.api.validation import validate
from controller.core.events import JobSubmitted

_PARSERS: dict[str, Callable[[str], Parsed]] = {
    "application/json": parse_json,
    **dict.fromkeys(
        ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"), parse_yaml
    ),
}

_MAX_KEY_LENGTH = 255


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """A checked specification and the bytes it came in."""

    spec: Spec
    text: str
    body_digest: str


class KeysUnderWay:
    """Idempotency keys whose first request is not yet answered."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    @contextlib.contextmanager
    def hold(self, key: str | None) -> Iterator[None]:
        """Keep the key for a while; raises ApiProblem when somebody holds it."""
        if key is None:
            yield
            return
        if key in self._keys:
            detail = "the first request with this Idempotency-Key is still under way"
            raise ApiProblem(409, "request-under-way", detail, headers={"Retry-After": "1"})
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)


async def read(
    request: Request, context: ApiContext, *, refuse_unavailable: bool = True
) -> Submission:
    """The specification in the body; raises ApiProblem with everything wrong with it."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    parser = _PARSERS.get(content_type)
    if parser is None:
        detail = f"{content_type[:60] or 'no content type'} is not read here; send one of: "
        raise ApiProblem(415, "unsupported-media-type", detail + ", ".join(_PARSERS))
    body = await request.body()
    text = _decoded(body)
    spec = await asyncio.to_thread(
        validate,
        text,
        parser,
        check_data_paths=context.check_data_paths,
        refuse_unavailable=refuse_unavailable,
    )
    return Submission(spec, text, hashlib.sha256(body).hexdigest())


async def submit(submission: Submission, key: str | None, context: ApiContext) -> str:
    """Make it a job; returns its id once it is decided and stored."""
    job_id = new_id(context.clock())
    origin = await asyncio.to_thread(origin_of, submission.spec, context)
    spec = await asyncio.to_thread(job_spec, submission.spec, submission.text, origin)
    await context.loop.ask(JobSubmitted(job_id, spec, key, submission.body_digest))
    return job_id


async def earlier_job(request: Request, key: str | None, context: ApiContext) -> str | None:
    """The job that this very request made before; raises ApiProblem when the key made another."""
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY_LENGTH or not key.isprintable():
        detail = f"Idempotency-Key must be 1 to {_MAX_KEY_LENGTH} printable characters"
        raise ApiProblem(422, "invalid-idempotency-key", detail)
    found = await asyncio.to_thread(context.store.by_idempotency_key, key)
    if found is None:
        return None
    job_id, body_digest = found
    if body_digest != hashlib.sha256(await request.body()).hexdigest():
        detail = f"this Idempotency-Key was used with another body, for job {job_id}; use a new key"
        raise ApiProblem(422, "idempotency-key-reused", detail)
    return job_id


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not UTF-8: {error.reason}"
        raise refused(SpecProblem("", "syntax", detail, "send UTF-8")) from error
