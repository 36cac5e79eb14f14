"""Rules of the placement section that its fields alone do not show."""

from __future__ import annotations

from typing import Any

from controller.api.problems import SpecProblem


def placement_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """What contradicts what."""
    section = document.get("placement")
    if not isinstance(section, dict) or section.get("wait_timeout") is None:
        return []
    if section.get("on_pod_loss", "fail") != "fail":
        return []
    detail = "a job with on_pod_loss: fail ends when it loses a pod, and waits for none"
    hint = "leave it out, or use on_pod_loss: wait or shrink"
    return [SpecProblem("/placement/wait_timeout", "invalid", detail, hint)]
