"""PyTorch's DistributedDataParallel training the model of the link's table, the reference: buckets
of gradients are summed by gloo while the backward pass goes on.

Answers `apart N` and `coupled N` with the seconds of a step. Needs torch, which is no dependency of
the project.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from benchmarks.role import answering

_LEARNING_RATE = 0.01


def main(index: str, address: str, core: str, bucket_mib: str, model: str, *sizes: str) -> None:
    # Before the import: PyTorch counts the cores there are and starts as many threads.
    os.sched_setaffinity(0, {int(core)})
    answer = answering()
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from benchmarks.torch_palm import Palm
    from model.config import ModelConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ["GLOO_SOCKET_IFNAME"] = "link"
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://{address}", rank=int(index), world_size=2
    )
    microbatch, length = map(int, sizes)
    palm = Palm(ModelConfig.from_spec(json.loads(model)), length)
    replica = DistributedDataParallel(palm, bucket_cap_mb=float(bucket_mib))
    optimizer = torch.optim.SGD(palm.parameters(), lr=_LEARNING_RATE)
    tokens = torch.randint(0, 256, (microbatch, length))
    own_bytes = sum(parameter.nbytes for parameter in palm.parameters())
    answer({"gradient_bytes": own_bytes})
    for line in sys.stdin:
        how, count = line.split()
        start = time.perf_counter()
        for _ in range(int(count)):
            with replica.no_sync() if how == "apart" else contextlib.nullcontext():
                replica(tokens, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        answer((time.perf_counter() - start) / int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
