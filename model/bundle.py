"""Writes a program down as one file, a manifest and StableHLO, named by the digest of its bytes.

The same program gives the same bytes in any directory, process and year: nothing of the machine,
the paths or the clock goes in. Export happens on an abstract mesh, so the accelerators need not
exist here. Reading a bundle is the worker's business.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from jax import export

from model.layout import MESH_AXES
from model.program import Call, Component, Group, Program
from model.sharding import abstract_mesh, named_sharding

FORMAT = "landbridge.bundle/2"
_FACTS = (
    "parameters",
    "compute_dtype",
    "model_flops_per_token",
    "hardware_flops_per_token",
    "tokens_per_slot",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def manifest(program: Program, platform: str) -> dict[str, Any]:
    """The description of a program that workers and the controller read."""
    return {
        "format": FORMAT,
        "name": program.name,
        "platform": platform,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "mesh": {"axes": list(MESH_AXES), "shape": list(program.mesh_shape)},
        "groups": {name: _group_entry(group) for name, group in program.groups.items()},
        "components": {
            name: _component_entry(name, component)
            for name, component in program.components.items()
        },
        "slot": [_call_entry(call) for call in program.slot],
        "segments": [
            {
                "groups": list(segment.groups),
                "accumulate": segment.accumulate,
                "first": segment.first,
            }
            for segment in program.segments
        ],
        "outer": None if program.outer is None else dataclasses.asdict(program.outer),
        **{fact: program.facts.get(fact) for fact in _FACTS},
    }


def export_component(program: Program, component: Component, platform: str) -> bytes:
    """Portable StableHLO of one component for one platform, with its shardings inside."""
    mesh = abstract_mesh(program.mesh_shape)
    inputs, outputs = (program.buffers(component.inputs), program.buffers(component.outputs))
    jitted = jax.jit(
        component.function,
        in_shardings=tuple(named_sharding(buffer.spec, mesh) for buffer in inputs),
        out_shardings=tuple(named_sharding(buffer.spec, mesh) for buffer in outputs),
        keep_unused=True,
    )
    with _no_source_locations():
        exported = export.export(jitted, platforms=[platform])(*(b.abstract for b in inputs))
    _check_outputs(exported, outputs)
    return bytes(exported.serialize())


def bundle_bytes(program: Program, platform: str) -> bytes:
    """The whole bundle file. Raises ValueError where the program contradicts itself."""
    for call in program.slot:
        _check_call(program, call)
    entries = {
        f"{name}.stablehlo": export_component(program, component, platform)
        for name, component in program.components.items()
    }
    description = json.dumps(manifest(program, platform), sort_keys=True, indent=1)
    entries["manifest.json"] = description.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), entries[name])
    return packed.getvalue()


def bundle_digest(content: bytes) -> str:
    """The name of a bundle."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write_bundle(content: bytes, directory: pathlib.Path) -> pathlib.Path:
    """Stores a bundle under its digest; a reader sees the whole file or none."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{bundle_digest(content).removeprefix('sha256:')}.bundle"
    handle, temporary = tempfile.mkstemp(dir=directory, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


@contextlib.contextmanager
def _no_source_locations() -> Iterator[None]:
    """Paths of this checkout would otherwise be part of the bytes."""
    wanted = {
        "jax_include_full_tracebacks_in_locations": False,
        "jax_hlo_source_file_canonicalization_regex": ".*",
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _check_outputs(exported: export.Exported, outputs: Group) -> None:
    found = [(aval.shape, str(aval.dtype)) for aval in exported.out_avals]
    declared = [(buffer.shape, buffer.dtype) for buffer in outputs]
    if found != declared:
        raise ValueError(f"{exported.fun_name} returns {found}, its groups declare {declared}")


def _check_call(program: Program, call: Call) -> None:
    component = program.components[call.component]
    pairs = ((component.inputs, call.inputs), (component.outputs, call.outputs))
    for declared, bound in pairs:
        for wanted, given in zip(declared, bound, strict=True):
            if _layout(program.groups[wanted]) != _layout(program.groups[given]):
                raise ValueError(f"{call.component} is for {wanted} and called with {given}")


def _layout(group: Group) -> list[tuple[object, ...]]:
    return [(buffer.shape, buffer.dtype, buffer.spec) for buffer in group]


def _group_entry(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "name": buffer.name,
            "shape": list(buffer.shape),
            "dtype": buffer.dtype,
            "spec": [None if axes is None else list(axes) for axes in buffer.spec],
        }
        | ({} if buffer.fields is None else {"fields": list(buffer.fields)})
        for buffer in group
    ]


def _call_entry(call: Call) -> dict[str, Any]:
    return {
        "component": call.component,
        "inputs": list(call.inputs),
        "outputs": list(call.outputs),
        "values": dict(call.values),
    }


def _component_entry(name: str, component: Component) -> dict[str, Any]:
    return {
        "file": f"{name}.stablehlo",
        "inputs": list(component.inputs),
        "outputs": list(component.outputs),
        "donated": list(component.donated),
        "flops": component.flops,
    }
