"""Real controllers with real workers. Compiled programs are kept for the whole run of the suite."""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from landbridge.client import Client
from landbridge.local import LocalController, local_controller

Document = dict[str, Any]

SPEC: Document = {
    "version": 1,
    "name": "palm-tiny",
    "model": {"preset": "palm-tiny"},
    "data": {"sources": [{"name": "stdlib", "kind": "text", "paths": ["python-stdlib:*.py"]}]},
    "train": {
        "steps": 50,
        "global_batch": 4,
        "microbatch": 2,
        "sequence_length": 32,
        "digest_every": 5,
    },
    "placement": {"pods": 2, "mesh": {"data": 1, "model": 1}},
}


def spec(**sections: Document | str) -> Document:
    """The small job, with fields of sections replaced."""
    made = copy.deepcopy(SPEC)
    for section, values in sections.items():
        if isinstance(values, dict):
            made.setdefault(section, {}).update(values)
        else:
            made[section] = values
    return made


@pytest.fixture(scope="package", autouse=True)
def quick_compiler() -> Iterator[None]:
    """Workers compile the small job in 14 s instead of 21, each on half of two cores, to the same
    bits (measured); its steps take as long."""
    with pytest.MonkeyPatch.context() as patch:
        given = os.environ.get("XLA_FLAGS", "")
        patch.setenv("XLA_FLAGS", f"{given} --xla_backend_optimization_level=1".strip())
        yield


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Document]:
    return spec


@pytest.fixture(scope="session")
def warm_state(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where bundles and compiled programs are shared between the controllers of a run."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="session")
def share_warm(warm_state: pathlib.Path) -> Callable[[pathlib.Path], None]:
    """share_warm(folder) lets a state directory have those."""

    def share(folder: pathlib.Path) -> None:
        for name in ("bundles", "compilation-cache"):
            (warm_state / name).mkdir(exist_ok=True)
            os.symlink(warm_state / name, folder / name, target_is_directory=True)

    return share


class Fleet:
    """A controller, a client of it, and the directory it keeps its state in."""

    def __init__(self, controller: LocalController, client: Client, state: pathlib.Path) -> None:
        self.controller = controller
        self.client = client
        self.state = state

    def pids(self) -> dict[str, list[int]]:
        """Worker processes by pod."""
        return {
            pod["name"]: [host["pid"] for host in pod["hosts"]]
            for pod in self.client.pods()["pods"]
        }


@pytest.fixture(scope="session")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, share_warm: Callable[[pathlib.Path], None]
) -> Callable[..., contextlib.AbstractContextManager[Fleet]]:
    """fleet(pods=2, hosts_per_pod=1, devices_per_host=1) runs one for a `with` block, on the state
    of an earlier one where that is given, and with further options of `up`."""

    @contextlib.contextmanager
    def run(
        pods: int = 2,
        hosts_per_pod: int = 1,
        devices_per_host: int = 1,
        state: pathlib.Path | None = None,
        options: Sequence[str] = (),
    ) -> Iterator[Fleet]:
        if state is None:
            state = tmp_path_factory.mktemp("state")
            share_warm(state)
        arguments = ["--pods", str(pods), "--hosts-per-pod", str(hosts_per_pod)]
        arguments += ["--devices-per-host", str(devices_per_host), *options]
        with (
            local_controller(state_dir=state, arguments=arguments) as controller,
            Client(controller.address) as client,
        ):
            yield Fleet(controller, client, state)

    return run
