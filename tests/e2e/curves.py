"""What a run came to, bit by bit, to compare with another."""

from __future__ import annotations

from typing import Any

from landbridge.client import Client


def digest_of(job: dict[str, Any]) -> str:
    """That of all of its pods; ValueError when they differ."""
    (digest,) = {pod["digest"]["sha256"] for pod in job["pods"]}
    return digest


def losses_of(client: Client, job_id: str) -> list[tuple[int, float]]:
    """Every step that was recorded, in order, with its loss."""
    return [(step["step"], step["loss"]) for step in client.every_step(job_id)]
