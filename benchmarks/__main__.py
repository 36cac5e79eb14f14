"""`python -m benchmarks NAME|all [--json] [--quick]`: the tables of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import sys

from rich.console import Console

from benchmarks import table

BUILT = (
    "tax",
    "dispatch",
    "launch",
    "model",
    "data",
    "checkpoint",
    "plan",
    "tokenizers",
    "transport",
    "link",
    "compression",
    "recovery",
)
TO_COME = ("control", "scheduler")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=("all", *BUILT, *TO_COME))
    parser.add_argument("--json", action="store_true", help="the last line of stdout is JSON")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: no claims")
    options = parser.parse_args()
    if options.name in TO_COME:
        parser.error(f"{options.name} comes with its feature; there are {', '.join(BUILT)}")
    console = Console(stderr=options.json, width=140)
    for name in BUILT if options.name == "all" else (options.name,):
        result = importlib.import_module(f"benchmarks.{name}").run(quick=options.quick)
        if options.json:
            # First: what took an hour to measure must not be lost over how it is shown.
            table.print_json(result)
        table.show(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
