"""OpenAPI: what FastAPI finds out by itself, plus the schemas of job specs and of problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from controller.api.spec import Spec

_REFERENCE = "#/components/schemas/{model}"

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "request_id", "errors"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": _NUMBER,
        "detail": _TEXT,
        "instance": _TEXT,
        "request_id": _TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail", "hint"],
                "properties": {
                    **dict.fromkeys(("pointer", "code", "detail", "hint"), _TEXT),
                    **dict.fromkeys(("line", "column"), _NUMBER),
                },
            },
        },
    },
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The whole description, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        spec = Spec.model_json_schema(ref_template=_REFERENCE)
        parts = spec.pop("$defs")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= {**parts, "Spec": spec, "Problem": _PROBLEM}
        app.openapi_schema = document
    return app.openapi_schema
