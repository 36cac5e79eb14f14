"""`python -m landbridge.demo`: two pods on this machine train a small PaLM in lockstep, end to end.

Starts a controller with two pods of one device on free ports, submits a spec through REST, shows
its progress, prints a summary and stops everything it started. The last line of stdout is one JSON
document. Exit 0 only when the job succeeded and both pods hold the same bits; 130 after SIGINT and
143 after SIGTERM, which stop everything it started too.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from landbridge import figures, progress
from landbridge.client import Client
from landbridge.errors import LandbridgeError
from landbridge.local import LocalControllerError, local_controller

Document = dict[str, Any]

SPEC = pathlib.Path(__file__).parent.parent / "examples" / "palm-tiny.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m landbridge.demo", description=__doc__)
    parser.add_argument("spec", nargs="?", type=pathlib.Path, default=SPEC)
    parser.add_argument("--pods", type=int, default=2)
    parser.add_argument("--hosts-per-pod", type=int, default=1)
    parser.add_argument("--devices-per-host", type=int, default=1)
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    flags = [
        *("--pods", str(options.pods)),
        *("--hosts-per-pod", str(options.hosts_per_pod)),
        *("--devices-per-host", str(options.devices_per_host)),
    ]
    try:
        summary = _run(options.spec, flags, console)
    except (LandbridgeError, LocalControllerError) as error:
        console.print(f"error: {error}", markup=False)
        return 1
    print(json.dumps(summary), flush=True)
    digests = set(summary["digests"].values())
    return 0 if summary["state"] == "SUCCEEDED" and len(digests) == 1 and None not in digests else 1


def _exit(number: int, _: FrameType | None) -> NoReturn:
    """Ends the program as an exception, which stops the controller on its way; with the exit code
    that shells give a process that died of the signal."""
    raise SystemExit(128 + number)


def _run(spec: pathlib.Path, flags: list[str], console: Console) -> Document:
    with local_controller(arguments=flags) as controller:
        console.print(f"the controller is at {controller.address}", highlight=False)
        with Client(controller.address) as client:
            job = client.submit(spec)
            console.print(f"watch it at {controller.address}/jobs/{job['id']}", highlight=False)
            with progress.shown(console) as show:
                job = client.wait(job["id"], on_change=show)
            steps = client.steps(job["id"], points=2)["steps"]
            workers = [host["pid"] for pod in client.pods()["pods"] for host in pod["hosts"]]
    left = [pid for pid in (controller.process.pid, *workers) if _is_running(pid)]
    if left:
        raise LocalControllerError(f"processes are left behind: {left}")
    _print_summary(job, steps, console)
    return {
        "job": job["id"],
        "state": job["state"],
        "steps": job["step"],
        "first_loss": steps[0]["loss"] if steps else None,
        "final_loss": job["loss"],
        "mfu": job["mfu"],
        "tokens_per_second": job["tokens_per_second"],
        "digests": {
            pod["name"]: pod["digest"]["sha256"] if pod["digest"] else None
            for pod in sorted(job["pods"], key=lambda pod: pod["name"])
        },
    }


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _print_summary(job: Document, steps: list[Document], console: Console) -> None:
    table = Table(title=f"{job['name']}: {job['state'].lower()}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("reason", job["reason"]["message"])
    table.add_row("steps", f"{job['step']} of {job['target_steps']}")
    table.add_row("first loss", figures.fixed(steps[0]["loss"] if steps else None))
    table.add_row("final loss", figures.fixed(job["loss"]))
    table.add_row("tokens/s", figures.amount(job["tokens_per_second"]))
    peak = figures.amount(job["flops"]["peak_flops_per_second"], "FLOP/s")
    table.add_row("MFU", f"{figures.percent(job['mfu'])} of {peak} ({job['flops']['peak_source']})")
    table.add_row("goodput", figures.percent(job["goodput"]))
    table.add_row("over the link", figures.amount(job["link_bytes"], "B"))
    for pod in job["pods"]:
        digest = pod["digest"]
        held = f"{digest['sha256'][:16]} at step {digest['step']}" if digest else "no digest"
        table.add_row(f"{pod['name']} holds", held)
    console.print(table)
    shas = {pod["digest"]["sha256"] if pod["digest"] else None for pod in job["pods"]}
    equal = len(shas) == 1 and None not in shas
    console.print(
        "[green]All pods hold the same bits.[/]" if equal else "[red]The pods do not agree.[/]"
    )


if __name__ == "__main__":
    sys.exit(main())
