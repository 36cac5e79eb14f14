"""Everything the API says when it cannot do what was asked: RFC 9457 problem documents.

A problem names what is wrong, where (`errors`, with a JSON pointer each) and what to do. Nothing
of the inside leaks: an unexpected exception is logged with its request id and answered by that id.
"""

from __future__ import annotations

import dataclasses
import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from controller.api.answers import json_response
from controller.runtime.lease import LeaseLost
from controller.runtime.store_failure import StoreFailed

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in (
        (422, "The request or the job spec in it is invalid"),
        ("default", "A problem"),
    )
}
"""What every route may answer, for OpenAPI."""

MAX_ERRORS = 100
"""Errors listed in one problem; nobody mends more at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpecProblem:
    """One thing wrong with a document that was sent."""

    pointer: str
    code: str
    detail: str
    hint: str
    line: int | None = None
    """Line and column from 1, when the text was YAML."""
    column: int | None = None

    def document(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        if self.line is None:
            del document["line"], document["column"]
        return document


class ApiProblem(Exception):
    """A request that cannot be met. `slug` names the kind of problem, stable for machines."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[SpecProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.errors = errors
        self.headers = headers


def refused(problem: SpecProblem) -> ApiProblem:
    """A specification with one thing wrong."""
    return ApiProblem(422, "invalid-spec", problem.detail, errors=[problem])


def no_such_job(job_id: str) -> ApiProblem:
    """No job, live or finished, has this id."""
    detail = f"no job has the id {job_id[:64]!r}; GET /api/v1/jobs lists those there are"
    return ApiProblem(404, "no-such-job", detail)


def problem_response(request: Request, problem: ApiProblem) -> Response:
    """The problem as an answer."""
    document: dict[str, Any] = {
        "type": f"urn:landbridge:problem:{problem.slug}",
        "title": http.HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "request_id": request.scope.get("state", {}).get("request_id"),
        "errors": [error.document() for error in problem.errors[:MAX_ERRORS]],
    }
    return json_response(document, problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(ApiProblem)
    async def _api_problem(request: Request, error: ApiProblem) -> Response:
        return problem_response(request, error)

    @app.exception_handler(StoreFailed)
    @app.exception_handler(LeaseLost)
    async def _no_records(request: Request, error: Exception) -> Response:
        logger.error("a request met this: %s", error)
        return problem_response(request, ApiProblem(503, "store-failed", str(error)))

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        return problem_response(request, _of_http_error(request, error))

    @app.exception_handler(RequestValidationError)
    async def _invalid_request(request: Request, error: RequestValidationError) -> Response:
        return problem_response(request, _of_invalid_request(error))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        request_id = request.scope.get("state", {}).get("request_id")
        logger.error("request %s failed", request_id, exc_info=error)
        detail = f"an error in the controller; its log tells more about request {request_id}"
        # This handler is called outside the middleware that sets the header on all other answers.
        headers = {"X-Request-ID": str(request_id)}
        return problem_response(request, ApiProblem(500, "internal-error", detail, headers=headers))


def _of_http_error(request: Request, error: HTTPException) -> ApiProblem:
    details = {
        404: f"nothing is at {request.url.path[:200]}; /openapi.json lists what there is",
        405: f"{request.method} is not possible here",
    }
    phrase = http.HTTPStatus(error.status_code).phrase
    detail = details.get(error.status_code, str(error.detail))
    slug = phrase.lower().replace(" ", "-")
    return ApiProblem(error.status_code, slug, detail, headers=error.headers)


def _of_invalid_request(error: RequestValidationError) -> ApiProblem:
    errors = [
        SpecProblem(
            "/" + "/".join(str(part) for part in item["loc"]),
            item["type"],
            item["msg"],
            "see the parameters in /openapi.json",
        )
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.pointer}: {item.detail}" for item in errors)
    return ApiProblem(422, "invalid-request", detail, errors=errors)
