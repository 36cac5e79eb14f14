"""A slow link without privileges: says when a chunk offered now would have arrived.

Bandwidth is shared by everything one host sends; latency is one way and does not limit the rate.
Only arithmetic on times that are passed in: whoever sends does the waiting, and can be interrupted.
"""

import re
import threading

# Credit a sender may catch up on after it was scheduled late; more would be a burst above the rate.
_SLACK_SECONDS = 0.05

_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class LinkEmulator:
    def __init__(
        self, bandwidth_bytes_per_second: float | None = None, latency_seconds: float = 0.0
    ) -> None:
        if bandwidth_bytes_per_second is not None and bandwidth_bytes_per_second <= 0:
            raise ValueError(f"link bandwidth must be positive, got {bandwidth_bytes_per_second}")
        if latency_seconds < 0:
            raise ValueError(f"link latency must not be negative, got {latency_seconds}")
        self._bandwidth = bandwidth_bytes_per_second
        self._latency = latency_seconds
        self._lock = threading.Lock()
        self._free_at = 0.0

    def arrival(self, num_bytes: int, offered_at: float, now: float) -> float:
        """Time at which num_bytes, ready to be sent since offered_at, are at the other end."""
        if self._bandwidth is None:
            return offered_at + self._latency
        with self._lock:
            # A sender that waits for each arrival comes back one latency after the wire was free.
            earliest = now - self._latency - _SLACK_SECONDS
            start = max(self._free_at, offered_at, earliest)
            self._free_at = start + num_bytes / self._bandwidth
            return self._free_at + self._latency


def parse_bandwidth(text: str) -> float:
    """Bytes per second from "200Mbit"."""
    return _parse(text, _BITS, "link bandwidth", "200Mbit") / 8


def parse_latency(text: str) -> float:
    """Seconds from "5ms"."""
    return _parse(text, _SECONDS, "link latency", "5ms")


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if match is None or match[2].lower() not in units:
        raise ValueError(
            f"{what} {text!r} is not a number with one of the units {', '.join(units)};"
            f" write for example {example}"
        )
    return float(match[1]) * units[match[2].lower()]
