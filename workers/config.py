"""What a worker is told at start, parsed once."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One host of one pod."""

    controllers: tuple[str, ...]
    """HOST:PORT of every controller that may run; the worker dials them in turn."""
    pod: str
    host_index: int
    state_dir: pathlib.Path
    """Compilation cache and fetched bundles."""
    hosts: int = 1
    """Hosts of the pod."""
    listen: str = "127.0.0.1:0"
    """Where this host's link plane listens; port 0 lets the system choose."""
    advertise: str = ""
    """HOST or HOST:PORT by which peers reach it; empty for the listening address."""
    devices: int | None = None
    """Virtual CPU devices to make; None for the accelerators there are."""
    cpus: tuple[int, ...] = ()
    """Cores this process may use; empty for all."""
    link: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Conditions of an emulated link, as texts by name: workers.exchange.conditions knows them."""
    link_emulator: bool = False
    """Whether the link is emulated although no conditions are given: they may come later."""
    device_flops_per_second: float | None = None
    """Of emulated devices; None for those there are."""
    leave_grace_seconds: float = 25.0
    """From SIGTERM until the process ends, unless it is dismissed before. Kubernetes kills 30 s
    after its SIGTERM."""
    join_token: str = dataclasses.field(default="", repr=False)
