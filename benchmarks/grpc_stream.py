"""One end of a bare gRPC stream, the reference of the transport: messages of a chunk each, which
the other end takes and forgets, or puts in one place as whoever reads them would.

serve                     tells its port, then takes what comes
send HOST:PORT BYTES      answers when all of it was taken
place HOST:PORT BYTES     answers when all of it is in its place
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from workers.exchange.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from workers.exchange.frames import CHUNK_BYTES

_SERVICE = "benchmark.Stream"
_MOST_BYTES = 1 << 27


def main() -> None:
    channels: dict[str, grpc.Channel] = {}
    payload = np.ones(_MOST_BYTES, np.uint8).data
    for line in sys.stdin:
        match line.split():
            case ["serve"]:
                print(json.dumps({"port": _served()}), flush=True)
            case ["send" | "place" as way, address, num_bytes]:
                if address not in channels:
                    channels[address] = grpc.insecure_channel(address, CLIENT_OPTIONS)
                call = channels[address].stream_unary(f"/{_SERVICE}/{way}")
                taken = call(_chunks(payload, int(num_bytes)))
                print(json.dumps({"bytes": int(taken)}), flush=True)
            case _:
                raise SystemExit(f"no order: {line!r}")


def _chunks(payload: memoryview, num_bytes: int) -> Iterator[bytes]:
    for start in range(0, num_bytes, CHUNK_BYTES):
        yield bytes(payload[start : min(start + CHUNK_BYTES, num_bytes)])


def _served() -> int:
    place = np.zeros(_MOST_BYTES, np.uint8).data

    def forget(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(sum(len(message) for message in messages)).encode()

    def put(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        at = 0
        for message in messages:
            place[at : at + len(message)] = message
            at += len(message)
        return str(at).encode()

    server = grpc.server(ThreadPoolExecutor(2), options=SERVER_OPTIONS)
    handlers = {
        way: grpc.stream_unary_rpc_method_handler(take)
        for way, take in (("send", forget), ("place", put))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # It would end with the last name that it has.
    _SERVERS.append(server)
    return port


_SERVERS: list[grpc.Server] = []


if __name__ == "__main__":
    main()
