"""Gangs of exchanges of every kind there is, in one process."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from workers.exchange.base import Membership, StepKey
from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange
from workers.exchange.loopback import LoopbackExchange, LoopbackLink

WAIT = 20.0
KINDS = ("loopback", "grpc", "emulated")
FAST_LINK = LinkConditions(50e6, 0.002)


class Gang:
    """num_members exchanges of one kind that can reach each other."""

    def __init__(self, kind: str, num_members: int, conditions: LinkConditions = FAST_LINK) -> None:
        """`conditions` are those of an emulated link."""
        link = LoopbackLink()
        make: dict[str, Callable[[], LoopbackExchange | GrpcExchange]] = {
            "loopback": lambda: LoopbackExchange(link),
            "grpc": lambda: GrpcExchange("127.0.0.1:0"),
            "emulated": lambda: GrpcExchange("127.0.0.1:0", LinkEmulator(conditions)),
        }
        self.exchanges = [make[kind]() for _ in range(num_members)]
        self._threads = ThreadPoolExecutor(num_members * 2)

    def membership(self, member: int, job: str = "job", generation: int = 1) -> Membership:
        others = [m for m in range(len(self.exchanges)) if m != member]
        ports = [getattr(exchange, "port", 0) for exchange in self.exchanges]
        return Membership(
            job=job,
            generation=generation,
            member_index=member,
            peers={m: f"127.0.0.1:{ports[m]}" for m in others},
            peer_names={m: f"pod-{m}" for m in others},
            max_step_bytes=1 << 30,
        )

    def join(self, member: int, job: str = "job", generation: int = 1) -> None:
        self.exchanges[member].join(self.membership(member, job, generation))

    def join_all(self, job: str = "job", generation: int = 1) -> None:
        for member in range(len(self.exchanges)):
            self.join(member, job, generation)

    def swap(
        self, member: int, key: StepKey, outgoing: Sequence[np.ndarray], sizes: Sequence[int]
    ) -> "Future[dict[int, bytes]]":
        incoming = {m: size for m, size in enumerate(sizes) if m != member}
        views = [array.data for array in outgoing]

        def run() -> dict[int, bytes]:
            exchange = self.exchanges[member]
            exchange.send(key, views, incoming.keys())
            received = exchange.receive(key, incoming)
            return {m: bytes(view) for m, view in received.items()}

        return self._threads.submit(run)

    def swap_all(self, key: StepKey, contributions: Sequence[Sequence[np.ndarray]]) -> None:
        """Swap at all members and check that everyone has everyone else's bytes."""
        sent = [b"".join(a.tobytes() for a in arrays) for arrays in contributions]
        sizes = [len(payload) for payload in sent]
        swaps = [self.swap(m, key, arrays, sizes) for m, arrays in enumerate(contributions)]
        for member, swap in enumerate(swaps):
            expected = {m: payload for m, payload in enumerate(sent) if m != member}
            assert swap.result(WAIT) == expected

    def close(self) -> None:
        for exchange in self.exchanges:
            exchange.close()
        self._threads.shutdown()


@contextmanager
def gang_of(kind: str, num_members: int, conditions: LinkConditions = FAST_LINK) -> Iterator[Gang]:
    gang = Gang(kind, num_members, conditions)
    try:
        yield gang
    finally:
        gang.close()


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll for what a background thread of the exchange does after its caller has returned."""
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True
