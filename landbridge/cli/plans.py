"""Dry runs: is a job spec sound, and what would the job be?"""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

from landbridge.cli import local_specs, output
from landbridge.cli.options import Address, Json, SpecFile, client, is_configured
from landbridge.errors import NotInstalled, Unreachable

Document = dict[str, Any]


def validate(spec: SpecFile, address: Address = "", json: Json = False) -> int:
    """Check a job spec in full; nothing starts."""

    def show(plan: Document) -> None:
        _warn(plan)
        print(f"{spec} is valid")

    with client(address) as api:
        return output.answer(api.validate(spec), json, show)


def plan(
    spec: SpecFile,
    topology: Annotated[
        str,
        typer.Argument(
            metavar="TOPOLOGY",
            help="Of --compile, as v4:12x16x16; else that of the spec's assume.device and mesh.",
            show_default=False,
        ),
    ] = "",
    lower: Annotated[
        bool, typer.Option("--lower", help="Also lower the whole program on this machine.")
    ] = False,
    compiles: Annotated[
        bool,
        typer.Option("--compile", help="Also compile it, for TPUs that need not be there."),
    ] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Ask no controller: plan on the devices the spec assumes."),
    ] = False,
    address: Address = "",
    json: Json = False,
) -> int:
    """Tell what a job would need and how fast it would be; nothing starts. Where no address is
    given and no controller answers, the plan is made here, as with --local."""
    if topology and not compiles:
        raise typer.BadParameter(f"{topology}: a topology is what --compile compiles for")
    planned = local_specs.plan(spec) if local else _asked(spec, address)
    if lower or compiles:
        # Only now: other commands need none of this.
        from landbridge.cli import examination

        examination.check_installed(compiles=compiles)
        target = (topology or examination.topology_of(planned)) if compiles else None
        if target:
            output.say(f"compiling for {target}; a large model takes minutes")
        examined = planned["examined"] = examination.examine(planned, target)
        if target:
            held = examined["held_in_a_step"] = examination.held_in_a_step(planned, examined)
            planned["warnings"] = examination.warnings_of_compiler(planned, held)
    return output.answer(planned, json, _show_plan)


COMMANDS = (validate, plan)


def _asked(spec: pathlib.Path, address: str) -> Document:
    """The controller's plan; this machine's where nobody said where a controller is."""
    with client(address) as api:
        try:
            return api.plan(spec)
        except Unreachable as unreachable:
            if is_configured(address):
                raise
            try:
                planned = local_specs.plan(spec)
            except NotInstalled:
                raise unreachable from None
    output.say(f"no controller at {api.address}: planned here, as with --local")
    return planned


def _show_plan(plan: Document) -> None:
    from landbridge.cli import examined_table, plan_table

    plan_table.show(plan)
    if "examined" in plan:
        examined_table.show(plan["examined"])
    _warn(plan)


def _warn(plan: Document) -> None:
    for warning in plan["warnings"]:
        output.say(f"warning: {warning['message']} ({warning['hint']})")
