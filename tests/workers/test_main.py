from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.workers.fake_controller import FakeController, Stream, fake_controller
from workers.config import WorkerConfig
from workers.main import bind_cores, serve


def config(**fields: Any) -> WorkerConfig:
    return WorkerConfig(("127.0.0.1:1",), "pod-0", 0, pathlib.Path("unused"), **fields)


@pytest.mark.parametrize("listen", ["0.0.0.0:8410", "[::]:8410", ":8410"])
def test_worker_that_peers_cannot_dial_is_refused_with_the_remedy(listen):
    with pytest.raises(ValueError, match="add --advertise HOST:PORT"):
        serve(config(listen=listen, join_token="secret"))


@pytest.mark.parametrize("listen", ["10.0.0.1:8410", "[fd00::1]:8410"])
def test_worker_open_to_other_machines_without_a_token_is_refused(listen):
    with pytest.raises(ValueError, match="set LANDBRIDGE_JOIN_TOKEN"):
        serve(config(listen=listen))


@pytest.mark.parametrize("controllers", [("",), ("a:8401", "b")])
def test_controller_that_is_no_address_is_refused_by_option(controllers):
    told = WorkerConfig(controllers, "pod-0", 0, pathlib.Path("unused"))
    with pytest.raises(ValueError, match=f"--controller: '{controllers[-1]}' is no address"):
        serve(told)


@pytest.mark.parametrize("fields", [{"listen": "::1:8410"}, {"advertise": "::x"}])
def test_worker_with_an_address_that_cannot_be_read_is_refused_by_option(fields):
    option = f"--{next(iter(fields))}"
    with pytest.raises(ValueError, match=option):
        serve(config(**fields))


def test_worker_with_a_link_that_is_none_is_refused_by_option_with_an_example():
    with pytest.raises(ValueError, match=r"--link-drop '5' is not .*; write for example 0.1%"):
        serve(config(link={"bandwidth": "200Mbit", "drop": "5"}))


def test_cores_are_not_kept_to_where_the_system_cannot_bind(monkeypatch, caplog):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    bind_cores((0,))
    assert "cores 0 are not kept to" in caplog.text


# Several processes import jax at once, on a machine that may be busy.
SLOW = pytest.mark.timeout(150)

WORKER = """
import pathlib, sys
from workers.config import WorkerConfig
from workers.main import serve

controller, index, hosts, state, listen, advertise = sys.argv[1:]
folder = pathlib.Path(state)
config = WorkerConfig(
    (controller,), "pod-0", int(index), folder, int(hosts), listen, advertise, devices=1
)
sys.exit(serve(config))
"""


@contextlib.asynccontextmanager
async def worker(
    controller: FakeController,
    state: pathlib.Path,
    index: int = 0,
    hosts: int = 1,
    listen: str = "127.0.0.1:0",
    advertise: str = "",
) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = [controller.address, str(index), str(hosts), str(state), listen, advertise]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def attached_by_index(controller: FakeController, hosts: int) -> list[Stream]:
    streams = [await controller.attached() for _ in range(hosts)]
    return sorted(streams, key=lambda stream: stream.hello.host_index)


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    async with fake_controller() as controller:
        yield controller


async def form_pod(controller: FakeController) -> list[Stream]:
    """Both hosts of a pod of two have joined jax.distributed."""
    streams = await attached_by_index(controller, 2)
    for stream in streams:
        stream.assemble(lead=streams[0])
    for stream in streams:
        await stream.hear("inventory")
    return streams


@SLOW
async def test_pod_of_two_that_loses_its_streams_is_one_without_forming_again(controller, tmp_path):
    async with worker(controller, tmp_path, 0, hosts=2), worker(controller, tmp_path, 1, hosts=2):
        streams = await form_pod(controller)
        for stream in streams:
            stream.break_off()
        for again in await attached_by_index(controller, 2):
            assert again.hello.assembled_with == streams[0].hello.incarnation
            assert (await again.hear("inventory")).inventory.num_devices == 1


def _has_ipv6_loopback() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


on_ipv6 = pytest.mark.skipif(not _has_ipv6_loopback(), reason="this machine has no address ::1")


@SLOW
@on_ipv6
async def test_pod_of_two_that_listens_on_ipv6_forms_and_tells_addresses_in_brackets(
    controller, tmp_path
):
    async with (
        worker(controller, tmp_path, 0, hosts=2, listen="[::1]:0"),
        worker(controller, tmp_path, 1, hosts=2, listen="[::1]:0"),
    ):
        lead, other = await form_pod(controller)
        for address in (
            lead.hello.link_address,
            lead.hello.coordinator_address,
            other.hello.link_address,
        ):
            with socket.socket(socket.AF_INET6) as probe:
                assert address.startswith("[::1]:")
                probe.connect(("::1", int(address.removeprefix("[::1]:"))))


@SLOW
@on_ipv6
@pytest.mark.parametrize(
    ("advertise", "link_address"), [("fd00::5", "[fd00::5]:"), ("[fd00::5]:99", "[fd00::5]:99")]
)
async def test_advertised_ipv6_address_is_told_in_brackets_with_a_port(
    controller, tmp_path, advertise, link_address
):
    async with worker(controller, tmp_path, listen="[::1]:0", advertise=advertise):
        stream = await controller.attached()
        assert stream.hello.link_address.startswith(link_address)
        assert int(stream.hello.link_address.rpartition(":")[2]) > 0
