"""What a user can choose about training in which pods synchronise only every so often.

Each pod trains on its own for a number of steps; then an outer optimizer moves an anchor, the same
at all pods, by how far the pods came on average, and pods go on from there. DiLoCo
(arXiv 2311.08105) does so with everything at once; Streaming DiLoCo (arXiv 2501.18512) with one
fragment of the layers after the other, and while training goes on. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from model.fields import Problem, field_problems, integer, real

DILOCO, STREAMING = "diloco", "streaming_diloco"
OUTER_MODES = (DILOCO, STREAMING)
"""The values of `exchange.mode` that synchronise this way."""

_EVERY = 25
"""Steps by default: with them palm-tiny ends within 1% of what a full exchange reaches."""

_MAX_FRAGMENTS = 4
"""By default. A fragment takes a share of the link that falls with their number, and costs two
components of the bundle."""

_MAX_DELAY = 5
"""Steps by default: enough to hide a transfer that takes five steps, and the local steps that are
mixed with what arrives stay few."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OuterConfig:
    """When pods synchronise, and what the outer optimizer, SGD with Nesterov momentum, does."""

    # Steps between two synchronisations of the same fragment.
    every: int = integer(at_least=1, at_most=1 << 24, default=_EVERY)
    # Layer i belongs to fragment i modulo their number.
    fragments: int = integer(at_least=1, at_most=4096, default=1)
    # Steps between sending a fragment and applying what came of it.
    delay: int = integer(at_least=0, at_most=1 << 24, default=0)
    learning_rate: float = real(at_least=0.0, at_most=10.0, default=0.7)
    momentum: float = real(at_least=0.0, at_most=0.9999, default=0.9)
    # The share of a pod's own parameters in those it goes on with; the rest is the anchor.
    mixing: float = real(at_least=0.0, at_most=1.0, default=0.0)

    @classmethod
    def from_spec(cls, exchange: Mapping[str, Any], num_layers: int) -> Self | None:
        """What a spec's `exchange` section describes, None where pods exchange after every step;
        raises KeyError/TypeError unless `outer_problems` found nothing."""
        mode = exchange.get("mode")
        if mode not in OUTER_MODES:
            return None
        section = exchange.get("outer") or {}
        given = {key: value for key, value in section.items() if value is not None}
        if mode == DILOCO:
            return cls(**given)
        every = given.setdefault("every", _EVERY)
        fragments = given.setdefault("fragments", min(_MAX_FRAGMENTS, num_layers, every))
        given.setdefault("delay", min(_MAX_DELAY, every // fragments))
        given.setdefault("mixing", 0.5)
        return cls(**given)


def outer_problems(exchange: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the `outer` section of an exchange section by itself."""
    pointer, given = "/exchange/outer", exchange.get("outer")
    if given is None:
        return []
    mode = exchange.get("mode", "full")
    if mode not in OUTER_MODES:
        detail = f"mode: {mode!r:.60} has no outer optimizer"
        return [Problem(pointer, detail, f"leave it out, or use mode: {' or '.join(OUTER_MODES)}")]
    if not isinstance(given, Mapping):
        return [Problem(pointer, f"expected a mapping, got {given!r:.60}", "{every: 100}")]
    known = {key: value for key, value in given.items() if value is not None}
    found = field_problems(known, OuterConfig, pointer)
    if found or mode != DILOCO:
        return found
    at_once = OuterConfig()
    return [
        Problem(
            f"{pointer}/{field}",
            "diloco synchronises everything at once, and waits for it",
            f"leave it out, or use mode: {STREAMING}",
        )
        for field in ("fragments", "delay", "mixing")
        if known.get(field, getattr(at_once, field)) != getattr(at_once, field)
    ]


def outer_fit_problems(exchange: Mapping[str, Any], num_layers: int) -> list[Problem]:
    """What does not fit together, in fields that are sound by themselves."""
    config, pointer = OuterConfig.from_spec(exchange, num_layers), "/exchange/outer"
    if config is None:
        return []
    most = min(num_layers, config.every)
    if config.fragments > most:
        what = "layers (/model/num_layers)" if most == num_layers else "steps (every)"
        detail = f"{config.fragments} fragments of {most} {what}"
        return [Problem(f"{pointer}/fragments", detail, f"from 1 to {most}, or leave it out")]
    apart = config.every // config.fragments
    if config.delay > apart:
        detail = (
            f"a delay of {config.delay} steps, when {config.fragments} fragments are sent every "
            f"{config.every} steps: one must be there before the next is sent"
        )
        return [Problem(f"{pointer}/delay", detail, f"from 0 to {apart}, or fewer fragments")]
    return []
