"""The HTTP face of the controller: one application from one context, and its metrics alone."""

from __future__ import annotations

import functools
import importlib.metadata

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from controller import dashboard
from controller.api import fleet, health, jobs, plans, problems, records, schema, stream
from controller.api.context import ApiContext
from controller.api.middleware import Guard, RequestIds
from controller.api.problems import ApiProblem, problem_response
from controller.api.submissions import KeysUnderWay
from controller.dashboard import pages

PREFIX = "/api/v1"


def create_app(context: ApiContext) -> FastAPI:
    """The application. It reads the context's loop and store and owns nothing of them."""
    app = FastAPI(
        title="Landbridge",
        version=importlib.metadata.version("landbridge"),
        description="Trains one JAX model on several accelerator pods joined by a slow link.",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.context = context
    app.state.streams = stream.Slots(context.max_streams)
    app.state.keys_under_way = KeysUnderWay()
    app.openapi = functools.partial(schema.openapi, app)  # type: ignore[method-assign]
    problems.install(app)
    for module in (plans, jobs, records, fleet, stream):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(health.router)
    app.include_router(pages.router)
    app.mount("/static", dashboard.static_files())
    app.add_middleware(Guard, token=context.token)
    app.add_middleware(RequestIds)
    return app


class MetricsOnly:
    """The API's application with its rules about who may ask, and nothing of it but /metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/metrics":
            await self._app(scope, receive, send)
            return
        problem = ApiProblem(
            404, "not-found", "this port serves /metrics alone; ask the port of the API (--http)"
        )
        await problem_response(Request(scope), problem)(scope, receive, send)
