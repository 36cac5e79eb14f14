"""What a worker is told at start, parsed once."""

from __future__ import annotations

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One host of one pod."""

    controller: str
    """HOST:PORT of the control plane, which the worker dials."""
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
    link_bandwidth: str = ""
    link_latency: str = ""
    join_token: str = dataclasses.field(default="", repr=False)
