"""How long a small message takes to a peer pod and back, on the way that gradients go.

A thread per peer asks now and then, on a connection of its own: on one that carries frames it would
wait in their buffers. Both ways lead over the emulated links of the hosts that send. The least of
the last few is told, since everything that disturbs a measurement makes it longer.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import grpc

from protos import link_pb2, link_pb2_grpc
from workers.exchange.channel import CLIENT_OPTIONS, TOKEN_KEY
from workers.exchange.emulator import LinkEmulator

PROBE_SECONDS = 2.0
"""Between two measurements: ten of them cost a link less than one chunk."""
TIMEOUT_SECONDS = 10.0
_KEPT = 5
_FRESH_SECONDS = 30.0
# What a call takes with its headers.
_MESSAGE_BYTES = 256


class Crossing:
    """Waits out the emulated link for messages that are no frames."""

    def __init__(self, emulator: LinkEmulator | None) -> None:
        self._emulator = emulator
        self._changed = threading.Condition()

    def wait(self, is_wanted: Callable[[], bool], timeout: float = TIMEOUT_SECONDS) -> bool:
        """Until a message that is sent now would have arrived; False when that takes longer than
        `timeout` seconds or nobody wants it any more. wake() makes it look again."""
        if self._emulator is None:
            return True
        start = time.monotonic()
        passage = self._emulator.flow(self.wake).offer(_MESSAGE_BYTES, start, start)
        with self._changed:
            while is_wanted():
                now = time.monotonic()
                if passage.arrival() <= now:
                    return True
                if now >= start + timeout:
                    return False
                self._changed.wait(min(passage.arrival(), start + timeout) - now)
        return False

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class RoundTrips:
    """Of the peers that are watched."""

    def __init__(
        self,
        emulator: LinkEmulator | None = None,
        join_token: str = "",
        every_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._emulator = emulator
        self._join_token = join_token
        self._every_seconds = every_seconds
        self._lock = threading.Lock()
        self._probes: dict[tuple[str, str], _Probe] = {}

    def watch(self, peers: Mapping[str, str]) -> None:
        """Measure to these addresses (host:port), by pod, and to no others."""
        with self._lock:
            gone = [self._probes.pop(at) for at in self._probes.keys() - peers.items()]
            for pod, address in peers.items() - self._probes.keys():
                probe = _Probe(
                    address, Crossing(self._emulator), self._join_token, self._every_seconds
                )
                self._probes[pod, address] = probe
        for probe in gone:
            probe.stop()

    def seconds(self) -> dict[str, float]:
        """By pod; none of one that has not answered lately."""
        with self._lock:
            found = {pod: probe.seconds() for (pod, _), probe in self._probes.items()}
        return {pod: seconds for pod, seconds in found.items() if seconds is not None}

    def close(self) -> None:
        self.watch({})


class _Probe:
    """One peer's."""

    def __init__(
        self, address: str, crossing: Crossing, join_token: str, every_seconds: float
    ) -> None:
        self._address = address
        self._crossing = crossing
        self._metadata = ((TOKEN_KEY, join_token),)
        self._every_seconds = every_seconds
        self._stopped = threading.Event()
        # (when, how long), seconds.
        self._measured: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        threading.Thread(target=self._run, name="round-trips", daemon=True).start()

    def seconds(self) -> float | None:
        since = time.monotonic() - _FRESH_SECONDS
        return min((took for at, took in list(self._measured) if at >= since), default=None)

    def stop(self) -> None:
        """Returns at once; a call that is under way ends by itself."""
        self._stopped.set()
        self._crossing.wake()

    def _run(self) -> None:
        with grpc.insecure_channel(self._address, CLIENT_OPTIONS) as channel:
            stub = link_pb2_grpc.LinkServiceStub(channel)
            while not self._stopped.is_set():
                self._measure(stub)
                self._stopped.wait(self._every_seconds)

    def _measure(self, stub: link_pb2_grpc.LinkServiceStub) -> None:
        start = time.monotonic()
        if not self._crossing.wait(lambda: not self._stopped.is_set()):
            return
        try:
            stub.Probe(link_pb2.ProbeRequest(), timeout=TIMEOUT_SECONDS, metadata=self._metadata)
        except grpc.RpcError:
            # A peer that is away is the business of those who wait for its gradients.
            return
        end = time.monotonic()
        self._measured.append((end, end - start))
