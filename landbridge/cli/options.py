"""Options that many commands share, and the client they lead to.

An address comes from a flag, else from the environment, else from the configuration file. A token
has no flag: command lines can be read by everybody on a machine.
"""

from __future__ import annotations

import os
import pathlib
import tomllib
from typing import TYPE_CHECKING, Annotated

import typer

from landbridge.errors import LandbridgeError

if TYPE_CHECKING:
    from landbridge.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Address = Annotated[
    str, typer.Option("--address", envvar="LANDBRIDGE_ADDRESS", help="URL of the controller.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]
SpecFile = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="SPEC", exists=True, dir_okay=False, readable=True, help="YAML or JSON."
    ),
]


def client(address: str) -> Client:
    """A client for the address, or for the one that environment or configuration name."""
    # Only now: the HTTP library costs 100 ms that `landbridge --help` need not wait for.
    from landbridge.client import Client

    configured = _configuration()
    token = os.environ.get("LANDBRIDGE_TOKEN") or configured.get("token", "")
    return Client(address or configured.get("address") or None, token)


def is_configured(address: str) -> bool:
    """Whether flag, environment or configuration name a controller."""
    return bool(address or _configuration().get("address"))


def configuration_path() -> pathlib.Path:
    """$XDG_CONFIG_HOME/landbridge/config.toml, with the keys `address` and `token`."""
    base = os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config"
    return pathlib.Path(base) / "landbridge" / "config.toml"


def _configuration() -> dict[str, str]:
    path = configuration_path()
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LandbridgeError("configuration", f"{path} is not readable TOML: {error}") from error
    return {key: str(value) for key, value in values.items()}
