"""One host of a pod of two, with one CPU device: writes parts on a thread while it runs sums over
the devices of both, and fails when the writing thread runs one too.

Arguments: ADDRESS of the coordinator, index of the HOST, ROOT of the checkpoints, NUMBER of parts.
"""

import concurrent.futures
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from workers.checkpoint.layout import step_folder
from workers.checkpoint.writer import PartWriter
from workers.coordinator import join_pod


def main(address: str, host: int, root: pathlib.Path, number: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    join_pod(address, None, 2, host)
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    cut, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in ("data", None))
    values = np.arange(2 * 512, dtype=np.float32)
    state = {
        "params/key": jax.make_array_from_callback((1024,), cut, values.__getitem__),
        "params/scale": jax.make_array_from_callback((1024,), whole, values.__getitem__),
    }
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the writing thread runs something on the devices of all hosts")

    multihost_utils.sync_global_devices = refuse
    multihost_utils.process_allgather = refuse
    multihost_utils.broadcast_one_to_all = refuse
    writer = PartWriter("test")

    def write_all() -> None:
        for index in range(number):
            writer.write(step_folder(root, "job", index, 1), 0, state)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write_all)
        num_done = 0.0
        # A sum tells when both are done, so both stop at the same one.
        while num_done < 2:
            mine = np.full(1, writing.done(), np.float32)
            done = jax.make_array_from_single_device_arrays((2,), cut, [jax.device_put(mine)])
            num_done = float(total(done))
        writing.result()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4]))
