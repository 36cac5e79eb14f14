"""For machines that watch: is the process alive, may it get requests, what does it measure."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from controller.api.answers import json_response
from controller.api.context import Context
from controller.api.problems import RESPONSES, ApiProblem

router = APIRouter(tags=["health"], responses=RESPONSES)


@router.get("/livez", operation_id="isAlive")
async def livez() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


@router.get("/readyz", operation_id="isReady")
def readyz(context: Context) -> Response:
    """The store answers and nothing else speaks against sending requests here."""
    reasons = list(context.ready())
    if not context.store.is_reachable():
        reasons.append("the store does not answer")
    if reasons:
        raise ApiProblem(503, "not-ready", "; ".join(reasons), headers={"Retry-After": "1"})
    return json_response({"status": "ok"})


@router.get("/metrics", operation_id="getMetrics")
def metrics(request: Request, context: Context) -> Response:
    """Prometheus metrics."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(context.registry), headers={"Content-Type": content_type})
