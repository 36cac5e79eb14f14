"""Connections between two exchanges that stand still or break, with a proxy that does it."""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from workers.exchange.base import Membership, PeerUnreachable, StepKey
from workers.exchange.grpc_exchange import GrpcExchange

WAIT = 20.0
KEY = StepKey("job", 1, 1)
PAYLOAD = np.random.default_rng(0).integers(0, 255, 30_000_000, np.uint8)


class Proxy:
    """Passes bytes on, connection by connection, until told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._frozen: set[int] = set()
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self, index: int) -> None:
        """That connection stands still for good."""
        with self._changed:
            self._frozen.add(index)

    def cut(self) -> None:
        """All connections break."""
        with self._changed:
            for pair in self._pairs:
                for end in pair:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def wait_passed(self, num_bytes: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.passed >= num_bytes, WAIT)

    def wait_connected(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._pairs) >= count, WAIT)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                pair = near, socket.create_connection(("127.0.0.1", self._target))
                with self._changed:
                    index = len(self._pairs)
                    self._pairs.append(pair)
                    self._changed.notify_all()
                threading.Thread(target=self._pass_on, args=(index, pair), daemon=True).start()

    def _pass_on(self, index: int, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        with near, far, contextlib.suppress(OSError):
            while index not in self._frozen:
                for end in select.select(pair, [], [], 0.05)[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    (far if end is near else near).sendall(data)
                    with self._changed:
                        self.passed += len(data)
                        self._changed.notify_all()
            # Kept open and never read again: what a path does that lost its packets.
            threading.Event().wait(WAIT)


@contextlib.contextmanager
def pair_through_proxy() -> Iterator[tuple[GrpcExchange, GrpcExchange, Proxy]]:
    """The first one's way to the second leads through the proxy."""
    with contextlib.ExitStack() as stack:
        near, far = (GrpcExchange("127.0.0.1:0", num_flows=2, stall_seconds=0.3) for _ in "ab")
        proxy = Proxy(far.port)
        for exchange in (near, far):
            stack.callback(exchange.close)
        stack.callback(proxy.close)
        far.join(
            Membership("job", 1, 1, {0: f"127.0.0.1:{near.port}"}, {0: "pod-0"}, 2 * PAYLOAD.nbytes)
        )
        near.join(
            Membership("job", 1, 0, {1: f"127.0.0.1:{proxy.port}"}, {1: "pod-1"}, PAYLOAD.nbytes)
        )
        yield near, far, proxy
        for exchange in (near, far):
            exchange.abort("job", 1, "the test is over")


def test_flow_that_stands_still_is_replaced_and_its_frames_are_sent_again() -> None:
    with pair_through_proxy() as (near, far, proxy):
        proxy.wait_connected(2)
        proxy.freeze(0)
        near.send(KEY, [PAYLOAD.data], [1])
        assert far.receive(KEY, {0: PAYLOAD.nbytes})[0] == PAYLOAD.tobytes()
        assert near.traffic()["pod-1"].retries > 0
        assert far.dropped().corrupt == 0


def test_connections_that_break_are_made_anew_and_nothing_is_lost() -> None:
    with pair_through_proxy() as (near, far, proxy):
        near.send(KEY, [PAYLOAD.data], [1])
        proxy.wait_passed(PAYLOAD.nbytes // 4)
        proxy.cut()
        assert far.receive(KEY, {0: PAYLOAD.nbytes})[0] == PAYLOAD.tobytes()
        assert near.traffic()["pod-1"].retries > 0


def test_peer_whose_address_is_gone_is_unreachable_within_two_seconds() -> None:
    with pair_through_proxy() as (near, _, proxy), ThreadPoolExecutor(1) as pool:
        proxy.wait_connected(2)
        waiting = pool.submit(near.receive, KEY, {1: 1})
        proxy.close()
        started = time.monotonic()
        with pytest.raises(PeerUnreachable, match="pod-1"):
            waiting.result(WAIT)
        assert time.monotonic() - started < 2.0
