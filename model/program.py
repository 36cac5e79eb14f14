"""What a training program is: groups of buffers, and pure functions from groups to groups.

`Program` says nothing about PaLM: model.bundle writes any program, and model.palm_program builds
ours. A component takes the arrays of its input groups as flat positional arguments, group after
group, and returns a flat tuple likewise.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.layout import DimSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Buffer:
    """One array of a group: its whole shape, and the mesh axes that split each dim."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: DimSpec
    # What the entries of a small vector mean, for a group that people read.
    fields: tuple[str, ...] | None = None

    @classmethod
    def replicated(
        cls, name: str, shape: tuple[int, ...], dtype: str, fields: tuple[str, ...] | None = None
    ) -> "Buffer":
        """A buffer every device holds in full."""
        return cls(name, shape, dtype, (None,) * len(shape), fields)

    @property
    def abstract(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype, for tracing."""
        return jax.ShapeDtypeStruct(self.shape, jnp.dtype(self.dtype))


Group = tuple[Buffer, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """A computation from groups to groups.

    `donated` holds positions in `inputs` whose memory the outputs may take. `flops` is for one call
    on the whole mesh, or None.
    """

    function: Callable[..., tuple[jax.Array, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    donated: tuple[int, ...] = ()
    flops: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A run of a component on groups with the same buffers as those it declares.

    `values` are scalars among the inputs that whoever calls fills in.
    """

    component: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Groups of gradients that are complete together, and the component that adds two of them.

    A gradient has the name of its parameter. Where it is of some of the rows alone, `first` is the
    first of them.
    """

    groups: tuple[str, ...]
    accumulate: str
    first: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Fragment:
    """A part of the parameters that pods synchronise together: the group of its outer gradient, and
    the components that compute it and that apply the sum over the pods."""

    group: str
    gradient: str
    update: str


@dataclasses.dataclass(frozen=True, slots=True)
class Outer:
    """How pods synchronise that do not after every step: each fragment every so many steps, applied
    so many steps after it was sent, and all at the end."""

    every: int
    delay: int
    fragments: tuple[Fragment, ...]
    init: str
    """The state `outer` from the parameters."""
    finish: str
    """From all fragments, after the last step."""
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """Everything a worker needs to know, apart from how it is written down.

    `slot` computes the gradient of one slot from params and batch; a name stands for what the last
    call that output it returned. `segments` are in the order in which they become complete, which
    is when the last of their groups was output. Both are empty in a program without gradients.
    `outer` is None where pods exchange these gradients after every step.
    `facts` are the manifest's other entries (parameters, FLOPs per token and so on); None where a
    program has no such number.
    """

    name: str
    mesh_shape: tuple[int, int]
    groups: Mapping[str, Group]
    components: Mapping[str, Component]
    slot: tuple[Call, ...] = ()
    segments: tuple[Segment, ...] = ()
    outer: Outer | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def buffers(self, names: tuple[str, ...]) -> Group:
        """The buffers of several groups, in order."""
        return tuple(buffer for name in names for buffer in self.groups[name])

    @property
    def gradients(self) -> tuple[str, ...]:
        """The groups of all segments, in order: what `apply_update` takes behind the state."""
        return tuple(name for segment in self.segments for name in segment.groups)
