"""Compiles the calls of a slot for TPUs that are not there, and reads the compiler's own figures.

The compiler is in the package libtpu, which works on any Linux machine (extra `tpu`). A topology is
"GENERATION:SHAPE", as v4:12x16x16: chips of a slice by its three axes; on v4 and v5p one device is
a whole chip (megacore).
"""

import dataclasses
import importlib.util
import itertools
import math
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from model.collectives import collectives
from model.layout import MESH_AXES
from model.matrix_flops import matrix_flops
from model.program import Group, Program
from model.sharding import abstract_mesh, named_sharding
from model.slot_memory import held_beside

# What libtpu 0.0.52 says of sums over groups of an odd size that it would fuse with a scatter, as
# over 3 of the 12 ways of PaLM-540B's mesh.
_CANNOT_FUSE = "UNIMPLEMENTED: Encountered AllReduce fusion"

# A host of these generations has four chips in a plane.
_HOST_BOUNDS = (2, 2, 1)


class CompilerError(Exception):
    """There is no compiler, no such topology, or the compiler refuses the program."""


def compile_slot(
    program: Program, topology: str, hlo: pathlib.Path | None = None
) -> dict[str, Any]:
    """What the compiler plans for the calls of a slot on a topology of as many devices as the mesh.

    `components` has the figures of each (`compile_component`), the rest is of the whole chain.
    Bytes are those of one device at the call where it holds most: arguments are params and batch,
    outputs the gradients, temporaries everything else; `peak_bytes` is what is alive at once, None
    where the compiler does not say, and the others count the heap with its gaps. The optimized HLO
    text of all components is written to `hlo` if given. Raises CompilerError.
    """
    found = {
        name: compile_component(program, name, topology)
        for name in dict.fromkeys(call.component for call in program.slot)
    }
    if hlo is not None:
        hlo.write_text("\n".join(figures["hlo"] for figures in found.values()))
    for figures in found.values():
        del figures["hlo"]
    group_bytes = {name: _shard_bytes(program, group) for name, group in program.groups.items()}
    beside = held_beside(program.slot, program.gradients, group_bytes)
    called = [found[call.component] for call in program.slot]
    heap = max(
        sum(figures[part] for part in ("argument_bytes", "output_bytes", "temporary_bytes")) + held
        for figures, held in zip(called, beside, strict=True)
    )
    peaks = [
        None if figures["peak_bytes"] is None else figures["peak_bytes"] + held
        for figures, held in zip(called, beside, strict=True)
    ]
    arguments = group_bytes["params"] + group_bytes["batch"]
    outputs = sum(group_bytes[name] for name in program.gradients)
    return {
        "components": found,
        "topology": topology,
        "compiler_options": {
            option: value
            for figures in found.values()
            for option, value in figures["compiler_options"].items()
        },
        "seconds": sum(figures["seconds"] for figures in found.values()),
        "argument_bytes": arguments,
        "output_bytes": outputs,
        "temporary_bytes": heap - arguments - outputs,
        "peak_bytes": None if None in peaks else max(peak for peak in peaks if peak is not None),
        "xla_flops": sum(figures["xla_flops"] for figures in called),
        "matrix_flops": sum(figures["matrix_flops"] for figures in called),
        "collectives": _summed([figures["collectives"] for figures in called]),
    }


def compile_component(program: Program, name: str, topology: str) -> dict[str, Any]:
    """What the compiler plans for a component.

    `compiler_options` are those that it does not take the program without. Bytes are those of one
    device, from the compiler's memory analysis; outputs that take the place of donated arguments
    are left out. `peak_bytes` is what is alive at once, arguments and outputs included, None where
    the compiler does not say. `xla_flops` counts the body of a loop once, on one device;
    `matrix_flops` counts every turn, on the whole mesh, and matrix products alone. `hlo` is the
    optimized HLO text. Raises CompilerError.
    """
    component = program.components[name]
    inputs, outputs = program.buffers(component.inputs), program.buffers(component.outputs)
    mesh = device_mesh(topology, program.mesh_shape)
    starts = [0, *itertools.accumulate(len(program.groups[group]) for group in component.inputs)]
    jitted = jax.jit(
        component.function,
        donate_argnums=[
            index for at in component.donated for index in range(starts[at], starts[at + 1])
        ],
        in_shardings=tuple(named_sharding(buffer.spec, mesh) for buffer in inputs),
        out_shardings=tuple(named_sharding(buffer.spec, mesh) for buffer in outputs),
        keep_unused=True,
    )
    traced = jitted.trace(*(buffer.abstract for buffer in inputs))
    start = time.perf_counter()
    try:
        compiled, options = compile_lowered(traced.lower(lowering_platforms=("tpu",)))
    except jax.errors.JaxRuntimeError as error:
        raise CompilerError(f"the compiler does not take {name}: {error}") from error
    seconds = time.perf_counter() - start
    text = compiled.as_text() or ""
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    return {
        "hlo": text,
        "compiler_options": options,
        "seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "peak_bytes": getattr(memory, "peak_memory_in_bytes", None),
        "xla_flops": cost["flops"],
        "matrix_flops": matrix_flops(traced.jaxpr.jaxpr),
        "collectives": [dataclasses.asdict(found) for found in collectives(text)],
    }


def compile_lowered(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """Compiled, and with which options beyond the compiler's own. Raises JaxRuntimeError."""
    try:
        return lowered.compile(), {}
    except jax.errors.JaxRuntimeError as error:
        if _CANNOT_FUSE not in str(error):
            raise
    options: dict[str, Any] = {"xla_tpu_enable_all_reduce_scatter_fusion": False}
    return lowered.compile(compiler_options=options), options


def _summed(calls: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Collectives of all calls, one entry for every kind and size of group."""
    total: dict[tuple[str, int | None], dict[str, Any]] = {}
    for entry in itertools.chain.from_iterable(calls):
        key = entry["kind"], entry["group"]
        before = total.get(key, {"calls": 0, "bytes": 0})
        sums = {name: before[name] + entry[name] for name in ("calls", "bytes")}
        total[key] = entry | sums
    return list(total.values())


def _shard_bytes(program: Program, group: Group) -> int:
    mesh = abstract_mesh(program.mesh_shape)
    return sum(
        math.prod(named_sharding(buffer.spec, mesh).shard_shape(buffer.shape))
        * buffer.abstract.dtype.itemsize
        for buffer in group
    )


def device_mesh(topology: str, mesh_shape: tuple[int, int]) -> Mesh:
    """The pod's mesh over the described devices, neighbours beside each other where they fit."""
    if importlib.util.find_spec("libtpu") is None:
        raise CompilerError(
            "compiling for TPU needs the package libtpu: pip install 'landbridge[model,tpu]'"
        )
    # libtpu asks the machine's metadata server what TPU it is on, for minutes where none answers;
    # and it locks the machine's TPU, which a compiler does not use and a worker may hold.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        description = topologies.get_topology_desc(
            topology,
            platform="tpu",
            chip_config_name="megacore",
            chips_per_host_bounds=_HOST_BOUNDS,
        )
    except Exception as error:  # libtpu raises whatever it met
        raise CompilerError(f"no topology {topology!r}: {error}") from error
    devices = np.array(description.devices)
    if devices.size != math.prod(mesh_shape):
        raise CompilerError(
            f"{topology} has {devices.size} devices and the mesh "
            f"{' x '.join(map(str, mesh_shape))} = {math.prod(mesh_shape)}: "
            "name a topology of as many"
        )
    try:
        arranged = mesh_utils.create_device_mesh(mesh_shape, devices=list(devices.flat))
    except (NotImplementedError, ValueError):
        arranged = devices.reshape(mesh_shape)
    return Mesh(arranged, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
