"""Machines on one machine: network namespaces joined by a link that the kernel throttles.

Each namespace has two interfaces. `link` leads to a bridge in a namespace of its own, where nothing
else forwards or filters, and a token bucket limits it at both of its ends, so that a rate holds for
what a namespace sends and for what it gets. `control` leads to this machine's own namespace,
unthrottled, so that workers can dial a controller that runs there. Linux, as root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

_LINK = "10.63.0"
_CONTROL = [f"10.{second}.{third}" for second in range(64, 128) for third in range(256)]
"""One of these subnets for each lab, by process and number, so that labs do not meet."""

_BURST_SECONDS = 0.002
_LEAST_BURST_BYTES = 64 << 10
"""The largest packet that a sender hands over at once; a smaller bucket would have it cut up."""

_QUEUE_BYTES = 16 << 20
"""As much as the senders of a link have under way at most, so that it is slow and loses nothing: a
loss at the end of a transfer is noticed only after 200 ms, whatever the rate."""

_serials = itertools.count()


class NoNamespaces(RuntimeError):
    """This machine or this user cannot make namespaces; says what is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Namespace:
    """One machine of the lab."""

    name: str
    link_address: str
    control_address: str

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs this one inside."""
        return ["ip", "netns", "exec", self.name, *command]


@dataclasses.dataclass(frozen=True, slots=True)
class Lab:
    """The machines, and this one's address on their control network."""

    namespaces: Sequence[Namespace]
    control_address: str
    hub: str
    """Namespace of the bridge; its ports are port0, port1 and so on."""

    def throttle(self, bits_per_second: float) -> None:
        """Let the link of every namespace have this rate in each direction from now on."""
        rate = bits_per_second / 8
        burst = max(_LEAST_BURST_BYTES, int(rate * _BURST_SECONDS))
        shape = ["root", "tbf", "rate", f"{bits_per_second:.0f}bit", "burst", f"{burst}"]
        shape += ["limit", f"{_QUEUE_BYTES}"]
        for index, namespace in enumerate(self.namespaces):
            for where, interface in ((namespace.name, "link"), (self.hub, f"port{index}")):
                _run("tc", "-n", where, "qdisc", "replace", "dev", interface, *shape)

    def run(self, index: int, *command: str) -> str:
        """What a command says that runs in a namespace to its end; raises RuntimeError."""
        return _run(*self.namespaces[index].command(command))


@contextlib.contextmanager
def lab(count: int, bits_per_second: float | None = None) -> Iterator[Lab]:
    """So many namespaces for a `with` block; without a rate the link is as fast as it gets.

    Raises NoNamespaces. At the end everything that still runs in them is killed.
    """
    check()
    serial = next(_serials)
    prefix = f"lb{os.getpid()}.{serial}"
    subnet = _CONTROL[(os.getpid() + serial) % len(_CONTROL)]
    with contextlib.ExitStack() as stack:
        hub = _namespace(stack, f"{prefix}hub")
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        control = f"{prefix}c"
        _run("ip", "link", "add", control, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", control)
        _run("ip", "address", "add", f"{subnet}.1/24", "dev", control)
        _run("ip", "link", "set", control, "up")
        made = []
        for index in range(count):
            name = _namespace(stack, f"{prefix}n{index}")
            namespace = Namespace(name, f"{_LINK}.{index + 1}", f"{subnet}.{index + 2}")
            _join(namespace, "link", namespace.link_address, f"port{index}", "bridge", hub)
            end = f"{control}{index}"
            _join(namespace, "control", namespace.control_address, end, control, None)
            # The kernel takes its time to clear a namespace away, and this end is to go at once.
            stack.callback(_run, "ip", "link", "del", end)
            made.append(namespace)
        there = Lab(made, f"{subnet}.1", hub)
        if bits_per_second is not None:
            there.throttle(bits_per_second)
        yield there


def check() -> None:
    """Raises NoNamespaces when this machine or user certainly cannot make any."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        raise NoNamespaces(f"{' and '.join(missing)} not found; install Debian's iproute2")
    if os.geteuid() != 0:
        raise NoNamespaces("network namespaces are made by root only")


def _namespace(stack: contextlib.ExitStack, name: str) -> str:
    try:
        _run("ip", "netns", "add", name)
    except RuntimeError as error:
        raise NoNamespaces(f"this machine allows no network namespaces: {error}") from error
    stack.callback(_remove, name)
    _run("ip", "-n", name, "link", "set", "lo", "up")
    return name


def _remove(name: str) -> None:
    """A namespace lives on while a process is in it."""
    for pid in _run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), 9)
    _run("ip", "netns", "del", name)


def _join(
    namespace: Namespace, interface: str, address: str, end: str, bridge: str, hub: str | None
) -> None:
    """Give the namespace an interface whose other end is a port of the bridge, in the hub or
    here."""
    there = ["-n", hub] if hub else []
    inside = ["-n", namespace.name]
    peer = ["type", "veth", "peer", "name", interface, "netns", namespace.name]
    _run("ip", *there, "link", "add", end, *peer)
    _run("ip", *there, "link", "set", "dev", end, "master", bridge, "up")
    _run("ip", *inside, "address", "add", f"{address}/24", "dev", interface)
    _run("ip", *inside, "link", "set", "dev", interface, "up")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise RuntimeError(f"`{' '.join(command)}` failed: {said}")
    return done.stdout
