"""Has a planned program really lowered, and compiled for TPUs that are not there, on this machine.

jax stays out of this process: `python -m model.examine` does the work and needs the extra `model`,
and for compiling the extra `tpu`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
from typing import Any

import typer

from landbridge.cli.plan_table import gib
from landbridge.errors import LandbridgeError, NotInstalled
from model.accelerators import ACCELERATORS
from model.memory import LESS_MEMORY

Document = dict[str, Any]

_GENERATIONS = {"tpu-v4": "v4", "tpu-v5p": "v5p"}
"""What the compiler calls devices that are whole chips."""


def check_installed(*, compiles: bool) -> None:
    """Raises LandbridgeError with the command that installs what is missing here."""
    needed = {"jax": "model", "flax": "model", "flatbuffers": "model"}
    if compiles:
        needed["libtpu"] = "tpu"
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extras = "model,tpu" if compiles else "model"
        detail = f"{', '.join(missing)} not installed here; pip install 'landbridge[{extras}]'"
        raise NotInstalled(detail)


def topology_of(plan: Document) -> str:
    """The topology of as many chips as the plan's mesh has devices, as v4:12x16x16: the most
    compact one, of whole hosts with 2 x 2 chips. Raises typer.BadParameter."""
    assumed = _assumed_device(plan)
    generation = _GENERATIONS.get(assumed)
    if generation is None:
        known = " or ".join(_GENERATIONS)
        raise typer.BadParameter(
            f"--compile needs a topology, as in `--compile v4:2x2x1`, or a spec whose "
            f"assume.device is {known}; this one's is {assumed or 'not given'}"
        )
    mesh = plan["program_request"]["mesh"]
    num_devices = mesh["data"] * mesh["model"]
    shapes = _shapes_of_hosts(num_devices)
    if not shapes:
        raise typer.BadParameter(
            f"a mesh of {num_devices} devices fills no hosts of four chips; "
            "change placement.mesh to a multiple of four"
        )
    shape = min(shapes, key=lambda sizes: (sum(sizes), sizes))
    return f"{generation}:{'x'.join(map(str, shape))}"


def examine(plan: Document, topology: str | None) -> Document:
    """The examiner's answer (model.examine); compiled too where a topology is given.

    Raises LandbridgeError with what the examiner or the compiler says.
    """
    # Only now: other commands need none of this.
    import tempfile

    platform = "tpu" if topology else _platform(plan)
    request = {**plan["program_request"], "platform": platform}
    with tempfile.TemporaryDirectory(prefix="landbridge-plan-") as beside:
        path = pathlib.Path(beside) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "model.examine", str(path)]
        command += ["--compile", topology] if topology else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    if done.returncode == 0:
        return json.loads(said[-1])
    raise LandbridgeError("examine", _complaint(said, done.stderr) or _died(done.returncode))


def held_in_a_step(plan: Document, examined: Document) -> Document:
    """Bytes of a device while the compiled gradient step runs in a training step, by the compiler's
    figures: {"gradient_step", "optimizer", "other_gradients", "total", "device_memory_bytes"}, the
    last of the topology's devices and None where they are not known.

    The gradient step is a slot's calls: parameters, gradients and all that is held between, gaps
    in the compiler's heaps included, because the runtime reserves a heap as a whole. Gradients of
    other slots are those that wait to be added.
    """
    compiled, planned = examined["compiled"], examined["planned"]["bytes_per_device"]
    need = plan["bytes_per_device"]
    parts = {
        "gradient_step": sum(
            compiled[part] for part in ("argument_bytes", "output_bytes", "temporary_bytes")
        ),
        "optimizer": need["optimizer"],
        "other_gradients": need["gradients"] - planned["gradients"],
        "residuals": need["residuals"],
    }
    generation = compiled["topology"].partition(":")[0]
    device = ACCELERATORS.get(f"tpu-{generation}")
    memory = device.memory_bytes if device else None
    return {**parts, "total": sum(parts.values()), "device_memory_bytes": memory}


def warnings_of_compiler(plan: Document, held: Document) -> list[Document]:
    """The plan's warnings, with the compiler's word on memory in the place of the estimate's."""
    others = [warning for warning in plan["warnings"] if warning["code"] != "OutOfMemory"]
    need, memory = held["total"], held["device_memory_bytes"]
    if memory is None or need <= memory:
        return others
    message = f"by the compiler's figures {gib(need)} a device of {gib(memory)} are needed"
    return [*others, {"code": "OutOfMemory", "message": message, "hint": LESS_MEMORY}]


def _shapes_of_hosts(num_devices: int) -> list[tuple[int, int, int]]:
    """Chips along three axes; a host has 2 x 2 x 1 of them."""
    sizes = [size for size in range(1, num_devices + 1) if num_devices % size == 0]
    even = [size for size in sizes if size % 2 == 0]
    return [
        (x, y, num_devices // (x * y))
        for x, y in itertools.product(even, even)
        if num_devices % (x * y) == 0
    ]


def _platform(plan: Document) -> str:
    assumed = _assumed_device(plan)
    if not assumed:
        return "cpu"
    return "tpu" if assumed.startswith("tpu-") else "cuda"


def _assumed_device(plan: Document) -> str:
    return (plan["spec"].get("assume") or {}).get("device") or ""


def _complaint(said: list[str], errors: str) -> str:
    try:
        return str(json.loads(said[-1])["error"])
    except (IndexError, ValueError, KeyError, TypeError):
        return next(reversed(errors.strip().splitlines()), "")


def _died(status: int) -> str:
    return f"`python -m model.examine` ended with status {status} and said nothing"
