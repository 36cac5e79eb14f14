"""What an emulated link is like: one set of conditions, read from text such as 200Mbit, 5ms, 0.1%.

controller.core.link reads the same texts; tests/contracts/test_link_conditions.py keeps them alike.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_BITS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_EXAMPLES = {
    "bandwidth": "200Mbit",
    "latency": "5ms",
    "jitter": "2ms",
    "stall-every": "30s",
    "stall": "500ms",
    "drop": "0.1%",
}


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """Of everything that one host sends. The default is a link without limits."""

    bandwidth_bytes_per_second: float | None = None
    """Shared by all that is sent; None is as fast as the wire itself."""
    latency_seconds: float = 0.0
    """One way."""
    jitter_seconds: float = 0.0
    """Further one-way delay of a frame, uniform from none to this much; order is kept."""
    stall_every_seconds: float | None = None
    """Mean time from the end of one stall to the beginning of the next; None is no stalls."""
    stall_seconds: float = 0.0
    """How long the wire then stands still."""
    drop_probability: float = 0.0
    """That a frame is lost on its way, each time that it is sent."""
    is_partitioned: bool = False
    """Whether nothing arrives for now; what waits goes on when this is lifted."""

    def __post_init__(self) -> None:
        _check(self.bandwidth_bytes_per_second, "bandwidth")
        _check(self.stall_every_seconds, "stall-every")
        for value, what in (
            (self.latency_seconds, "latency"),
            (self.jitter_seconds, "jitter"),
            (self.stall_seconds, "stall"),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"link {what} must not be negative, got {value}")
        if (self.stall_every_seconds is None) != (self.stall_seconds == 0):
            raise ValueError(
                "link stall-every and stall go together: how often and how long; write for example"
                " 30s and 500ms"
            )
        if not 0 <= self.drop_probability < 1:
            raise ValueError(
                f"link drop must be from 0 to below 1, got {self.drop_probability}; a link on which"
                " nothing arrives is a partition"
            )


def parse_conditions(texts: Mapping[str, str], flag: str = "--link-{}") -> LinkConditions:
    """Conditions from texts by name (bandwidth, latency, jitter, stall-every, stall, drop), empty
    ones meaning none. Raises ValueError that names the flag, its value and an example."""
    given = {name: text for name, text in texts.items() if text}
    read = {name: _PARSERS[name](text, flag.format(name)) for name, text in given.items()}
    for name, other in (("stall", "stall-every"), ("stall-every", "stall")):
        if read.get(name) and not read.get(other):
            raise ValueError(
                f"{flag.format(name)} {given[name]} needs {flag.format(other)} too; "
                f"write for example {_EXAMPLES[other]}"
            )
    return LinkConditions(
        bandwidth_bytes_per_second=read.get("bandwidth"),
        latency_seconds=read.get("latency", 0.0),
        jitter_seconds=read.get("jitter", 0.0),
        stall_every_seconds=read.get("stall-every"),
        stall_seconds=read.get("stall", 0.0),
        drop_probability=read.get("drop", 0.0),
    )


def parse_bandwidth(text: str, what: str = "link bandwidth") -> float:
    """Bytes per second from "200Mbit"."""
    return _positive(_parse(text, _BITS, what, "bandwidth"), text, what, "bandwidth") / 8


def parse_duration(text: str, what: str, name: str = "latency") -> float:
    """Seconds from "5ms"."""
    return _parse(text, _SECONDS, what, name)


def parse_probability(text: str, what: str = "link drop") -> float:
    """0.001 from "0.1%"."""
    percent = _parse(text, {"%": 1.0}, what, "drop")
    if percent >= 100:
        raise ValueError(
            f"{what} {text[:60]!r} is not below 100%; a link on which nothing arrives is a"
            f" partition; write for example {_EXAMPLES['drop']}"
        )
    return percent / 100


def _parse_stall_every(text: str, what: str) -> float:
    name = "stall-every"
    return _positive(parse_duration(text, what, name), text, what, name)


_PARSERS = {
    "bandwidth": parse_bandwidth,
    "latency": parse_duration,
    "jitter": lambda text, what: parse_duration(text, what, "jitter"),
    "stall-every": _parse_stall_every,
    "stall": lambda text, what: parse_duration(text, what, "stall"),
    "drop": parse_probability,
}


def _check(value: float | None, what: str) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"link {what} must be positive, got {value}")


def _positive(value: float, text: str, what: str, name: str) -> float:
    if value > 0:
        return value
    raise ValueError(
        f"{what} {text[:60]!r} is not more than 0; write for example {_EXAMPLES[name]}"
    )


def _parse(text: str, units: Mapping[str, float], what: str, name: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+|%)\s*", text, re.ASCII)
    sizes = {unit.lower(): size for unit, size in units.items()}
    if match is None or match[2].lower() not in sizes:
        known = ", ".join(units)
        unit = f"one of the units {known}" if len(units) > 1 else f"the unit {known}"
        raise ValueError(
            f"{what} {text[:60]!r} is not a number with {unit}; write for example {_EXAMPLES[name]}"
        )
    return float(match[1]) * sizes[match[2].lower()]
