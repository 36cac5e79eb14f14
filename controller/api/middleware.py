"""What holds for every request: an id, a bound on the body, and who may ask.

Plain ASGI, since the bound must be kept while bytes arrive and streams must pass through untouched.
"""

from __future__ import annotations

import re
import uuid

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api import auth
from controller.api.problems import ApiProblem, problem_response

MAX_BODY_BYTES = 1 << 20
"""A specification has a few kilobytes."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives every request an id, the caller's own when it sent one, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


class Guard:
    """Turns away who may not ask and what is too large, before any of it is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        problem = auth.objection(request, self._token) or _too_large(request)
        if problem is not None:
            answer = problem_response(request, problem)
            if problem.status == 401 and "text/html" in request.headers.get("accept", ""):
                answer = RedirectResponse("/login", 303)
            await answer(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _body_too_large()
            return message

        await self._app(scope, receive_bounded, send)


def _too_large(request: Request) -> ApiProblem | None:
    length = request.headers.get("content-length", "0")
    return _body_too_large() if length.isdigit() and int(length) > MAX_BODY_BYTES else None


def _body_too_large() -> ApiProblem:
    return ApiProblem(413, "body-too-large", f"the body has more than {MAX_BODY_BYTES} bytes")
