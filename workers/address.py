"""HOST:PORT as people write it and gRPC takes it: an IPv6 address stands in brackets."""

from __future__ import annotations

import dataclasses
import ipaddress


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. `host` is a name or an address without brackets, empty for all interfaces;
    port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Address:
        """Read "[::1]:8410"; with a default port a host alone will do, brackets or not.

        Raises ValueError with what to write instead.
        """
        if default_port is not None and _is_host(text):
            return cls(_without_brackets(text), default_port)
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(
                f"{text!r} is no address; write HOST:PORT, such as 127.0.0.1:8410 or [::1]:8410"
            )
        bare = _without_brackets(host)
        if ":" in bare and bare == host:
            raise ValueError(
                f"{text!r} leaves open where its port begins; write [{host}]:{port} for port {port}"
            )
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == "localhost" or (_is_ip(self.host) and self._ip.is_loopback)

    @property
    def is_unspecified(self) -> bool:
        """Whether it stands for all interfaces, which nobody can dial."""
        return not self.host or (_is_ip(self.host) and self._ip.is_unspecified)

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _is_host(text: str) -> bool:
    bare = _without_brackets(text)
    return _is_ip(bare) if bare != text or ":" in text else bool(text)


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
