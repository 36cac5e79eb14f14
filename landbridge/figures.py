"""How the command line writes numbers: short, with a unit, a dash for what is not known."""

from __future__ import annotations

UNKNOWN = "-"

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None, unit: str = "") -> str:
    """Three digits and a decimal prefix: 12.3 kB."""
    if value is None:
        return UNKNOWN
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f}%"


def fixed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def brief(seconds: float | None) -> str:
    """Of a message or a part of a step: 12.3 ms."""
    if seconds is None:
        return UNKNOWN
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def duration(seconds: float | None) -> str:
    """The two largest units: 3h20m."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"
