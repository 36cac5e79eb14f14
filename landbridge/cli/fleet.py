"""Commands about pods and versions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from landbridge.cli import output
from landbridge.cli.options import Address, Json, client

Document = dict[str, Any]

PodName = Annotated[str, typer.Argument(metavar="POD", help="Its name, as `pods` lists it.")]


def pods(address: Address = "", json: Json = False) -> int:
    """List the pods."""
    with client(address) as api:
        return output.answer(api.pods(), json, _show_pods)


def drain(pod: PodName, address: Address = "", json: Json = False) -> int:
    """Have a pod do nothing more; its job goes on elsewhere after the step at hand."""
    with client(address) as api:
        return output.answer(api.drain(pod), json, _say_state)


def undrain(pod: PodName, address: Address = "", json: Json = False) -> int:
    """Use a pod again that was drained or quarantined."""
    with client(address) as api:
        return output.answer(api.undrain(pod), json, _say_state)


def version(address: Address = "", json: Json = False) -> int:
    """Tell the versions of this command and of the controller."""
    import importlib.metadata

    with client(address) as api:
        versions = {"client": importlib.metadata.version("landbridge"), "controller": api.version()}
    return output.answer(versions, json, _show_versions)


COMMANDS = (pods, drain, undrain, version)


def _show_pods(document: Document) -> None:
    rows = [
        (
            pod["name"],
            pod["state"],
            f"{len(pod['hosts'])}/{pod['num_hosts']}",
            f"{pod['num_devices']} x {pod['device_kind'] or '?'}",
            pod["job"] or "-",
        )
        for pod in document["pods"]
    ]
    output.table(("POD", "STATE", "HOSTS", "DEVICES", "JOB"), rows)


def _say_state(pod: Document) -> None:
    job = f", until job {pod['job']} has left it" if pod["withheld"] and pod["job"] else ""
    print(f"{pod['name']} is {pod['state']}{job}")


def _show_versions(document: Document) -> None:
    print(f"client      {document['client']}")
    print(f"controller  {document['controller']['landbridge']}")
