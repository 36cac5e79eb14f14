"""The hosts of a pod write a part together, each on a thread beside the one that trains."""

import contextlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from workers.checkpoint import layout
from workers.checkpoint.reader import restore
from workers.coordinator import ReservedPort

NUMBER = 3


def host(address: str, index: int, root: pathlib.Path) -> subprocess.Popen[str]:
    module = "tests.workers.checkpoint.pod_host"
    command = [sys.executable, "-m", module, address, str(index), str(root), str(NUMBER)]
    # Of several devices a process, as this one has them, each host has one.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_two_hosts_write_parts_while_they_run_collectives(tmp_path: pathlib.Path) -> None:
    port = ReservedPort("127.0.0.1")
    with contextlib.ExitStack() as stack:
        stack.callback(port.close)
        address = f"127.0.0.1:{port.port}"
        hosts = [stack.enter_context(host(address, index, tmp_path)) for index in range(2)]
        for process in hosts:
            stack.callback(process.kill)
        for process in hosts:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.ShapeDtypeStruct((1024,), jnp.float32, sharding=placed)
    for number in range(NUMBER):
        folder = layout.step_folder(tmp_path, "job", number, 1)
        layout.publish(tmp_path, "job", number, 1, 1, "")
        _, found = restore(folder, {"params/key": wanted, "params/scale": wanted})
        for array in found.values():
            np.testing.assert_array_equal(array, np.arange(1024, dtype=np.float32))
