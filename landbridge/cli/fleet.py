"""Commands about pods, links and versions."""

from __future__ import annotations

from landbridge import figures
from landbridge.cli import output
from landbridge.cli.options import Address, Json, client


def pods(address: Address = "", json: Json = False) -> int:
    """List the pods."""
    with client(address) as api:
        document = api.pods()
    if json:
        output.data(document)
        return output.OK
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
    return output.OK


def links(address: Address = "", json: Json = False) -> int:
    """List the traffic between pods."""
    with client(address) as api:
        document = api.links()
    if json:
        output.data(document)
        return output.OK
    rows = [
        (
            link["src"],
            link["dst"],
            figures.amount(link["bytes"], "B"),
            figures.amount(link["bandwidth_bytes_per_second"], "B/s"),
            str(link["retries"]),
        )
        for link in document["links"]
    ]
    output.table(("FROM", "TO", "SENT", "WHILE SENDING", "SENT AGAIN"), rows)
    return output.OK


def version(address: Address = "", json: Json = False) -> int:
    """Tell the versions of this command and of the controller."""
    import importlib.metadata

    with client(address) as api:
        document = {"client": importlib.metadata.version("landbridge"), "controller": api.version()}
    if json:
        output.data(document)
        return output.OK
    print(f"client      {document['client']}")
    print(f"controller  {document['controller']['landbridge']}")
    return output.OK


COMMANDS = (pods, links, version)
