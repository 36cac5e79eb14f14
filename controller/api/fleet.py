"""Pods and the links between them, and which versions run."""

from __future__ import annotations

import importlib.metadata
import platform

import pydantic
from fastapi import APIRouter
from starlette.responses import Response

from controller.api.answers import json_response
from controller.api.context import ApiContext, Context
from controller.api.problems import RESPONSES, ApiProblem, SpecProblem
from controller.core import view
from controller.core.errors import LinkNotEmulated, UnknownPod
from controller.core.events import DrainRequested, LinkChangeRequested, UndrainRequested
from controller.core.link import LinkConditions, NotALink, parse_conditions

router = APIRouter(tags=["fleet"], responses=RESPONSES)


class Conditions(pydantic.BaseModel):
    """Of everything that a pod sends; what is left out or null is none."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    bandwidth: str | None = pydantic.Field(None, examples=["200Mbit"])
    latency: str | None = pydantic.Field(None, examples=["5ms"], description="one way")
    jitter: str | None = pydantic.Field(None, examples=["2ms"])
    stall_every: str | None = pydantic.Field(None, examples=["30s"], description="on average")
    stall: str | None = pydantic.Field(None, examples=["500ms"])
    drop: str | None = pydantic.Field(None, examples=["0.1%"])
    partitioned: bool = pydantic.Field(False, description="whether nothing arrives for now")

    def parsed(self) -> LinkConditions:
        """Raises ApiProblem."""
        texts = self.model_dump(exclude={"partitioned"})
        named = {name.replace("_", "-"): text for name, text in texts.items()}
        try:
            return parse_conditions(named, "{}", is_partitioned=self.partitioned)
        except NotALink as error:
            pointer = "/" + error.name.replace("-", "_")
            problem = SpecProblem(pointer, "link", error.detail, error.hint)
            raise ApiProblem(422, "invalid-link", str(error), errors=[problem]) from None


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


@router.post("/pods/{name}/drain", operation_id="drainPod", status_code=202)
async def drain_pod(name: str, context: Context) -> Response:
    """Have a pod do nothing more. The job that it works for goes on elsewhere after the step at
    hand, and the pod is DRAINED once it has let go. Doing it twice changes nothing."""
    return await _about_pod(DrainRequested(name, "a request to the API"), context)


@router.post("/pods/{name}/undrain", operation_id="undrainPod", status_code=202)
async def undrain_pod(name: str, context: Context) -> Response:
    """Use a pod again that was drained or quarantined."""
    return await _about_pod(UndrainRequested(name, "a request to the API"), context)


async def _about_pod(request: DrainRequested | UndrainRequested, context: ApiContext) -> Response:
    try:
        await context.loop.ask(request)
    except UnknownPod as error:
        raise ApiProblem(404, "no-such-pod", str(error)) from None
    state = context.loop.state
    return json_response(view.pod_document(state.pods[request.pod], state, context.clock()), 202)


@router.get("/links", operation_id="listLinks")
async def list_links(context: Context) -> Response:
    """Traffic between pods, one entry per direction; and of each pod the conditions that everything
    it sends meets on its emulated link."""
    state = context.loop.state
    pods = view.emulated_link_documents(state)
    return json_response({"links": view.link_documents(state), "pods": pods})


@router.put("/links/{pod}", operation_id="setLink", status_code=202)
async def set_link(pod: str, conditions: Conditions, context: Context) -> Response:
    """Change the emulated link of a pod that runs. Its hosts are told at once, and GET /links shows
    what they say is in force. A pod whose link is not emulated is a conflict."""
    wanted = conditions.parsed()
    try:
        await context.loop.ask(LinkChangeRequested(pod, wanted, "a request to the API"))
    except UnknownPod as error:
        raise ApiProblem(404, "no-such-pod", str(error)) from None
    except LinkNotEmulated as error:
        raise ApiProblem(409, "link-not-emulated", str(error)) from None
    document = {"name": pod, "conditions": view.link_conditions_document(wanted)}
    return json_response(document, 202)


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
