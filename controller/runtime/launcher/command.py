"""What pods are called and what a worker process is told, whoever starts it."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from controller.runtime.launcher.base import WorkerPlan


def pod_names(count: int) -> list[str]:
    return [f"pod-{index}" for index in range(count)]


def worker_command(
    plan: WorkerPlan, pod: str, index: int, *, cores: Sequence[int] = (), listen: str = ""
) -> list[str]:
    """The command line of one host, for the interpreter of this process.

    `cores` binds it to some of the cores, `listen` says where its link plane listens; without
    them it uses all cores and loopback.
    """
    fleet = plan.fleet
    command = [sys.executable, "-m", "landbridge", "worker"]
    command += ["--controller", plan.controller, "--pod", pod, "--host-index", str(index)]
    command += ["--hosts", str(fleet.hosts_per_pod), "--devices", str(fleet.devices_per_host)]
    command += ["--state-dir", plan.state_dir]
    if cores:
        command += ["--cpus", ",".join(map(str, cores))]
    if listen:
        command += ["--listen", listen]
    for name, text in fleet.link.items():
        if text:
            command += [f"--link-{name}", text]
    if fleet.link_emulator:
        command += ["--link-emulator"]
    if fleet.device_flops_per_second is not None:
        command += ["--device-flops-per-second", str(fleet.device_flops_per_second)]
    return command


def leashed(command: Sequence[str]) -> list[str]:
    """The command, tied to this process: on Linux the kernel kills it when this one dies.

    To be started from a thread that lives as long as the process.
    """
    return [sys.executable, "-m", "controller.runtime.launcher.leash", str(os.getpid()), *command]


WORKER_TUNABLES: Mapping[str, str] = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"
    ":glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456"
}
"""Huge pages for XLA's temporary buffers, which are allocated anew in every step: 177 ms instead of
228 ms for a slot of palm-tiny on one core. Memory that was freed stays with the process, up to 256
MiB: giving pages back and having them zeroed again took half of the kernel's time of a step, and a
fifth of a receiver's. Has no effect but speed, and none without glibc."""


def worker_environment(plan: WorkerPlan, inherited: Mapping[str, str]) -> dict[str, str]:
    """The join token travels here: everybody on the machine can read a command line."""
    return {**WORKER_TUNABLES, **inherited, "LANDBRIDGE_JOIN_TOKEN": plan.join_token}


def log_path(plan: WorkerPlan, pod: str, index: int) -> pathlib.Path:
    return pathlib.Path(plan.state_dir) / "logs" / f"{pod}-host-{index}.log"
