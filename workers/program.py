"""A bundle made runnable on this host's devices. Contains no model: everything comes from the
manifest.

A bundle is a zip of manifest.json and one serialized jax.export program per component. Components
take and return groups of arrays in the order the manifest gives; here they become compiled
functions over lists of groups. The gradient of a slot is a chain of calls of components, and
becomes complete segment by segment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

FORMAT = "landbridge.bundle/2"

Group = Sequence[jax.Array]

METRICS = "metrics"
"""The group that is summed with the gradients and is none."""


class BundleError(Exception):
    """The bundle is not what it should be, or does not fit this host."""


@dataclasses.dataclass(frozen=True, slots=True)
class Buffer:
    """One array of a group."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sharding: NamedSharding

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=self.sharding)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Component(Protocol):
    """A function over groups of arrays."""

    def __call__(self, *groups: Group) -> list[Group]:
        """May return with arrays in the making. Donated groups must not be used again."""
        ...

    @property
    def device_bytes(self) -> dict[str, int]:
        """Bytes per device as the compiler planned them; empty where it does not say."""
        ...


class CompiledComponent:
    """On this pod's devices. Returns at once, with arrays in the making."""

    def __init__(self, compiled: jax.stages.Compiled, output_sizes: Sequence[int]) -> None:
        self._compiled = compiled
        ends = list(itertools.accumulate(output_sizes, initial=0))
        self._slices = [slice(a, b) for a, b in itertools.pairwise(ends)]

    def __call__(self, *groups: Group) -> list[Group]:
        outputs = self._compiled(*itertools.chain.from_iterable(groups))
        return [outputs[part] for part in self._slices]

    @property
    def device_bytes(self) -> dict[str, int]:
        analysis = self._compiled.memory_analysis()
        if analysis is None:
            return {}
        return {
            "arguments": analysis.argument_size_in_bytes,
            "temporaries": analysis.temp_size_in_bytes,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A run of a component on named groups; `values` are those that are numbers of the manifest."""

    component: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Groups of gradients that are complete together, and the component that adds two of them."""

    groups: tuple[str, ...]
    accumulate: str
    first: int
    """The first row of its parameter that a gradient is of, where others are of other rows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fragment:
    """Parameters that are synchronised together: the group of their outer gradient, the component
    that computes it, and the one that applies the sum over the pods."""

    group: str
    gradient: str
    update: str


@dataclasses.dataclass(frozen=True, slots=True)
class Outer:
    """How pods synchronise every so many steps; what is not a number names a component."""

    every: int
    delay: int
    fragments: tuple[Fragment, ...]
    init: str
    finish: str
    digest: str


class Program:
    """The components of a bundle, compiled for a mesh of this pod's devices."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        components: Mapping[str, Component],
        groups: Mapping[str, list[Buffer]],
        bundle_digest: str = "",
    ) -> None:
        """`bundle_digest` names the bundle; numbers that are part of its components, such as a
        learning rate, are not in the manifest."""
        self.bundle_digest = bundle_digest
        self.manifest = manifest
        self.components = components
        self.groups = groups
        self.slot = [_call(entry) for entry in manifest["slot"]]
        """What computes the gradient of one slot, in order."""
        self.segments = [
            Segment(tuple(entry["groups"]), entry["accumulate"], entry["first"])
            for entry in manifest["segments"]
        ]
        """In the order in which they become complete."""
        self.outer = _outer(manifest.get("outer"))
        """None where pods exchange after every step."""
        self.record_fields: list[str] = manifest["groups"]["record"][0]["fields"]

    @property
    def microbatch(self) -> int:
        return self.groups["batch"][0].shape[0] if self.groups.get("batch") else 0

    @property
    def state_buffers(self) -> dict[str, Buffer]:
        """The state that all pods hold alike, by a name of its own, in the order of the groups."""
        return self._named("params", "optimizer") if self.outer is None else self._named("outer")

    @property
    def own_buffers(self) -> dict[str, Buffer]:
        """The state that a pod has for itself, likewise, and what it has sent and not applied yet:
        all that may be."""
        if self.outer is None:
            return {}
        fragments = [fragment.group for fragment in self.outer.fragments]
        sent = {f"sent/{name}": buffer for name, buffer in self._named(*fragments).items()}
        return {**self._named("params", "optimizer"), **sent}

    @property
    def has_gradients(self) -> bool:
        return bool(self.segments)

    def gradients(self, segment: Segment) -> list[Buffer]:
        """The gradients of a segment, in order, each by the name of its parameter."""
        return self.buffers([name for name in segment.groups if name != METRICS])

    def _named(self, *groups: str) -> dict[str, Buffer]:
        return {
            f"{group}/{buffer.name}": buffer for group in groups for buffer in self.groups[group]
        }

    def buffers(self, names: Sequence[str]) -> list[Buffer]:
        """Those of several groups, in order."""
        return [buffer for name in names for buffer in self.groups[name]]


def read_bundle(data: bytes, digest: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and component bytes; BundleError when the bytes are not those of the digest."""
    seen = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if seen != digest:
        raise BundleError(f"the bytes have digest {seen} and not {digest}; fetch the bundle again")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            if manifest["format"] != FORMAT:
                raise BundleError(f"format {manifest['format']!r} is not {FORMAT!r}")
            parts = {
                name: archive.read(component["file"])
                for name, component in manifest["components"].items()
            }
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise BundleError(f"{digest} is no bundle: {error}") from error
    return manifest, parts


def pod_mesh(manifest: Mapping[str, Any]) -> Mesh:
    """The mesh the program wants, of all devices of the pod; Auto axes as the program was
    lowered."""
    shape, axes = manifest["mesh"]["shape"], manifest["mesh"]["axes"]
    devices = jax.devices()
    if math.prod(shape) != len(devices):
        raise BundleError(
            f"the program is for a mesh {dict(zip(axes, shape, strict=True))} of "
            f"{math.prod(shape)} devices, the pod has {len(devices)}"
        )
    platform = manifest["platform"]
    if devices[0].platform != _platform_of(platform):
        raise BundleError(f"the program is for {platform}, the pod has {devices[0].platform}")
    return Mesh(np.array(devices).reshape(shape), axes, axis_types=(AxisType.Auto,) * len(axes))


def load(
    manifest: Mapping[str, Any], parts: Mapping[str, bytes], bundle_digest: str = ""
) -> Program:
    """Compile every component for this pod's devices."""
    mesh = pod_mesh(manifest)
    groups = {
        name: [_buffer(entry, mesh) for entry in entries]
        for name, entries in manifest["groups"].items()
    }
    components = {
        name: _compile(parts[name], entry, groups) for name, entry in manifest["components"].items()
    }
    return Program(manifest, components, groups, bundle_digest)


Loader = Callable[[Mapping[str, Any], Mapping[str, bytes], str], Program]
"""Makes what read_bundle returns runnable; the last argument is the bundle's digest."""


def _compile(
    part: bytes, entry: Mapping[str, Any], groups: Mapping[str, list[Buffer]]
) -> CompiledComponent:
    exported = export.deserialize(bytearray(part))
    inputs = [groups[name] for name in entry["inputs"]]
    starts = np.cumsum([0, *(len(group) for group in inputs)])
    donated = [i for g in entry["donated"] for i in range(starts[g], starts[g + 1])]
    structs = [buffer.struct for group in inputs for buffer in group]
    outputs = tuple(buffer.sharding for name in entry["outputs"] for buffer in groups[name])
    # Donation is not part of an exported program: it is said again at the call.
    function = jax.jit(exported.call, donate_argnums=donated, out_shardings=outputs)
    compiled = function.lower(*structs).compile()
    return CompiledComponent(compiled, [len(groups[name]) for name in entry["outputs"]])


def _buffer(entry: Mapping[str, Any], mesh: Mesh) -> Buffer:
    spec = PartitionSpec(*(tuple(axes) if axes else None for axes in entry["spec"]))
    return Buffer(
        entry["name"],
        tuple(entry["shape"]),
        jax.numpy.dtype(entry["dtype"]),
        NamedSharding(mesh, spec),
    )


def _call(entry: Mapping[str, Any]) -> Call:
    values = {name: int(value) for name, value in entry["values"].items()}
    return Call(entry["component"], tuple(entry["inputs"]), tuple(entry["outputs"]), values)


def _outer(entry: Mapping[str, Any] | None) -> Outer | None:
    if entry is None:
        return None
    fragments = tuple(Fragment(**fragment) for fragment in entry["fragments"])
    return Outer(**{**entry, "fragments": fragments})


def _platform_of(name: str) -> str:
    """jax.export says cuda where devices say gpu."""
    return "gpu" if name in {"cuda", "rocm"} else name
