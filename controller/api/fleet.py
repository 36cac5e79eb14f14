"""Pods and the links between them, and which versions run."""

from __future__ import annotations

import importlib.metadata
import platform

from fastapi import APIRouter
from starlette.responses import Response

from controller.api.answers import json_response
from controller.api.context import ApiContext, Context
from controller.api.problems import RESPONSES, ApiProblem
from controller.core import view

router = APIRouter(tags=["fleet"], responses=RESPONSES)


@router.get("/pods", operation_id="listPods")
async def list_pods(context: Context) -> Response:
    """All pods with their hosts, accelerators and the job they work for."""
    return json_response({"pods": pod_documents(context)})


@router.get("/pods/{name}", operation_id="getPod")
async def get_pod(name: str, context: Context) -> Response:
    """One pod."""
    state = context.loop.state
    pod = state.pods.get(name)
    if pod is None:
        detail = f"no pod is called {name[:64]!r}; GET /api/v1/pods lists those there are"
        raise ApiProblem(404, "no-such-pod", detail)
    return json_response(view.pod_document(pod, state, context.clock()))


@router.get("/links", operation_id="listLinks")
async def list_links(context: Context) -> Response:
    """Traffic between pods, one entry per direction."""
    return json_response({"links": view.link_documents(context.loop.state)})


@router.get("/version", operation_id="getVersion")
async def get_version() -> Response:
    """Versions of the controller, its API and the interpreter."""
    return json_response(version_document())


def pod_documents(context: ApiContext) -> list[view.Document]:
    """All pods by name, as they are now."""
    state, now = context.loop.state, context.clock()
    return [view.pod_document(pod, state, now) for _, pod in sorted(state.pods.items())]


def version_document() -> dict[str, str]:
    """What runs here."""
    return {
        "landbridge": importlib.metadata.version("landbridge"),
        "api": "v1",
        "spec": "1",
        "python": platform.python_version(),
    }
