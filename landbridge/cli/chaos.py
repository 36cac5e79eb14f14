"""A command that kills processes of a job on this machine and tells what it cost."""

from __future__ import annotations

import json as json_format
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landbridge.cli import output
from landbridge.cli.options import Json, SpecFile

if TYPE_CHECKING:
    from landbridge.chaos import Kill

Document = dict[str, Any]


def chaos(
    spec: SpecFile,
    seed: Annotated[int, typer.Option(help="Of victims and moments.")] = 0,
    kills: Annotated[int, typer.Option(min=1, help="How many, one after the other.")] = 10,
    pods: Annotated[
        int, typer.Option(min=1, help="Pods to start; more than the job's are spares.")
    ] = 2,
    hosts_per_pod: Annotated[int, typer.Option(min=1)] = 1,
    devices_per_host: Annotated[int, typer.Option(min=1, help="Virtual CPU devices.")] = 1,
    json: Json = False,
) -> int:
    """Run a job on a fleet of its own, undisturbed and under SIGKILL of workers, pods and the
    controller; compare what comes out."""
    from landbridge.chaos import run

    def tell(kill: Kill) -> None:
        where = f" about to {kill.place}" if kill.place else ""
        output.say(
            f"kill {kill.number} of {kills}: {_who(kill)}{where}, step {kill.step}; "
            f"seen after {_seconds(kill.detected_seconds)}, "
            f"went on after {_seconds(kill.recovered_seconds)}"
        )

    outcome = run(
        pathlib.Path(spec),
        seed=seed,
        kills=kills,
        pods=pods,
        hosts_per_pod=hosts_per_pod,
        devices_per_host=devices_per_host,
        on_kill=tell,
        say=output.say,
    )
    if not json:
        _show(outcome)
    print(json_format.dumps(outcome, allow_nan=False), flush=True)
    whole = outcome["digest_equal"] and outcome["steps_equal"]
    return output.OK if whole and outcome["recovered"] == outcome["tried"] else output.JOB_FAILED


def _show(outcome: Document) -> None:
    detection, recovery = outcome["detection_seconds"], outcome["recovery_seconds"]
    targets = ", ".join(f"{count} x {name}" for name, count in outcome["targets"].items())
    rows = [
        ("killed", targets or "-"),
        ("recovered", f"{outcome['recovered']} of {outcome['tried']} kills"),
        ("seen after", f"{_seconds(detection['p50'])}, at most {_seconds(detection['max'])}"),
        ("went on after", f"{_seconds(recovery['p50'])}, at most {_seconds(recovery['max'])}"),
        ("steps run again", str(outcome["steps_recomputed"])),
        ("goodput", f"{outcome['goodput']:.1%}" if outcome["goodput"] is not None else "-"),
        ("every step once", "yes" if outcome["steps_equal"] else "NO"),
        ("the same bits", "yes" if outcome["digest_equal"] else "NO"),
    ]
    output.table(("WHAT", "FOUND"), rows)


def _who(kill: Kill) -> str:
    match kill.target:
        case "controller":
            return "the controller"
        case "pod":
            return f"all of {kill.name}"
        case _:
            return f"a worker of {kill.name}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


COMMANDS = (chaos,)
