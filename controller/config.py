"""What a controller is told at start, parsed once. Nothing else reads flags or the environment."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import pathlib
from collections.abc import Mapping

from controller.core import link


class LauncherKind(enum.StrEnum):
    """Who starts worker processes."""

    LOCAL = "local"
    """Subprocesses of this machine."""
    RAY = "ray"
    """Actors in placement groups of a Ray cluster."""
    NONE = "none"
    """Nobody: compose, Kubernetes or people start them and they dial in."""


class ConfigError(ValueError):
    """The controller was told something it cannot do; says what and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From HOST:PORT; raises ConfigError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"{text!r} is no address; write HOST:PORT, such as 127.0.0.1:8400")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """Pods that a launcher keeps running."""

    pods: int = 2
    hosts_per_pod: int = 1
    devices_per_host: int = 2
    link: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Conditions of an emulated link, as texts by name: controller.core.link knows them."""
    link_emulator: bool = False
    """Whether the link is emulated although no conditions are given: they may come later."""
    device_flops_per_second: float | None = None
    """Of emulated devices; None for those there are."""


@dataclasses.dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Everything the controller is told at start."""

    state_dir: pathlib.Path
    http: Address = Address("127.0.0.1", 8400)
    grpc: Address = Address("127.0.0.1", 8401)
    metrics_port: int | None = None
    """Where /metrics alone is served, on the host of `http` and under its rules; None for nowhere
    but `http`."""
    store_url: str = ""
    """SQLAlchemy URL; empty for SQLite in the state directory."""
    standby: bool = False
    """Whether to wait while another controller holds the state, and to take over from it."""
    launcher: LauncherKind = LauncherKind.LOCAL
    fleet: Fleet = Fleet()
    ray_address: str = ""
    token: str = dataclasses.field(default="", repr=False)
    """Bearer token of the API; needed when http is not loopback."""
    join_token: str = dataclasses.field(default="", repr=False)
    """What hosts must show to attach; needed when grpc is not loopback."""

    def check(self) -> None:
        """Refuse what would leave a port open to everybody, and a link that is none; raises
        ConfigError."""
        try:
            link.parse_conditions(self.fleet.link)
        except link.NotALink as error:
            raise ConfigError(str(error)) from error
        if not self.http.is_loopback and not self.token:
            raise ConfigError(
                f"{self.http} is reachable from other machines and no token is set; "
                "set LANDBRIDGE_TOKEN or bind to 127.0.0.1"
            )
        if not self.grpc.is_loopback and not self.join_token:
            raise ConfigError(
                f"{self.grpc} is reachable from other machines and no join token is set; "
                "set LANDBRIDGE_JOIN_TOKEN or bind to 127.0.0.1"
            )

    @property
    def metrics(self) -> Address | None:
        """Where /metrics alone is served, if anywhere."""
        return None if self.metrics_port is None else Address(self.http.host, self.metrics_port)

    @property
    def database_url(self) -> str:
        return self.store_url or f"sqlite:///{self.state_dir / 'landbridge.db'}"
