"""Routes of the dashboard: the fleet, one job, a plan, and the way in."""

from __future__ import annotations

import secrets
import urllib.parse
from collections.abc import Mapping
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from controller.api import auth, fleet, jobs, records
from controller.api.context import ApiContext, Context
from controller.core import view
from controller.dashboard import FOLDER, figures, planned, timeline
from controller.runtime.store import JobQuery

router = APIRouter(include_in_schema=False)

_JOBS_SHOWN = 50
_EVENTS_SHOWN = 50

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_templates.filters.update(figures.FILTERS)
_templates.globals["meanings"] = figures.MEANINGS
_templates.globals["agreement"] = figures.agreement
_templates.globals["version"] = fleet.version_document()["landbridge"]


@router.get("/")
def fleet_page(
    context: Context, page_token: Annotated[str | None, Query(max_length=512)] = None
) -> Response:
    """Pods, links and jobs."""
    query = JobQuery(page_size=_JOBS_SHOWN, page_token=page_token)
    documents, next_token = jobs.job_page(context, query)
    pods = fleet.pod_documents(context)
    return _page(
        "fleet.html",
        context,
        pods=pods,
        links=_links(context),
        emulated=_emulated(context),
        jobs=documents,
        is_first_page=page_token is None,
        next_page_token=next_token,
        tiles=_tiles(context, pods),
        events=_latest_events(context, None),
    )


@router.get("/jobs/{job_id}")
def job_page(job_id: str, context: Context) -> Response:
    """One job."""
    document = jobs.job_document(context, job_id)
    events = _latest_events(context, job_id)
    links = [link for link in _links(context) if {link["src"], link["dst"]} <= _gang(document)]
    course = timeline.drawn(records.attempts_of(job_id, context), context.clock())
    return _page("job.html", context, job=document, links=links, events=events, course=course)


@router.get("/plan")
async def plan_page(
    context: Context, example: Annotated[str, Query(max_length=100)] = planned.SHOWN_FIRST
) -> Response:
    """An example and its plan."""
    path = planned.examples().get(example)
    if path is None:
        return RedirectResponse("/plan", 303)
    return await _plan_page(path.read_text(encoding="utf-8"), context, example)


@router.post("/plan")
async def plan_given(request: Request, context: Context) -> Response:
    """The plan of the specification that was typed in."""
    text = (await _form(request)).get("spec", [""])[0]
    return await _plan_page(text.replace("\r\n", "\n"), context, None)


async def _plan_page(text: str, context: ApiContext, example: str | None) -> Response:
    answer = await planned.answer(text, context)
    return _page(
        "plan.html",
        context,
        text=text,
        example=example,
        examples=planned.examples(),
        answer=answer,
    )


@router.get("/login")
def login_page() -> Response:
    """Asks for the token."""
    return _page("login.html", None, is_wrong=False)


@router.post("/login")
async def login(request: Request, context: Context) -> Response:
    """Trades the token for a cookie."""
    given = (await _form(request)).get("token", [""])[0]
    if context.token and not auth.is_token(given, context.token):
        return _page("login.html", None, status=401, is_wrong=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        auth.COOKIE,
        auth.cookie_value(context.token or secrets.token_hex()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


async def _form(request: Request) -> dict[str, list[str]]:
    return urllib.parse.parse_qs((await request.body()).decode(errors="replace"))


def _page(
    template: str, context: ApiContext | None, *, status: int = 200, **values: Any
) -> Response:
    now = context.clock() if context is not None else None
    html = _templates.get_template(template).render(now=now, **values)
    return HTMLResponse(html, status, _HEADERS)


def _links(context: ApiContext) -> list[view.Document]:
    """With the conditions in force where the link is emulated, else None."""
    emulated = _emulated(context)
    links = view.link_documents(context.loop.state)
    return [{**link, "emulated": emulated.get(link["src"])} for link in links]


def _emulated(context: ApiContext) -> dict[str, str]:
    """Conditions in force, by pod whose link is emulated."""
    told = view.emulated_link_documents(context.loop.state)
    return {pod["name"]: text for pod in told if (text := figures.conditions(pod)) is not None}


def _gang(job: view.Document) -> set[str]:
    return {pod["name"] for pod in job["pods"]}


def _tiles(context: ApiContext, pods: list[view.Document]) -> Mapping[str, Any]:
    states = [str(job.state) for job in context.loop.state.jobs.values()]
    waiting = states.count("PENDING")
    busy = [pod for pod in pods if pod["state"] == "BUSY"]
    return {
        "running": len(states) - waiting,
        "waiting": waiting,
        "pods": len(pods),
        "pods_up": sum(pod["state"] not in ("FORMING", "LOST") for pod in pods),
        "devices": sum(pod["num_devices"] for pod in pods),
        "devices_busy": sum(pod["num_devices"] for pod in busy),
    }


def _latest_events(context: ApiContext, job_id: str | None) -> list[dict[str, Any]]:
    """The newest first."""
    rows = context.store.latest_events(_EVENTS_SHOWN, job_id)
    return [records.event_document(row) for row in rows]
