"""Makes the hosts of a pod one jax process group, before jax touches a device.

The lead reserves the coordinator's port when it says hello, long before jax listens on it. The
reserving socket is bound with SO_REUSEPORT and never listens: nobody else can take the port, while
jax's own server, which binds with SO_REUSEPORT too, still can.
"""

from __future__ import annotations

import socket

import jax

INITIALISE_TIMEOUT_SECONDS = 120


class ReservedPort:
    """A TCP port held for jax's coordinator."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def join_pod(coordinator: str, bind: str | None, num_hosts: int, host_index: int) -> None:
    """Initialise jax.distributed; blocks until all hosts of the pod have joined.

    `bind` is where the lead's coordinator listens; jax would take all interfaces.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=coordinator,
        coordinator_bind_address=bind,
        num_processes=num_hosts,
        process_id=host_index,
        initialization_timeout=INITIALISE_TIMEOUT_SECONDS,
    )
