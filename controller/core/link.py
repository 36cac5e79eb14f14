"""Conditions of an emulated link: read from the texts people write, written in the same form.

The workers, who emulate it, read the same texts (workers.exchange.conditions);
tests/contracts/test_link_conditions.py keeps both alike.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

_BITS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_PERCENT = {"%": 1.0}

EXAMPLES: Mapping[str, str] = {
    "bandwidth": "200Mbit",
    "latency": "5ms",
    "jitter": "2ms",
    "stall-every": "30s",
    "stall": "500ms",
    "drop": "0.1%",
}
"""What conditions there are, each with a text that is one."""

_UNITS = {"bandwidth": _BITS, "drop": _PERCENT}
"""Of those that are no durations."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkConditions:
    """Of everything that one host sends. The default is a link without limits."""

    bandwidth_bytes_per_second: float | None = None
    latency_seconds: float = 0.0
    """One way."""
    jitter_seconds: float = 0.0
    """The most that a frame is delayed beyond that."""
    stall_every_seconds: float | None = None
    """Mean time between stalls; None is no stalls."""
    stall_seconds: float = 0.0
    drop_probability: float = 0.0
    is_partitioned: bool = False
    """Whether nothing arrives for now."""

    def texts(self) -> dict[str, str | None]:
        """Every condition but the partition as people write it; None where there is none."""
        bandwidth = self.bandwidth_bytes_per_second
        return {
            "bandwidth": _text(8 * bandwidth, _BITS) if bandwidth else None,
            "latency": _text(self.latency_seconds, _SECONDS),
            "jitter": _text(self.jitter_seconds, _SECONDS),
            "stall-every": _text(self.stall_every_seconds or 0.0, _SECONDS),
            "stall": _text(self.stall_seconds, _SECONDS),
            "drop": _text(100 * self.drop_probability, _PERCENT),
        }

    def __str__(self) -> str:
        named = [f"{name} {text}" for name, text in self.texts().items() if text]
        if self.is_partitioned:
            named.append("partitioned")
        return ", ".join(named) or "no limits"


class NotALink(ValueError):
    """A text that is no condition; `name` says of which it was to be."""

    def __init__(self, name: str, message: str, example: str) -> None:
        super().__init__(f"{message}; write for example {example}")
        self.name = name
        self.detail = message
        self.hint = f"write for example {example}"


def parse_conditions(
    texts: Mapping[str, str | None], flag: str = "--link-{}", *, is_partitioned: bool = False
) -> LinkConditions:
    """Conditions from texts by name; what is empty or None is none. Raises NotALink, which names
    flag, value and an example."""
    given = {name: text for name, text in texts.items() if text}
    read = {name: _parse(text, name, flag.format(name)) for name, text in given.items()}
    for name, other in (("stall", "stall-every"), ("stall-every", "stall")):
        if read.get(name) and not read.get(other):
            message = f"{flag.format(name)} {given[name]} needs {flag.format(other)} too"
            raise NotALink(other, message, EXAMPLES[other])
    bandwidth = read.get("bandwidth")
    return LinkConditions(
        bandwidth_bytes_per_second=bandwidth / 8 if bandwidth else None,
        latency_seconds=read.get("latency", 0.0),
        jitter_seconds=read.get("jitter", 0.0),
        stall_every_seconds=read.get("stall-every"),
        stall_seconds=read.get("stall", 0.0),
        drop_probability=read.get("drop", 0.0) / 100,
        is_partitioned=is_partitioned,
    )


def _parse(text: str, name: str, flag: str) -> float:
    units = {unit.lower(): size for unit, size in _UNITS.get(name, _SECONDS).items()}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+|%)\s*", text, re.ASCII)
    shown, example = f"{flag} {text[:60]!r}", EXAMPLES[name]
    if match is None or match[2].lower() not in units:
        known = ", ".join(_UNITS.get(name, _SECONDS))
        unit = f"one of the units {known}" if len(units) > 1 else f"the unit {known}"
        raise NotALink(name, f"{shown} is not a number with {unit}", example)
    value = float(match[1]) * units[match[2].lower()]
    if name in ("bandwidth", "stall-every") and value <= 0:
        raise NotALink(name, f"{shown} is not more than 0", example)
    if name == "drop" and value >= 100:
        why = "a link on which nothing arrives is a partition"
        raise NotALink(name, f"{shown} is not below 100%; {why}", example)
    return value


def _text(value: float, units: Mapping[str, float]) -> str | None:
    """With the largest unit of which there is one at least; None for 0."""
    if not value:
        return None
    whole = [(unit, size) for unit, size in units.items() if value >= size]
    unit, size = max(whole or [min(units.items(), key=_size)], key=_size)
    return f"{value / size:.6f}".rstrip("0").rstrip(".") + unit


def _size(unit: tuple[str, float]) -> float:
    return unit[1]
