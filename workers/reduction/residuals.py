"""What encoding has lost, in the shape of whole gradients.

A reduction keeps its losses by segment, device and row. In a checkpoint they are one array for each
parameter, so that they fit another mesh, another number of pods or segments, and another encoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from workers.member_state import MemberArray, Takeover
from workers.program import Buffer, Program

OF_SUMS = "residual/"
"""Lost of this pod's own sums: added to its next ones."""
OF_TOTALS = "residual_of_total/"
"""Lost of the totals that this pod adds up for all; zero elsewhere."""

Arrays = dict[str, jax.Array]
Pieces = list[list[jax.Array]]
"""By segment, in the order of its buffers."""


def losses_in(own: Mapping[str, jax.Array]) -> Arrays:
    """Of a member's own arrays, those that are losses."""
    return {name: array for name, array in own.items() if name.startswith((OF_SUMS, OF_TOTALS))}


class WholeGradients:
    """Joins the pieces that segments have of a parameter's gradient, and cuts them again."""

    def __init__(self, segments: Sequence[Sequence[Buffer]], firsts: Sequence[int]) -> None:
        """`segments` are their gradients, by the names of parameters; `firsts` the rows at which
        they begin."""
        self._places: dict[str, list[tuple[int, int, int]]] = {}
        """Where the pieces of each are, in order: (segment, position, first row)."""
        self._segments = segments
        for index in sorted(range(len(firsts)), key=firsts.__getitem__):
            for position, buffer in enumerate(self._segments[index]):
                places = self._places.setdefault(buffer.name, [])
                places.append((index, position, firsts[index]))
        self.structs = {name: self._struct(places) for name, places in self._places.items()}
        """float32, sharded as the gradients are."""
        wholes = {name: struct.sharding for name, struct in self.structs.items()}
        pieces = [[buffer.sharding for buffer in buffers] for buffers in self._segments]
        self._joined: Any = jax.jit(self._join, out_shardings=wholes)
        self._cut: Any = jax.jit(self._split, out_shardings=pieces)

    @classmethod
    def of(cls, program: Program) -> WholeGradients:
        """Of what a program exchanges. Fragments of an outer gradient are kept as they are: which
        there are is the program's, whoever goes on with it."""
        if program.outer is None:
            segments = [program.gradients(segment) for segment in program.segments]
            return cls(segments, [segment.first for segment in program.segments])
        fragments = [
            [
                dataclasses.replace(buffer, name=f"{fragment.group}/{buffer.name}")
                for buffer in program.groups[fragment.group]
            ]
            for fragment in program.outer.fragments
        ]
        return cls(fragments, [0] * len(fragments))

    def member_arrays(self) -> dict[str, MemberArray]:
        """What may be found of losses in a checkpoint."""
        return {
            f"{prefix}{name}": MemberArray(struct, Takeover.SUM)
            for prefix in (OF_SUMS, OF_TOTALS)
            for name, struct in self.structs.items()
        }

    def join(self, prefix: str, pieces: Pieces) -> Arrays:
        """Whole gradients, their names behind `prefix`."""
        return {f"{prefix}{name}": whole for name, whole in self._joined(pieces).items()}

    def split(self, prefix: str, arrays: Mapping[str, jax.Array]) -> Pieces | None:
        """The pieces of those whole gradients whose names follow `prefix`; None when there are
        none."""
        wholes = {
            name: arrays[prefix + name] for name in self.structs if f"{prefix}{name}" in arrays
        }
        return self._cut(wholes) if wholes else None

    def _struct(self, places: Sequence[tuple[int, int, int]]) -> jax.ShapeDtypeStruct:
        buffers = [self._segments[segment][position] for segment, position, _ in places]
        shape = buffers[0].shape
        if len(buffers) > 1:
            shape = (sum(buffer.shape[0] for buffer in buffers), *shape[1:])
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=buffers[0].sharding)

    def _join(self, pieces: Pieces) -> Arrays:
        return {
            name: _joined([pieces[segment][position] for segment, position, _ in places])
            for name, places in self._places.items()
        }

    def _split(self, wholes: Arrays) -> Pieces:
        pieces: list[list[Any]] = [[None] * len(buffers) for buffers in self._segments]
        for name, places in self._places.items():
            for segment, position, first in places:
                buffer, whole = self._segments[segment][position], wholes[name]
                if len(places) > 1:
                    whole = whole[first : first + buffer.shape[0]]
                pieces[segment][position] = whole
        return pieces


def _joined(pieces: list[jax.Array]) -> jax.Array:
    return jnp.concatenate(pieces) if len(pieces) > 1 else pieces[0]
