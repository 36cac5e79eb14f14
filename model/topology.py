"""Compiles a component for TPUs that are not there, and reads the compiler's own figures.

The compiler is in the package libtpu, which works on any Linux machine (extra `tpu`). A topology is
"GENERATION:SHAPE", as v4:12x16x16: chips of a slice by its three axes; on v4 and v5p one device is
a whole chip (megacore).
"""

import dataclasses
import importlib.util
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
from model.program import Program
from model.sharding import named_sharding

# What libtpu 0.0.52 says of sums over groups of an odd size that it would fuse with a scatter, as
# over 3 of the 12 ways of PaLM-540B's mesh.
_CANNOT_FUSE = "UNIMPLEMENTED: Encountered AllReduce fusion"

# A host of these generations has four chips in a plane.
_HOST_BOUNDS = (2, 2, 1)


class CompilerError(Exception):
    """There is no compiler, no such topology, or the compiler refuses the program."""


def compile_component(
    program: Program, name: str, topology: str, hlo: pathlib.Path | None = None
) -> dict[str, Any]:
    """What the compiler plans for a component on a topology of as many devices as the mesh.

    `compiler_options` are those that it does not take the program without. Bytes are those of one
    device, from the compiler's memory analysis; `peak_bytes` is what is
    alive at once, arguments and outputs included, None where the compiler does not say. `xla_flops`
    counts the body of a loop once, on one device; `matrix_flops` counts every turn, on the whole
    mesh, and matrix products alone. The optimized HLO text is written to `hlo` if given. Raises
    CompilerError.
    """
    component = program.components[name]
    inputs, outputs = program.buffers(component.inputs), program.buffers(component.outputs)
    mesh = device_mesh(topology, program.mesh_shape)
    jitted = jax.jit(
        component.function,
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
    if hlo is not None:
        hlo.write_text(text)
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    return {
        "component": name,
        "topology": topology,
        "compiler_options": options,
        "seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
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
