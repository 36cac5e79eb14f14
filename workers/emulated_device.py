"""Devices of another speed than the ones there are, for trying out what a link costs.

A component of a program lasts as long as its FLOPs take at the emulated rate, though it is computed
sooner; until then the processor is free, as a host's is while its accelerators compute. Results are
the program's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax

from workers.program import Component, Group, Program, load


class PacedComponent:
    """A component that takes its time. Unlike others it returns when its outputs are there."""

    def __init__(self, component: Component, seconds: float) -> None:
        self._component = component
        self._seconds = seconds

    def __call__(self, *groups: Group) -> list[Group]:
        end = time.perf_counter() + self._seconds
        outputs = jax.block_until_ready(self._component(*groups))
        time.sleep(max(0.0, end - time.perf_counter()))
        return outputs

    @property
    def device_bytes(self) -> dict[str, int]:
        return self._component.device_bytes


def load_at(
    flops_per_second: float,
    manifest: Mapping[str, Any],
    parts: Mapping[str, bytes],
    bundle_digest: str = "",
) -> Program:
    """As workers.program.load, for devices of this many FLOP/s each. What the manifest gives no
    FLOPs for takes the time it takes."""
    program = load(manifest, parts, bundle_digest)
    rate = flops_per_second * jax.device_count()
    components = {
        name: PacedComponent(component, flops / rate)
        if (flops := manifest["components"][name].get("flops"))
        else component
        for name, component in program.components.items()
    }
    return Program(manifest, components, program.groups, bundle_digest)
