"""What users import and type: the Python client and the command line.

Imports neither jax nor ray, and `Client` with its HTTP library only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landbridge.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from landbridge.client import Client

        return Client
    raise AttributeError(f"module 'landbridge' has no attribute {name!r}")
