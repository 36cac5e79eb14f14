"""The process that holds a Ray cluster of one machine, for `ray_cluster`.

    python -m controller.runtime.launcher.ray_head NUM_CPUS

It prints the cluster's address, and shuts the cluster down when its standard input ends: it does so
however the controller, which has the other end, comes to its own.
"""

from __future__ import annotations

import logging
import os
import sys

import ray

from controller.runtime.launcher.ray_cluster import ADDRESS_MARK

OBJECT_STORE_BYTES = 100 << 20
"""Nothing of ours goes through Ray's object store; Ray refuses less than 75 MiB."""


def main(num_cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local",
        num_cpus=num_cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    sys.stdout.write(f"{ADDRESS_MARK}{ray.get_runtime_context().gcs_address}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
