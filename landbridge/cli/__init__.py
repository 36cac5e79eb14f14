"""The `landbridge` command. Every command is a thin call of the client; `--json` makes stdout JSON
and nothing else. Errors become an exit code here, and only here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from landbridge.cli import chaos, export, fleet, jobs, links, output, plans, processes, tokenizer
from landbridge.errors import LandbridgeError

EPILOG = """Exit codes: 0 ok, 1 the job failed, 2 usage, 3 invalid spec, 4 not found, 5 not allowed,
6 controller unreachable, 7 conflict, 124 wait timed out, 130 interrupted."""

COMMANDS = {
    command.__name__: command
    for module in (processes, plans, jobs, export, fleet, chaos)
    for command in module.COMMANDS
}


def build(wanted: str | None = None) -> typer.Typer:
    """The command line; with only the `wanted` command in it, where there is one of that name.

    Typer prepares every option of every command it knows, which takes 60 ms for all of them.
    """
    app = typer.Typer(
        name="landbridge",
        help="Train one JAX model on several accelerator pods joined by a slow link.",
        epilog=EPILOG,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    # With a callback, one command is still a subcommand.
    app.callback()(lambda: None)
    for name, command in COMMANDS.items():
        if wanted not in COMMANDS or name == wanted:
            app.command()(command)
    if wanted not in COMMANDS:
        app.add_typer(links.app)
        app.add_typer(tokenizer.app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        app = build(given[0] if given else None)
        code = app(given or ["--help"], prog_name="landbridge", standalone_mode=False)
    except LandbridgeError as error:
        return output.report_error(error, as_json)
    except TyperException as error:
        return output.report_usage(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return output.report_interrupt(as_json)
    return code if isinstance(code, int) else output.OK
