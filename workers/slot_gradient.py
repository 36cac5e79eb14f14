"""The gradient of one slot, segment by segment, as the manifest's chain of calls computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np

from workers.program import Call, Group, Program

Run = Callable[..., list[Group]]
"""Runs a component by name on groups of arrays."""


class SlotGradient:
    """Arrays are held under the names of their groups, from the call that makes them to the last
    one that takes them."""

    def __init__(self, program: Program, run: Run) -> None:
        self._calls = program.slot
        self._run = run
        self._values = [_values(program, call) for call in program.slot]
        # Names that nobody asks for after a call, so that their memory goes.
        self._spent = [_spent(program, at) for at in range(len(program.slot))]
        self._complete = [_complete(program, at) for at in range(len(program.slot))]
        self._segments = program.segments

    def of(self, params: Group, batch: Group) -> Iterator[tuple[int, list[Group]]]:
        """(segment, its groups) in order, each as soon as it is dispatched."""
        held = {"params": params, "batch": batch}
        for at, call in enumerate(self._calls):
            values = self._values[at]
            inputs = [values[name] if name in values else held[name] for name in call.inputs]
            outputs = self._run(call.component, *inputs)
            del inputs
            held.update(zip(call.outputs, outputs, strict=True))
            del outputs
            for segment in self._complete[at]:
                yield segment, [held.pop(name) for name in self._segments[segment].groups]
            for name in self._spent[at]:
                held.pop(name, None)


def _values(program: Program, call: Call) -> dict[str, Group]:
    return {
        name: [
            jax.device_put(np.asarray(value, buffer.dtype), buffer.sharding)
            for buffer in program.groups[name]
        ]
        for name, value in call.values.items()
    }


def _spent(program: Program, at: int) -> list[str]:
    later = {name for call in program.slot[at + 1 :] for name in call.inputs}
    kept = {name for segment in program.segments for name in segment.groups}
    return [name for name in program.slot[at].inputs if name not in later | kept]


def _complete(program: Program, at: int) -> list[int]:
    """The segments whose last group a call outputs."""
    last = {name: index for index, call in enumerate(program.slot) for name in call.outputs}
    return [
        number
        for number, segment in enumerate(program.segments)
        if max(last[name] for name in segment.groups) == at
    ]
