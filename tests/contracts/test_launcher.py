"""What every Launcher does: hosts attach to a real controller, come back, and end with it."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from controller.config import Address, Fleet
from controller.core import commands
from controller.core.cluster import Host, PodState
from controller.core.liveness import LivenessPolicy
from controller.runtime.host_service import ControlService, HostServer, ProgramService
from controller.runtime.launcher.base import Launcher, WorkerPlan
from controller.runtime.launcher.local import LocalLauncher
from controller.runtime.loop import Loop
from controller.runtime.store import Store

JOIN_TOKEN = "join-token-of-the-contract-suite"

WAIT_SECONDS = 60.0
"""A Ray actor and jax in it take 5 to 10 s to start on two cores."""


@dataclasses.dataclass
class Rig:
    """A controller's loop and host service with a launcher's pods attached."""

    loop: Loop
    launcher: Launcher

    def host(self, pod: str, index: int = 0) -> Host:
        return self.loop.state.pods[pod].hosts[index]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.loop.changed()

    def is_ready(self, pod: str) -> bool:
        found = self.loop.state.pods.get(pod)
        return found is not None and found.state is PodState.READY

    async def new_incarnation(self, old: Host) -> Host:
        """Wait until another process has taken the host's place and is ready."""
        pod, index = old.ref.pod, old.ref.index
        await self.until(lambda: self.is_ready(pod) and self.host(pod, index).ref != old.ref)
        return self.host(pod, index)


@contextlib.asynccontextmanager
async def running(
    launcher: Launcher,
    tmp_path: pathlib.Path,
    *,
    pods: int = 1,
    hosts: int = 1,
    listen: str = "127.0.0.1",
) -> AsyncIterator[Rig]:
    store = Store(f"sqlite:///{tmp_path / 'landbridge.db'}")
    store.migrate()
    restarts: set[asyncio.Task[None]] = set()

    def execute(command: commands.Command) -> None:
        match command:
            case commands.RestartPod(pod, pids):
                restarts.add(asyncio.create_task(launcher.restart_pod(pod, pids)))
            case commands.LowerProgram() | commands.AbandonLowering():
                raise AssertionError("nobody submitted a job")
            case _:
                control.send(command)

    policy = LivenessPolicy()
    loop = Loop(store, execute, policy=policy)
    control = ControlService(
        loop.post, join_token=JOIN_TOKEN, heartbeat_interval_seconds=policy.heartbeat_interval
    )
    server = HostServer(control, ProgramService(tmp_path, JOIN_TOKEN))
    address = await server.start(Address(listen, 0))
    turns = asyncio.create_task(loop.run())
    rig = Rig(loop, launcher)
    try:
        fleet = Fleet(pods=pods, hosts_per_pod=hosts, devices_per_host=1)
        await launcher.start(WorkerPlan(str(address), fleet, JOIN_TOKEN, str(tmp_path)))
        for index in range(pods):
            await rig.until(lambda index=index: rig.is_ready(f"pod-{index}"))
        yield rig
    finally:
        await launcher.stop()
        await asyncio.gather(*restarts)
        turns.cancel()
        await asyncio.gather(turns, return_exceptions=True)
        await server.stop(0)
        store.close()


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """One cluster for the module: a Ray cluster takes 5 to 20 s to start. It asks for a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        command = [sys.executable, "-m", "controller.runtime.launcher.ray_head", "4"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            yield process.stdout.readline().strip().rpartition(" ")[2]
            process.stdin.close()


@pytest.fixture(
    params=[
        "local",
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.timeout(180)]),
    ]
)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    if request.param == "local":
        return LocalLauncher()
    from controller.runtime.launcher.ray_launcher import RayLauncher

    return RayLauncher(request.getfixturevalue("ray_address"))


def is_alive(pid: int) -> bool:
    """A zombie has ended: its parent, Ray's or ours, has yet to fetch its status."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def command_line(pid: int) -> bytes:
    """Empty for a process that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def parent_of(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_killed_worker_is_followed_by_a_new_one(
    launcher: Launcher, tmp_path: pathlib.Path
) -> None:
    async with running(launcher, tmp_path, pods=2) as rig:
        killed, other = rig.host("pod-0"), rig.host("pod-1")
        os.kill(killed.pid, signal.SIGKILL)
        follower = await rig.new_incarnation(killed)
        assert follower.pid != killed.pid and is_alive(follower.pid)
        assert rig.host("pod-1").ref == other.ref
        assert is_alive(other.pid)


async def test_a_pod_is_started_anew_as_a_whole(launcher: Launcher, tmp_path: pathlib.Path) -> None:
    async with running(launcher, tmp_path, hosts=2) as rig:
        killed, other = rig.host("pod-0", 1), rig.host("pod-0", 0)
        os.kill(killed.pid, signal.SIGKILL)
        await rig.new_incarnation(killed)
        await rig.new_incarnation(other)
        assert not is_alive(other.pid)


async def test_restart_ends_only_the_processes_it_names(
    launcher: Launcher, tmp_path: pathlib.Path
) -> None:
    async with running(launcher, tmp_path, pods=2) as rig:
        first, second = rig.host("pod-0"), rig.host("pod-1")
        await launcher.restart_pod("pod-0", [os.getpid(), second.pid])
        assert is_alive(first.pid) and is_alive(second.pid)
        await launcher.restart_pod("pod-0", [first.pid])
        assert not is_alive(first.pid)
        await rig.new_incarnation(first)
        assert rig.host("pod-1").ref == second.ref


async def test_stop_leaves_no_process_and_the_token_is_in_no_command_line(
    launcher: Launcher, tmp_path: pathlib.Path
) -> None:
    async with running(launcher, tmp_path, pods=2) as rig:
        pids = [rig.host("pod-0").pid, rig.host("pod-1").pid]
        lines = [command_line(pid) for pid in pids]
        assert all(b"worker" in line for line in lines)
        assert not any(JOIN_TOKEN.encode() in line for line in lines)
    assert not any(map(is_alive, pids))


async def test_stop_right_after_start_leaves_no_process(
    launcher: Launcher, tmp_path: pathlib.Path
) -> None:
    fleet = Fleet(pods=2, hosts_per_pod=1, devices_per_host=1)
    await launcher.start(WorkerPlan("127.0.0.1:9", fleet, JOIN_TOKEN, str(tmp_path)))
    await launcher.stop()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    assert not any(str(tmp_path).encode() in command_line(pid) for pid in pids)


@pytest.mark.ray
@pytest.mark.timeout(180)
async def test_a_worker_dies_with_its_actor_and_ray_starts_another(
    ray_address: str, tmp_path: pathlib.Path
) -> None:
    from controller.runtime.launcher.ray_launcher import RayLauncher

    async with running(RayLauncher(ray_address), tmp_path) as rig:
        orphan = rig.host("pod-0")
        os.kill(parent_of(orphan.pid), signal.SIGKILL)
        await rig.new_incarnation(orphan)
        assert not is_alive(orphan.pid)


@pytest.mark.ray
@pytest.mark.timeout(180)
async def test_pods_of_a_controller_others_can_reach_are_reachable_too(
    ray_address: str, tmp_path: pathlib.Path
) -> None:
    from controller.runtime.launcher.ray_launcher import RayLauncher

    async with running(RayLauncher(ray_address), tmp_path, hosts=2, listen="0.0.0.0") as rig:
        addresses = [rig.host("pod-0", index).link_address for index in range(2)]
    assert not any(Address.parse(address).is_loopback for address in addresses)


@pytest.mark.ray
async def test_a_cluster_that_is_not_there_is_an_error_at_once(tmp_path: pathlib.Path) -> None:
    from controller.runtime.launcher.ray_launcher import RayLauncher

    launcher = RayLauncher("127.0.0.1:9")
    plan = WorkerPlan("127.0.0.1:8401", Fleet(), JOIN_TOKEN, str(tmp_path))
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        await launcher.start(plan)
    await launcher.stop()


@pytest.mark.ray
@pytest.mark.timeout(180)
async def test_nothing_stays_on_a_cluster_that_goes_on(
    ray_address: str, tmp_path: pathlib.Path
) -> None:
    from controller.runtime.launcher.ray_launcher import RayLauncher

    async with running(RayLauncher(ray_address), tmp_path, pods=2):
        pass
    script = (
        "import ray, ray.util, sys, time\n"
        "ray.init(sys.argv[1], log_to_driver=False)\n"
        "deadline = time.monotonic() + 20\n"
        "while ray.available_resources().get('CPU') != 4 and time.monotonic() < deadline:\n"
        "    time.sleep(0.1)\n"
        "groups = ray.util.placement_group_table().values()\n"
        "print(ray.available_resources().get('CPU'), {g['state'] for g in groups})\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, ray_address), stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await process.communicate()
    assert answer.decode().split("\n")[0] == "4.0 {'REMOVED'}"
