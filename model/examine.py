"""Command line that says what a program costs, with no accelerator: a request in, JSON out.

    python -m model.examine REQUEST.json [--compile TOPOLOGY]

The request is that of model.lower. Every component is lowered for the abstract mesh:
{"components": {NAME: {"seconds", "bytes"}}} with the bytes of its portable StableHLO. A component
whose FLOPs a formula gives also has those of one run on the whole mesh: "flops" by the formula,
"matrix_flops" of the matrix products as traced, every loop turn, and "xla_flops", XLA's count
before optimization, which takes the body of a loop once. "planned" is the arithmetic for the
gradient of a slot: "bytes_per_device" without optimizer state (model.memory) and "pod_traffic"
(model.pod_traffic). With --compile, the components of a slot's calls are also compiled for a pod of
TPUs that need not exist, such as v4:12x16x16 (model.topology), and "compiled" says what the
compiler plans. Exit statuses are those of model.lower, and 4 where the compiler can not be had or
does not take the program; then the line is {"error"}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from model import config, lower
from model.lower import EXIT_INVALID
from model.memory import device_bytes
from model.pod_traffic import pod_traffic

if TYPE_CHECKING:
    from model.program import Component, Program

EXIT_NOT_COMPILED = 4


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m model.examine", description="Examine.")
    parser.add_argument("request", type=pathlib.Path, help="JSON file with the request")
    parser.add_argument("--compile", metavar="TOPOLOGY", help="also compile, for example v4:2x2x1")
    parser.add_argument("--hlo", type=pathlib.Path, help="where the compiled HLO text goes")
    options = parser.parse_args(arguments)
    request, found = lower.read_request(options.request)
    if found:
        return _answer({"problems": [problem._asdict() for problem in found]}, EXIT_INVALID)
    # Nothing here runs on a device, and a worker on this machine may hold one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from model.topology import CompilerError

    try:
        return _answer(examine(request, options.compile, options.hlo), 0)
    except CompilerError as error:
        return _answer({"error": str(error)}, EXIT_NOT_COMPILED)


def examine(
    request: dict[str, Any], topology: str | None = None, hlo: pathlib.Path | None = None
) -> dict[str, Any]:
    """The figures of a sound request. `topology` and `hlo` are those of the command line.

    Raises model.topology.CompilerError.
    """
    from model import bundle

    program = lower.program_of(request)
    components = {}
    for name, component in program.components.items():
        start = time.perf_counter()
        exported = bundle.export_component(program, component, request["platform"])
        components[name] = {"seconds": time.perf_counter() - start, "bytes": len(exported)}
        if component.flops is not None:
            components[name] |= _counted_flops(program, component)
    figures: dict[str, Any] = {"name": request["name"], "mesh": list(program.mesh_shape)}
    figures["components"] = components
    figures["planned"] = _planned(request)
    if topology is not None:
        from model import topology as tpu

        figures["compiled"] = tpu.compile_slot(program, topology, hlo)
    return figures


def _counted_flops(program: Program, component: Component) -> dict[str, Any]:
    import jax

    from model.matrix_flops import matrix_flops

    inputs = (buffer.abstract for buffer in program.buffers(component.inputs))
    traced = jax.jit(component.function).trace(*inputs)
    cost: Any = traced.lower().cost_analysis()
    return {
        "flops": component.flops,
        "matrix_flops": matrix_flops(traced.jaxpr.jaxpr),
        "xla_flops": cost["flops"],
    }


def _planned(request: dict[str, Any]) -> dict[str, Any]:
    model = config.ModelConfig.from_spec(request["model"])
    slot = config.SlotConfig.from_spec(request["train"])
    mesh = config.MeshConfig(**request["mesh"])
    need = device_bytes(model, slot, mesh)
    parts = {"params": need.params, "gradients": need.gradients, "activations": need.activations}
    return {
        "bytes_per_device": {**parts, "total": sum(parts.values())},
        "pod_traffic": dataclasses.asdict(pod_traffic(model, slot, mesh)),
    }


def _answer(figures: dict[str, Any], status: int) -> int:
    sys.stdout.write(json.dumps(figures) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
