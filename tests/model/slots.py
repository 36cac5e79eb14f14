"""Runs the calls of a slot as a worker does: by the names of the groups."""

import jax
import numpy as np


def run_slot(program, functions, params, batch):
    """Every group that was output, by name, and {"params", "batch"}."""
    groups = {"params": list(params), "batch": list(batch)}
    for call in program.slot:
        groups |= {name: [np.int32(value)] for name, value in call.values.items()}
        given = [array for name in call.inputs for array in groups[name]]
        # Waiting after each execution: virtual CPU devices deadlock when they run ahead.
        outputs = list(jax.block_until_ready(functions[call.component](*given)))
        for name in call.outputs:
            count = len(program.groups[name])
            groups[name], outputs = outputs[:count], outputs[count:]
    return groups


def contribution(program, functions, params, batch):
    """The arrays of all segments, as apply_update takes them."""
    groups = run_slot(program, functions, params, batch)
    return [array for name in program.gradients for array in groups[name]]


def accumulated(program, functions, left, right):
    """Two contributions added, segment by segment."""
    left, right, total = list(left), list(right), []
    for segment in program.segments:
        count = len(program.buffers(segment.groups))
        total += functions[segment.accumulate](*left[:count], *right[:count])
        del left[:count], right[:count]
    return total


def gradients_by_name(program, groups):
    """{parameter: gradient}, those of the layers joined from the bottom up."""
    parts = {}
    for name in reversed(program.gradients):
        if name.startswith("grads_"):
            for buffer, array in zip(program.groups[name], groups[name], strict=True):
                parts.setdefault(buffer.name, []).append(np.asarray(array))
    return {
        name: np.concatenate(arrays) if name.startswith("layers/") else arrays[0]
        for name, arrays in parts.items()
    }
