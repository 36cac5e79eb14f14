"""Model: GFLOP/s and MFU of a slot of palm-tiny on one core, beside the same model in PyTorch
eager.

Both run in processes of their own, bound to one core, alternating. The peak is a float32 product of
1024 x 1024 matrices in XLA on the same core, measured in the same run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from contextlib import ExitStack

from benchmarks import table
from benchmarks.bare import RUNS_OF_A_SLOT, bare_loop
from benchmarks.role import role
from model.config import ModelConfig
from model.flops import model_flops_per_token

MICROBATCH, SEQUENCE = 4, 256


def run(*, quick: bool) -> table.Result:
    turns = 2 if quick else 9
    config = ModelConfig.from_spec({"preset": "palm-tiny"})
    flops = MICROBATCH * SEQUENCE * model_flops_per_token(config, SEQUENCE)
    with tempfile.TemporaryDirectory(prefix="landbridge-model-") as name, ExitStack() as stack:
        folder = pathlib.Path(name)
        ours = stack.enter_context(bare_loop(_lower(folder), 1, folder / "cache", core=_core()))
        has_torch = importlib.util.find_spec("torch") is not None
        torch = stack.enter_context(role("benchmarks.model")) if has_torch else None
        ours.slot_seconds()
        peaks, seconds, theirs = [], [], []
        for _ in range(turns):
            seconds.append(ours.slot_seconds())
            peaks.append(ours.peak_flops_per_second())
            if torch is not None:
                theirs.append(torch.ask("go"))
    peak = max(peaks)
    jax_rate = flops / table.median(seconds)
    rows = [_row("JAX, a slot of the bundle", jax_rate, peak, None, turns)]
    if theirs:
        torch_rate = flops / table.median(theirs)
        rows.append(_row("PyTorch eager", torch_rate, peak, None, turns))
        rows.append(_row("JAX / PyTorch", jax_rate, peak, jax_rate / torch_rate, turns))
    notes = "" if theirs else "PyTorch is not installed: pip install torch adds its rows."
    title = f"Model: palm-tiny, a slot of {MICROBATCH} x {SEQUENCE} tokens on one core"
    return table.Result("model", title, rows, notes)


def _row(case: str, rate: float, peak: float, ratio: float | None, runs: int) -> table.Row:
    figures: dict[str, float | str] = {"GFLOP/s": rate / 1e9, "MFU": rate / peak}
    return table.Row(case, ratio, "reported", runs, None, figures)


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


def main() -> None:
    """The process that runs PyTorch."""
    # Before the import: PyTorch counts the cores there are and starts as many threads.
    os.sched_setaffinity(0, {_core()})
    from benchmarks.torch_palm import Slot

    slot = Slot(ModelConfig.from_spec({"preset": "palm-tiny"}), MICROBATCH, SEQUENCE)
    slot.seconds()
    for _ in sys.stdin:
        spent = table.median([slot.seconds() for _ in range(RUNS_OF_A_SLOT)])
        print(json.dumps(spent), flush=True)


def _core() -> int:
    return min(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
