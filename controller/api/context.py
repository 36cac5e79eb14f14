"""What the API needs of the controller: everything it uses is handed to it here."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from controller.runtime.loop import Loop
from controller.runtime.store import Store

MAX_STREAMS = 64
"""Event streams at a time; each costs two small queries a second. Browsers reconnect."""


def _no_reasons() -> list[str]:
    return []


def _keep_nothing(job_id: str) -> None:
    """Where nobody keeps anything of a job outside the store."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """The parts of a running controller that readers see and callers reach."""

    loop: Loop
    store: Store
    registry: CollectorRegistry
    token: str = dataclasses.field(default="", repr=False)
    """Bearer token that every request must show; empty lets everybody in."""
    check_data_paths: bool = False
    """Whether the hosts see the same files as this process."""
    clock: Callable[[], float] = time.time
    ready: Callable[[], list[str]] = _no_reasons
    """Why the controller is not ready, beside the store; empty when it is."""
    forget_job: Callable[[str], None] = _keep_nothing
    """Called when a job was deleted, so that its metrics go too."""
    stopping: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when the server is about to stop, so that open streams end at once."""
    max_streams: int = MAX_STREAMS


async def _context_of(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context_of)]
"""A route's parameter: the context the application was created with."""
