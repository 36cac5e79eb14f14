"""What the command line prints, and the exit codes: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from typer.exceptions import TyperException

from landbridge import errors

OK, JOB_FAILED, USAGE, INVALID_SPEC, NOT_FOUND, NOT_ALLOWED, UNREACHABLE, CONFLICT = range(8)
TIMED_OUT = 124
INTERRUPTED = 130

_EXIT_CODES: Sequence[tuple[type[errors.LandbridgeError], int]] = (
    (errors.InvalidSpec, INVALID_SPEC),
    (errors.NotFound, NOT_FOUND),
    (errors.NotAllowed, NOT_ALLOWED),
    (errors.Unreachable, UNREACHABLE),
    (errors.Conflict, CONFLICT),
    (errors.StateHeld, CONFLICT),
    (errors.WaitTimedOut, TIMED_OUT),
    (errors.LandbridgeError, JOB_FAILED),
)


def say(message: str) -> None:
    """A message for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


def data(document: Any) -> None:
    """The answer, for machines: one line of JSON."""
    print(json.dumps(document, allow_nan=False), flush=True)


def answer(document: Any, as_json: bool, show: Callable[[Any], None]) -> int:
    """Print what the controller answered, as JSON or as `show` does for people; returns OK."""
    if as_json:
        data(document)
    else:
        show(document)
    return OK


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The answer, for people and for `grep`: aligned columns."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def report_error(error: errors.LandbridgeError, as_json: bool) -> int:
    """Say what went wrong; returns the exit code."""
    if as_json:
        data({"error": error.problem})
    else:
        say(f"error: {error}")
        for item in error.problem.get("errors", []):
            where = f"{item['line']}:{item['column']}: " if item.get("line") else ""
            say(f"  {where}{item['pointer'] or '/'}: {item['detail']} ({item['hint']})")
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def report_usage(error: TyperException, as_json: bool) -> int:
    """Say how the command line was wrong; returns the exit code."""
    if as_json:
        problem = errors.LandbridgeError("usage", error.format_message()).problem
        data({"error": problem})
    else:
        say(f"error: {error.format_message()}\nTry `landbridge COMMAND --help`.")
    return USAGE


def report_interrupt(as_json: bool) -> int:
    """Say that a person stopped it; returns the exit code."""
    if as_json:
        data({"error": errors.LandbridgeError("interrupted", "interrupted").problem})
    return INTERRUPTED
