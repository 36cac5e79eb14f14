"""Command line that says what a program costs, with no accelerator: a request in, JSON out.

    python -m model.examine REQUEST.json [--compile TOPOLOGY]

The request is that of model.lower. Every component is lowered for the abstract mesh:
{"components": {NAME: {"seconds", "bytes"}}} with the bytes of its portable StableHLO. With
--compile, `forward_backward` is also compiled for a pod of TPUs that need not exist, such as
v4:12x16x16 (model.topology), and "compiled" says what the compiler plans. Exit statuses are those
of model.lower, and 4 where the compiler can not be had or does not take the program; then the line
is {"error"}.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any

from model import lower
from model.lower import EXIT_INVALID

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
    figures: dict[str, Any] = {"name": request["name"], "mesh": list(program.mesh_shape)}
    figures["components"] = components
    if topology is not None:
        from model import topology as tpu

        figures["compiled"] = tpu.compile_component(program, "forward_backward", topology, hlo)
    return figures


def _answer(figures: dict[str, Any], status: int) -> int:
    sys.stdout.write(json.dumps(figures) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
