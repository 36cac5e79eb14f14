"""One end of a transfer between two exchanges, as a process: tells its port, then obeys.

join HOST:PORT           meet the other end
swap STEP SENT RECEIVED  send so many bytes and get so many; answers when they are there
memory                   bytes by which the process grew at its largest since they met
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from benchmarks.peak_memory import PeakMemory
from workers.exchange.base import Membership, StepKey
from workers.exchange.conditions import parse_conditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange

_JOB, _GENERATION = "transfer", 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="HOST:PORT, port 0 takes a free one")
    parser.add_argument("--member", type=int, choices=(0, 1), required=True)
    parser.add_argument("--bandwidth", default="", help="of an emulated link, such as 200Mbit")
    parser.add_argument("--most", type=int, default=1 << 27, help="bytes of the largest transfer")
    options = parser.parse_args()
    emulator = None
    if options.bandwidth:
        emulator = LinkEmulator(parse_conditions({"bandwidth": options.bandwidth}))
    exchange = GrpcExchange(options.listen, emulator)
    payload = np.ones(options.most, np.uint8).data
    peer = 1 - options.member
    memory: PeakMemory | None = None
    _answer({"port": exchange.port})
    for line in sys.stdin:
        match line.split():
            case ["join", address]:
                exchange.join(
                    Membership(
                        _JOB,
                        _GENERATION,
                        options.member,
                        {peer: address},
                        {peer: f"pod-{peer}"},
                        options.most,
                    )
                )
                memory = PeakMemory()
                _answer({"joined": address})
            case ["memory"]:
                _answer(memory.growth() if memory else 0)
            case ["swap", step, sent, received]:
                key = StepKey(_JOB, _GENERATION, int(step))
                exchange.send(key, [payload[: int(sent)]], [peer])
                exchange.receive(key, {peer: int(received)})
                _answer({"step": int(step)})
            case _:
                raise SystemExit(f"no order: {line!r}")


def _answer(document: object) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
