"""In which order a controller starts."""

from __future__ import annotations

import logging
import pathlib
import socket

import pytest

from controller.config import Address, ControllerConfig, LauncherKind
from controller.main import serve
from controller.runtime.store import Store


class Reached(Exception):
    pass


def test_jobs_on_record_are_known_before_any_host_can_dial(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that holds a job which is not known yet would be told to stop."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()

    def unfinished(_: Store) -> list[object]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        raise Reached

    monkeypatch.setattr(Store, "unfinished", unfinished)
    config = ControllerConfig(
        tmp_path, Address("127.0.0.1", 0), Address(*address), launcher=LauncherKind.NONE
    )
    with pytest.raises(Reached):
        serve(config, lambda endpoints: None)
