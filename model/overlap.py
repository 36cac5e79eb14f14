"""When each part of a slot's gradient becomes ready to be sent, and what is left to send then.

The backward pass goes down through groups of layers (model.segments); the gradient of a group is
complete when its call is done, that of the embedding at the very end. Time is counted in FLOPs, as
the bundle counts those of its components. Standard library only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from model import flops
from model.config import ModelConfig
from model.segments import layer_groups
from model.shapes import STACKED_PREFIX, parameter_shapes


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A segment as it becomes ready."""

    ready: float
    """Share of a slot's computing after which it is complete, above 0 and up to 1."""
    remaining: int
    """Numbers of it and of all that become ready later."""


def departures(model: ModelConfig, sequence_length: int, num_segments: int) -> list[Departure]:
    """Of the segments of a slot, in the order in which they become ready: the layers in
    `num_segments` groups from the top down, then all that is outside of the layers."""
    up = flops.forward_and_readout_flops_per_token(model, sequence_length)
    whole = flops.hardware_flops_per_token(model, sequence_length)
    in_layers, outside = _numbers(model)
    sizes = [size for _, size in reversed(layer_groups(model.num_layers, num_segments))]
    done = list(itertools.accumulate(sizes))
    found = [
        Departure(
            ready=(up + (whole - up) * after / model.num_layers) / whole,
            remaining=outside + in_layers * (model.num_layers - after + size),
        )
        for size, after in zip(sizes, done, strict=True)
    ]
    return [*found, Departure(1.0, outside)]


def _numbers(model: ModelConfig) -> tuple[int, int]:
    """Trained numbers of a layer, and those outside of the layers."""
    shapes = parameter_shapes(model)
    layers = [math.prod(i.shape[1:]) for n, i in shapes.items() if n.startswith(STACKED_PREFIX)]
    ends = [math.prod(i.shape) for n, i in shapes.items() if not n.startswith(STACKED_PREFIX)]
    return sum(layers), sum(ends)
