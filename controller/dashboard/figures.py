"""How numbers are written for people: rounded, with a unit, and a dash for what is not known."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "\N{EN DASH}"

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None, unit: str = "") -> str:
    """Three digits and a decimal prefix: 12.3 GFLOP/s."""
    if value is None:
        return UNKNOWN
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {prefix}{unit}"
    return f"{_three_digits(value)} {unit}".rstrip()


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def fixed(value: float | None, digits: int = 4) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """The two largest units: 3 h 20 min."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 0.01:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def moment(time: float | None) -> str:
    """ISO 8601, UTC, for machines and tooltips."""
    if time is None:
        return ""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="seconds")


def clock_time(time: float | None) -> str:
    """Date and time of day, UTC."""
    if time is None:
        return UNKNOWN
    return f"{datetime.datetime.fromtimestamp(time, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def agreement(pods: Sequence[Mapping[str, Any]]) -> str:
    """Whether the newest digests of the pods are `equal`, `differ`, or cannot be compared.

    They are `unknown` when some pod has none or, for a moment, when they are of different steps.
    """
    digests = [pod["digest"] for pod in pods]
    if not digests or None in digests or len({digest["step"] for digest in digests}) > 1:
        return "unknown"
    return "equal" if len({digest["sha256"] for digest in digests}) == 1 else "differ"


def conditions(pod: Mapping[str, Any]) -> str | None:
    """Of everything that a pod sends, in words; None when its link is not emulated."""
    if not pod["is_emulated"]:
        return None
    told = pod["conditions"]
    if told is None:
        return "changing over"
    named = [
        f"{name.replace('_', ' ')} {text}"
        for name, text in told.items()
        if text and name != "partitioned"
    ]
    if told["partitioned"]:
        named.insert(0, "partitioned")
    return ", ".join(named) or "no limits"


def ratio(value: float | None) -> str:
    """How many times less: 3.9 x."""
    return UNKNOWN if value is None else f"{value:.2f} \N{MULTIPLICATION SIGN}"


def memory(num_bytes: float | None) -> str:
    """Of a device, in the binary units of its data sheet."""
    if num_bytes is None:
        return UNKNOWN
    gib = num_bytes / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{_three_digits(1024 * gib)} MiB"


MEANINGS = {
    "productive": "computing steps that count",
    "startup": "from admission until steps ran, without compiling",
    "compile": "what the host compiled that was ready last",
    "data_wait": "steps waited for data",
    "exposed_exchange": "steps waited for the link",
    "straggler_wait": "the fastest pods waited for the slowest",
    "checkpoint": "steps stood still to save and to evaluate",
    "recovery": "from what went wrong until steps ran again",
    "rework": "steps that were undone",
    "suspended": "put aside, or ended and tried again later",
    "idle": "none of these; the step that is under way",
}
"""Of categories of time."""

COLOURS = {
    "productive": 1,
    "startup": 0,
    "compile": 8,
    "data_wait": 3,
    "exposed_exchange": 2,
    "straggler_wait": 9,
    "checkpoint": 10,
    "recovery": 6,
    "rework": 5,
    "suspended": 4,
    "idle": 7,
}
"""Of categories, as numbers of the style sheet."""


def spent(time_seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parts of a bar, as `shares` has them, without those that took no time; each with its
    colour."""
    parts = [part for part in shares(time_seconds) if part["amount"] > 0]
    return [{**part, "colour": COLOURS.get(part["category"], 7)} for part in parts]


def shares(amounts: Mapping[str, float]) -> list[dict[str, Any]]:
    """Categories as parts of a bar that is 1000 wide; the rounded parts fill it exactly."""
    total = sum(amounts.values())
    if total <= 0:
        return []
    parts, start = [], 0
    passed = 0.0
    for category, size in amounts.items():
        passed += size
        end = round(1000 * passed / total)
        share = max(0, end - start)
        parts.append({"category": category, "amount": size, "start": start, "width": share})
        start = max(start, end)
    return parts


def passed_over(skipped: Sequence[Sequence[int]]) -> int:
    """Sequences in ranges [first, end) of positions."""
    return sum(end - first for first, end in skipped)


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    return (
        f"{value:.0f}"
        if magnitude >= 100 or value == int(value)
        else (f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}")
    )


FILTERS = {
    f.__name__: f
    for f in (
        amount,
        count,
        percent,
        fixed,
        duration,
        memory,
        moment,
        clock_time,
        passed_over,
        ratio,
        shares,
        spent,
    )
}
