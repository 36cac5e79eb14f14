"""How the layers are grouped for the backward pass: each group's gradients are ready by themselves.

The groups depend on the model alone, or on the number a spec names, and never on pods or the link:
the same program runs everywhere, so that bits cannot depend on what overlaps. Standard library
only.
"""

from __future__ import annotations

import math

from model.config import ModelConfig
from model.memory import ITEM_BYTES
from model.shapes import STACKED_PREFIX, parameter_shapes

MAX_SEGMENTS = 16
"""What is left to send when the backward pass ends is about a segment; past a sixteenth of the
layers, a finer cut gains less than 1% of a transfer per further call."""

LEAST_BYTES = 256 << 10
"""Of gradient in a segment. A call and its messages cost some 0.2 ms, as much as the link's stream
takes for 100 KiB (docs/benchmarks.md): below that, cutting costs more than it can hide."""


def segment_count(model: ModelConfig) -> int:
    """The most segments, MAX_SEGMENTS at most, whose smallest has LEAST_BYTES of gradient; 1 where
    all layers together have less."""
    layers = model.num_layers
    layer_bytes = _layer_bytes(model)
    # The smallest of n groups has layers // n layers.
    return next(
        (
            count
            for count in range(min(layers, MAX_SEGMENTS), 1, -1)
            if layers // count * layer_bytes >= LEAST_BYTES
        ),
        1,
    )


def layer_groups(num_layers: int, count: int) -> list[tuple[int, int]]:
    """(first layer, number of layers) of every group, from the bottom up.

    Sizes differ by one at most. The smaller groups are at the bottom, where the backward pass ends
    and nothing is left to hide a transfer behind.
    """
    size, larger = divmod(num_layers, count)
    sizes = [size] * (count - larger) + [size + 1] * larger
    return [(sum(sizes[:index]), size) for index, size in enumerate(sizes)]


def _layer_bytes(model: ModelConfig) -> int:
    numbers = sum(
        math.prod(info.shape[1:])
        for name, info in parameter_shapes(model).items()
        if name.startswith(STACKED_PREFIX)
    )
    return numbers * ITEM_BYTES[model.param_dtype]
