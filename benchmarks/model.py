"""Model: GFLOP/s and MFU of a slot of palm-tiny on one core, beside the same model in PyTorch
eager.

Both run in processes of their own, bound to one core, alternating. The peak is a float32 product of
1024 x 1024 matrices in XLA on the same core, measured in the same run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks import table
from controller.runtime.launcher.command import WORKER_TUNABLES
from model.config import ModelConfig
from model.flops import model_flops_per_token

MICROBATCH, SEQUENCE = 4, 256
RUNS_OF_A_TURN = 5


def run(*, quick: bool) -> table.Result:
    turns = 2 if quick else 9
    config = ModelConfig.from_spec({"preset": "palm-tiny"})
    flops = MICROBATCH * SEQUENCE * model_flops_per_token(config, SEQUENCE)
    with tempfile.TemporaryDirectory(prefix="landbridge-model-") as name:
        bundle = _lower(pathlib.Path(name))
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(_role("jax", str(bundle)))
            has_torch = importlib.util.find_spec("torch") is not None
            torch = stack.enter_context(_role("torch")) if has_torch else None
            _ask(ours)
            answers, theirs = [], []
            for _ in range(turns):
                answers.append(_ask(ours))
                if torch is not None:
                    theirs.append(_ask(torch))
    peak = max(answer["peak"] for answer in answers)
    jax_rate = flops / table.median([answer["seconds"] for answer in answers])
    rows = [_row("JAX, the bundle's forward_backward", jax_rate, peak, None, turns)]
    if theirs:
        torch_rate = flops / table.median([answer["seconds"] for answer in theirs])
        rows.append(_row("PyTorch eager", torch_rate, peak, None, turns))
        rows.append(_row("JAX / PyTorch", jax_rate, peak, jax_rate / torch_rate, turns))
    notes = "" if theirs else "PyTorch is not installed: pip install torch adds its rows."
    title = f"Model: palm-tiny, a slot of {MICROBATCH} x {SEQUENCE} tokens on one core"
    return table.Result("model", title, rows, notes)


def _row(case: str, rate: float, peak: float, ratio: float | None, runs: int) -> table.Row:
    figures: dict[str, float | str] = {"GFLOP/s": rate / 1e9, "MFU": rate / peak}
    return table.Row(case, ratio, "reported", runs, None, figures)


def _ask(role: subprocess.Popen[str]) -> dict[str, float]:
    assert role.stdin is not None and role.stdout is not None
    role.stdin.write("go\n")
    role.stdin.flush()
    return json.loads(role.stdout.readline())


@contextlib.contextmanager
def _role(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.model", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**WORKER_TUNABLES, **os.environ, "NPROC": "1", "JAX_PLATFORMS": "cpu"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _lower(directory: pathlib.Path) -> pathlib.Path:
    request = {
        "name": "palm-tiny",
        "model": {"preset": "palm-tiny"},
        "train": {"microbatch": MICROBATCH, "sequence_length": SEQUENCE, "optimizer": {}},
        "mesh": {"data": 1, "model": 1},
        "platform": "cpu",
    }
    path = directory / "request.json"
    path.write_text(json.dumps(request))
    command = [sys.executable, "-m", "model.lower", str(path), "--out", str(directory)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return pathlib.Path(json.loads(answer.splitlines()[-1])["path"])


def _jax_role(bundle: str) -> None:
    import jax
    import numpy as np

    from workers.program import load, read_bundle
    from workers.telemetry import inventory

    path = pathlib.Path(bundle)
    program = load(*read_bundle(path.read_bytes(), f"sha256:{path.stem}"))
    call, groups = program.components, program.groups
    params, _ = call["init"]([jax.device_put(np.uint32(0), groups["seed"][0].sharding)])
    tokens = np.random.default_rng(0)
    batch = [
        jax.device_put(tokens.integers(0, 256, b.shape, dtype=np.int32), b.sharding)
        for b in groups["batch"]
    ]

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(call["forward_backward"](params, batch))
        return time.perf_counter() - start

    for _ in sys.stdin:
        spent = table.median([seconds() for _ in range(RUNS_OF_A_TURN)])
        peak = inventory().peak_flops_per_second["float32"]
        print(json.dumps({"seconds": spent, "peak": peak}), flush=True)


def _torch_role() -> None:
    from benchmarks.torch_palm import Slot

    slot = Slot(ModelConfig.from_spec({"preset": "palm-tiny"}), MICROBATCH, SEQUENCE)
    slot.seconds()
    for _ in sys.stdin:
        spent = table.median([slot.seconds() for _ in range(RUNS_OF_A_TURN)])
        print(json.dumps({"seconds": spent}), flush=True)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    _jax_role(*sys.argv[2:]) if sys.argv[1] == "jax" else _torch_role()
