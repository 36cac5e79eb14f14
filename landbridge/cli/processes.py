"""Commands that become a controller or a worker. What they need is imported only then."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landbridge.cli import output
from landbridge.cli.options import Json
from landbridge.errors import LandbridgeError, StateHeld

if TYPE_CHECKING:
    from controller.main import Endpoints

DEFAULT_STATE_DIR = pathlib.Path("~/.landbridge")


def _take_defaults(context: typer.Context, path: pathlib.Path | None) -> pathlib.Path | None:
    """Options that are on no command line come from the file."""
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{path} is not readable TOML: {error}") from error
        known = {parameter.name for parameter in context.command.params}
        unknown = sorted(values.keys() - known)
        if unknown:
            words = ", ".join(sorted(str(name) for name in known))
            raise typer.BadParameter(f"{path}: unknown key {unknown[0]!r}; there are: {words}")
        context.default_map = values
    return path


StateDir = Annotated[
    pathlib.Path, typer.Option(help="Where everything that lasts is kept.", file_okay=False)
]
Bandwidth = Annotated[str, typer.Option(help="Emulate a link of this rate, such as 200Mbit.")]
Latency = Annotated[str, typer.Option(help="Emulate a link of this one-way delay, such as 5ms.")]
Jitter = Annotated[str, typer.Option(help="Add up to this much delay at random, such as 2ms.")]
StallEvery = Annotated[str, typer.Option(help="Mean time between stalls, such as 30s.")]
Stall = Annotated[str, typer.Option(help="How long a stall lasts, such as 500ms.")]
Drop = Annotated[str, typer.Option(help="How many frames are lost and sent again, such as 0.1%.")]
Emulator = Annotated[
    bool,
    typer.Option(
        "--link-emulator",
        help="Let `landbridge links set` change the link, which starts unlimited.",
    ),
]
DeviceFlops = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Emulate devices of this speed: components last as long as their FLOPs would take, "
        "and the processor is free meanwhile.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Serve /metrics alone on this port too, at the host of the API.",
    ),
]
Standby = Annotated[
    bool,
    typer.Option(
        "--standby",
        help="While another controller runs on the same state, wait, and take over when it ends.",
    ),
]
ConfigFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        is_eager=True,
        callback=_take_defaults,
        help="TOML with these options as keys, words joined by _.",
    ),
]


def up(
    pods: Annotated[int, typer.Option(min=0, help="Pods to start.")] = 2,
    hosts_per_pod: Annotated[int, typer.Option(min=1)] = 1,
    devices_per_host: Annotated[int, typer.Option(min=1, help="Virtual CPU devices.")] = 2,
    launcher: Annotated[
        Literal["local", "ray", "none"], typer.Option(help="Who starts workers.")
    ] = "local",
    http: Annotated[str, typer.Option(help="HOST:PORT of the API.")] = "127.0.0.1:8400",
    grpc: Annotated[str, typer.Option(help="HOST:PORT for workers.")] = "127.0.0.1:8401",
    metrics_port: MetricsPort = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    store: Annotated[str, typer.Option(help="SQLAlchemy URL; SQLite if left out.")] = "",
    standby: Standby = False,
    link_bandwidth: Bandwidth = "",
    link_latency: Latency = "",
    link_jitter: Jitter = "",
    link_stall_every: StallEvery = "",
    link_stall: Stall = "",
    link_drop: Drop = "",
    link_emulator: Emulator = False,
    device_flops_per_second: DeviceFlops = None,
    ray_address: Annotated[str, typer.Option(help="Ray cluster to use.")] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Run a controller and, with the local launcher, the pods of a simulated fleet.

    LANDBRIDGE_TOKEN and LANDBRIDGE_JOIN_TOKEN are needed to listen beyond this machine. SIGTERM and
    Ctrl-C stop everything it started. One controller runs on a state directory; a second one is
    refused (exit code 7), or waits with --standby.
    """
    from controller import main
    from controller.config import Address, ConfigError, ControllerConfig, Fleet, LauncherKind
    from controller.runtime.lease import LeaseHeld, LeaseLost
    from controller.runtime.store_failure import StoreFailed

    with _starting("controller", refusal=ConfigError):
        link = _link_texts(
            link_bandwidth, link_latency, link_jitter, link_stall_every, link_stall, link_drop
        )
        told = ControllerConfig(
            state_dir=state_dir.expanduser(),
            http=Address.parse(http),
            grpc=Address.parse(grpc),
            metrics_port=metrics_port,
            store_url=store,
            standby=standby,
            launcher=LauncherKind(launcher),
            fleet=Fleet(
                pods, hosts_per_pod, devices_per_host, link, link_emulator, device_flops_per_second
            ),
            ray_address=ray_address,
            token=os.environ.get("LANDBRIDGE_TOKEN", ""),
            join_token=os.environ.get("LANDBRIDGE_JOIN_TOKEN", ""),
        )
        try:
            return main.serve(told, _announce_json if json else _announce)
        except LeaseHeld as error:
            raise StateHeld(str(error)) from error
        except (LeaseLost, StoreFailed) as error:
            raise LandbridgeError("store-failed", f"the controller stopped: {error}") from error


def worker(
    controller: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of the controller's gRPC; several, with commas between, are dialled in "
            "turn until one answers."
        ),
    ],
    pod: Annotated[str, typer.Option(help="Name of the pod this host belongs to.")],
    host_index: Annotated[int, typer.Option(min=0)] = 0,
    hosts: Annotated[int, typer.Option(min=1, help="Hosts of the pod.")] = 1,
    listen: Annotated[str, typer.Option(help="HOST:PORT for other pods.")] = "127.0.0.1:0",
    advertise: Annotated[str, typer.Option(help="How other pods reach it.")] = "",
    devices: Annotated[
        int | None, typer.Option(min=1, help="Virtual CPU devices; else what there is.")
    ] = None,
    cpus: Annotated[str, typer.Option(help="Cores to use: 0,1 and so on.")] = "",
    link_bandwidth: Bandwidth = "",
    link_latency: Latency = "",
    link_jitter: Jitter = "",
    link_stall_every: StallEvery = "",
    link_stall: Stall = "",
    link_drop: Drop = "",
    link_emulator: Emulator = False,
    device_flops_per_second: DeviceFlops = None,
    leave_grace_seconds: Annotated[
        float,
        typer.Option(
            "--leave-grace",
            min=0.0,
            help="Seconds to hand over in after SIGTERM; a second SIGTERM ends at once.",
        ),
    ] = 25.0,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    json: Json = False,
) -> int:
    """Run one host of one pod; it dials the controller and does as told.

    LANDBRIDGE_JOIN_TOKEN is what the controller asks for, if it asks for any.
    """
    from workers import main
    from workers.config import WorkerConfig

    with _starting("worker", refusal=ValueError):
        link = _link_texts(
            link_bandwidth, link_latency, link_jitter, link_stall_every, link_stall, link_drop
        )
        told = WorkerConfig(
            controllers=tuple(address.strip() for address in controller.split(",")),
            pod=pod,
            host_index=host_index,
            state_dir=state_dir.expanduser(),
            hosts=hosts,
            listen=listen,
            advertise=advertise,
            devices=devices,
            cpus=tuple(int(core) for core in cpus.split(",") if core),
            link=link,
            link_emulator=link_emulator,
            device_flops_per_second=device_flops_per_second,
            leave_grace_seconds=leave_grace_seconds,
            join_token=os.environ.get("LANDBRIDGE_JOIN_TOKEN", ""),
        )
        return main.serve(told)


COMMANDS = (up, worker)


@contextlib.contextmanager
def _starting(what: str, *, refusal: type[ValueError]) -> Iterator[None]:
    """Options that are refused become a usage error, and what the system refuses says so."""
    try:
        yield
    except refusal as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        raise LandbridgeError("cannot-start", f"the {what} cannot start: {error}") from error


def _announce(at: Endpoints) -> None:
    print(f"landbridge is ready: {at.http} grpc {at.grpc} metrics {at.metrics}", flush=True)


def _announce_json(at: Endpoints) -> None:
    output.data({"http": at.http, "grpc": at.grpc, "metrics": at.metrics})


def _link_texts(
    bandwidth: str, latency: str, jitter: str, stall_every: str, stall: str, drop: str
) -> dict[str, str]:
    """The options of an emulated link by the names of its conditions."""
    return {
        "bandwidth": bandwidth,
        "latency": latency,
        "jitter": jitter,
        "stall-every": stall_every,
        "stall": stall,
        "drop": drop,
    }
