"""What can go wrong between a client and its controller.

LandbridgeError
|- Unreachable          nobody answers at the address
|- WaitTimedOut         a job had not ended in time; it goes on
|- NotInstalled         this machine lacks what a command needs
|- StateHeld            another controller runs on the same state
`- ApiError             the controller answered with a problem
    |- InvalidSpec      422, with everything that is wrong
    |- NotFound         404
    |- NotAllowed       401 or 403
    `- Conflict         409
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Problem = dict[str, Any]
"""A problem document (RFC 9457) as the controller sends it."""


class LandbridgeError(Exception):
    """Base of everything the client raises on purpose; `problem` says it for machines."""

    def __init__(self, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.problem: Problem = {
            "type": f"urn:landbridge:problem:{slug}",
            "title": slug.replace("-", " ").capitalize(),
            "detail": detail,
            "errors": [],
        }


class NotInstalled(LandbridgeError):
    """This machine lacks what a command needs; the message says what to install."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-installed", detail)


class StateHeld(LandbridgeError):
    """Another controller runs on the same state; the message says which."""

    def __init__(self, detail: str) -> None:
        super().__init__("state-held", detail)


class Unreachable(LandbridgeError):
    """Nobody answers at the address."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(
            "unreachable",
            f"no controller answers at {address} ({cause}); start one with `landbridge up`, "
            "or set LANDBRIDGE_ADDRESS",
        )


class WaitTimedOut(LandbridgeError):
    """What was waited for had not come in time; nothing was stopped."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__("wait-timed-out", f"after {seconds:.0f} s {what}")


class ApiError(LandbridgeError):
    """The controller answered with a problem."""

    def __init__(self, status: int, problem: Problem, headers: Mapping[str, str]) -> None:
        super().__init__("error", str(problem.get("detail", f"status {status}")))
        self.problem = problem
        self.status = status
        self.headers = headers


class InvalidSpec(ApiError):
    """Everything that is wrong with what was sent is in `problem["errors"]`."""


class NotFound(ApiError):
    """What was named is not there."""


class NotAllowed(ApiError):
    """The token is missing or not the right one."""


class Conflict(ApiError):
    """It cannot be done in the state things are in."""


BY_STATUS: Mapping[int, type[ApiError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    422: InvalidSpec,
}
