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
class Program:
    """Everything a worker needs to know, apart from how it is written down.

    `facts` are the manifest's other entries (parameters, FLOPs per token and so on); None where a
    program has no such number.
    """

    name: str
    mesh_shape: tuple[int, int]
    groups: Mapping[str, Group]
    components: Mapping[str, Component]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def buffers(self, names: tuple[str, ...]) -> Group:
        """The buffers of several groups, in order."""
        return tuple(buffer for name in names for buffer in self.groups[name])
