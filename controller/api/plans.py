"""Dry runs: is the specification sound, and what would the job be?"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from controller.api import submissions
from controller.api.answers import json_response
from controller.api.context import Context
from controller.api.jobs import SPEC_BODY
from controller.api.plan import plan_document
from controller.api.problems import RESPONSES

router = APIRouter(tags=["jobs"], responses=RESPONSES)


@router.post("/jobs:validate", operation_id="validateJob", openapi_extra=SPEC_BODY)
async def validate_job(request: Request, context: Context) -> Response:
    """Check a job spec as a submission would, and answer its plan. Nothing starts."""
    submission = await submissions.read(request, context)
    return json_response(plan_document(submission.spec, context.loop.state.pods.values()))


@router.post("/jobs:plan", operation_id="planJob", openapi_extra=SPEC_BODY)
async def plan_job(request: Request, context: Context) -> Response:
    """What the job would need and how fast it would be, on the pods there are or on what the spec's
    `assume` says. Nothing starts; what this version cannot run yet is planned with a warning."""
    submission = await submissions.read(request, context, refuse_unavailable=False)
    return json_response(plan_document(submission.spec, context.loop.state.pods.values()))
