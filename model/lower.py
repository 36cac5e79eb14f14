"""Command line of the lowerer: a request file in, a bundle on disk and one line of JSON out.

    python -m model.lower REQUEST.json --out DIR

The request is {"model": {}, "train": {"microbatch", "sequence_length", "optimizer": {}}, "mesh":
{"data", "model"}, "exchange": {"segments", "mode", "outer": {}}, "platform", "name"}; without
`exchange` the model decides the number of segments (model.segments), and pods exchange gradients
after every step. Exit 0: the last line of stdout is {"digest",
"path", "bytes", "manifest"}. Exit 3: the request is wrong and the line is {"problems": [{"pointer",
"detail", "hint"}]}. Anything else is a traceback and exit 1. The request is checked before jax is
imported.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from model import config
from model.fields import Problem
from model.outer_config import OuterConfig

if TYPE_CHECKING:
    from model.program import Program

EXIT_INVALID = 3
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m model.lower", description="Lower a program.")
    parser.add_argument("request", type=pathlib.Path, help="JSON file with the request")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the bundle goes")
    options = parser.parse_args(arguments)
    request, found = read_request(options.request)
    if found:
        print(json.dumps({"problems": [problem._asdict() for problem in found]}))
        return EXIT_INVALID
    print(json.dumps(lower(request, options.out), sort_keys=True))
    return 0


def lower(request: dict[str, Any], directory: pathlib.Path) -> dict[str, Any]:
    """Writes the bundle of a sound request; returns digest, path, size in bytes and manifest."""
    # Lowering needs no accelerator, and must not take one from a worker on this machine.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from model import bundle

    program, platform = program_of(request), request["platform"]
    content = bundle.bundle_bytes(program, platform)
    return {
        "digest": bundle.bundle_digest(content),
        "path": str(bundle.write_bundle(content, directory)),
        "bytes": len(content),
        "manifest": bundle.manifest(program, platform),
    }


def program_of(request: dict[str, Any]) -> Program:
    """The program a sound request describes."""
    # Importing jax costs a second, which the answer to a wrong request need not wait for.
    from model import palm_program

    train, exchange = request["train"], request.get("exchange", {})
    model = config.ModelConfig.from_spec(request["model"])
    return palm_program.palm_program(
        request["name"],
        model,
        config.optimizer_from_spec(train.get("optimizer", {})),
        config.SlotConfig.from_spec(train),
        config.MeshConfig(**request["mesh"]).shape,
        config.ExchangeConfig.from_spec(exchange).segments,
        OuterConfig.from_spec(exchange, model.num_layers),
    )


def read_request(path: pathlib.Path) -> tuple[dict[str, Any], list[Problem]]:
    """A request file's object and everything wrong with it; {} where it is no object."""
    try:
        request = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return {}, [Problem("", f"{path} is not readable JSON: {error}", "write a JSON object")]
    if not isinstance(request, dict):
        return {}, [Problem("", "the request is not an object", "write a JSON object")]
    found = config.problems(request)
    if request.get("platform") not in PLATFORMS:
        detail = f"unknown platform {request.get('platform')!r:.60}"
        found.append(Problem("/platform", detail, f"one of: {', '.join(PLATFORMS)}"))
    if not isinstance(request.get("name"), str):
        found.append(Problem("/name", "expected a string", "the name of the job or program"))
    return request, found


if __name__ == "__main__":
    sys.exit(main())
