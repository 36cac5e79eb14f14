"""Commands about the links between pods: what was sent, and the conditions of an emulated link."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from landbridge import figures
from landbridge.cli import output
from landbridge.cli.options import Address, Json, client
from landbridge.errors import LandbridgeError

Document = dict[str, Any]

app = typer.Typer(
    name="links",
    help="Traffic between pods, and the conditions of emulated links.",
    rich_markup_mode=None,
)

NONE = "none"
"""Takes a condition away."""


def _option(flag: str, example: str, what: str) -> Any:
    return typer.Option(f"--{flag}", help=f"{what}, such as {example}; `{NONE}` for none.")


@app.callback(invoke_without_command=True)
def links(context: typer.Context, address: Address = "", json: Json = False) -> int:
    """List the traffic between pods and the conditions of emulated links."""
    if context.invoked_subcommand is not None:
        return output.OK
    with client(address) as api:
        return output.answer(api.links(), json, _show)


@app.command(name="set")
def set_link(
    pod: Annotated[str, typer.Argument(metavar="POD", help="Whose sending is changed.")],
    bandwidth: Annotated[str | None, _option("bandwidth", "200Mbit", "Rate")] = None,
    latency: Annotated[str | None, _option("latency", "5ms", "One-way delay")] = None,
    jitter: Annotated[str | None, _option("jitter", "2ms", "Most delay beyond that")] = None,
    stall_every: Annotated[
        str | None, _option("stall-every", "30s", "Mean time between stalls")
    ] = None,
    stall: Annotated[str | None, _option("stall", "500ms", "How long a stall lasts")] = None,
    drop: Annotated[str | None, _option("drop", "0.1%", "Frames lost and sent again")] = None,
    partition: Annotated[
        bool | None,
        typer.Option(help="Let nothing that the pod sends arrive, until --no-partition."),
    ] = None,
    address: Address = "",
    json: Json = False,
) -> int:
    """Change the emulated link of a pod that runs; what is not named stays as it is."""
    texts = {
        "bandwidth": bandwidth,
        "latency": latency,
        "jitter": jitter,
        "stall_every": stall_every,
        "stall": stall,
        "drop": drop,
    }
    asked: Document = {
        name: None if text == NONE else text for name, text in texts.items() if text is not None
    }
    if partition is not None:
        asked["partitioned"] = partition
    if not asked:
        raise typer.BadParameter(f"name what to change, such as --bandwidth 200Mbit for {pod}")
    with client(address) as api:
        return output.answer(
            api.set_link(pod, {**_in_force(api.links(), pod), **asked}), json, _say
        )


def _in_force(document: Document, pod: str) -> Document:
    """Nothing of a pod that is not there or not emulated, which the controller then says."""
    found = next((other for other in document["pods"] if other["name"] == pod), None)
    if found is None or not found["is_emulated"]:
        return {}
    if found["conditions"] is None:
        message = f"the hosts of {pod} are changing over to another link; ask again in a moment"
        raise LandbridgeError("links-differ", message)
    return found["conditions"]


def _show(document: Document) -> None:
    rows = [
        (
            link["src"],
            link["dst"],
            figures.amount(link["bytes"], "B"),
            figures.amount(link["bandwidth_bytes_per_second"], "B/s"),
            figures.brief(link["rtt_seconds"]),
            str(link["retries"]),
        )
        for link in document["links"]
    ]
    output.table(("FROM", "TO", "SENT", "RATE WHILE SENDING", "ROUND TRIP", "SENT AGAIN"), rows)
    emulated = [pod for pod in document["pods"] if pod["is_emulated"]]
    if emulated:
        print()
        output.table(
            ("EMULATED", "SENDS UNDER"),
            [(pod["name"], _conditions(pod["conditions"])) for pod in emulated],
        )


def _say(document: Document) -> None:
    print(f"{document['name']} sends under: {_conditions(document['conditions'])}")


def _conditions(conditions: Document | None) -> str:
    if conditions is None:
        return "its hosts are changing over"
    named = [
        f"{name.replace('_', '-')} {text}"
        for name, text in conditions.items()
        if text and name != "partitioned"
    ]
    if conditions["partitioned"]:
        named.append("partitioned")
    return ", ".join(named) or "no limits"
