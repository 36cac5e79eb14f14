"""One end of a bare gRPC stream, the reference of the transport: messages of a chunk each, which
the other end takes and forgets.

serve                     tells its port, then takes what comes
send HOST:PORT BYTES      answers when all of it was taken
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from workers.exchange.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from workers.exchange.frames import CHUNK_BYTES

_SERVICE = "benchmark.Stream"


def main() -> None:
    channels: dict[str, grpc.Channel] = {}
    payload = bytes(CHUNK_BYTES)
    for line in sys.stdin:
        match line.split():
            case ["serve"]:
                print(json.dumps({"port": _served()}), flush=True)
            case ["send", address, num_bytes]:
                if address not in channels:
                    channels[address] = grpc.insecure_channel(address, CLIENT_OPTIONS)
                send = channels[address].stream_unary(f"/{_SERVICE}/Send")
                taken = send(_chunks(payload, int(num_bytes)))
                print(json.dumps({"bytes": int(taken)}), flush=True)
            case _:
                raise SystemExit(f"no order: {line!r}")


def _chunks(payload: bytes, num_bytes: int) -> Iterator[bytes]:
    view = memoryview(payload)
    for start in range(0, num_bytes, CHUNK_BYTES):
        # A message of its own for each, as real data would be.
        yield bytes(view[: min(CHUNK_BYTES, num_bytes - start)])


def _served() -> int:
    def take(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(sum(len(message) for message in messages)).encode()

    server = grpc.server(ThreadPoolExecutor(2), options=SERVER_OPTIONS)
    handlers = {"Send": grpc.stream_unary_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # It would end with the last name that it has.
    _SERVERS.append(server)
    return port


_SERVERS: list[grpc.Server] = []


if __name__ == "__main__":
    main()
