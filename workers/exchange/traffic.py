"""What was sent to each peer pod, how fast, and how often again. Knows nothing of gRPC."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from workers.exchange.base import Traffic

# Of the time spent sending; what was sent before it does not count for the rate of now.
_RATE_SECONDS = 2.0


@dataclass
class _Peer:
    sent_bytes: int = 0
    retries: int = 0
    # Whether anything was sent or sent again yet.
    is_known: bool = False
    under_way: set[Hashable] = field(default_factory=set)
    # A clock that goes while anything is under way, and when it was last read.
    busy_seconds: float = 0.0
    read_at: float = 0.0
    # (busy_seconds when a frame was through, its bytes); the first one only begins the stretch that
    # the rate is taken over.
    through: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))

    def read(self, now: float) -> None:
        if self.under_way:
            self.busy_seconds += now - self.read_at
        self.read_at = now

    def rate(self) -> float | None:
        """Bytes per second of sending, lately. A frame that takes longer than those before it
        lowers the rate before it is through."""
        (start, _), last = self.through[0], self.through[-1][0]
        seconds = max(last - start, self.busy_seconds - last)
        if len(self.through) < 2 or seconds <= 0:
            return None
        return (sum(size for _, size in self.through) - self.through[0][1]) / seconds


class TrafficMeter:
    """Cumulative by pod, over all generations of all jobs. Frames that are under way at the same
    time count once: seconds are those in which any is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}

    def begin(self, pod: str, sender: Hashable) -> None:
        """A frame is under way. `sender` has one at a time."""
        with self._lock:
            self._peer(pod).under_way.add(sender)

    def end(self, pod: str, sender: Hashable, sent_bytes: int | None) -> None:
        """The sender's frame is through, or given up if it has no size."""
        with self._lock:
            peer = self._peer(pod)
            peer.under_way.discard(sender)
            if sent_bytes is None:
                return
            peer.is_known = True
            peer.sent_bytes += sent_bytes
            peer.through.append((peer.busy_seconds, sent_bytes))
            while len(peer.through) > 2 and peer.through[1][0] < peer.busy_seconds - _RATE_SECONDS:
                peer.through.popleft()

    def add_retries(self, pod: str, count: int) -> None:
        """So many frames are sent again."""
        with self._lock:
            peer = self._peer(pod)
            peer.is_known = True
            peer.retries += count

    def snapshot(self) -> dict[str, Traffic]:
        """Of pods that anything was sent to."""
        with self._lock:
            pods = [pod for pod, peer in self._peers.items() if peer.is_known]
            return {pod: self._traffic(self._peer(pod)) for pod in pods}

    def _peer(self, pod: str) -> _Peer:
        peer = self._peers.setdefault(pod, _Peer())
        peer.read(self._clock())
        return peer

    def _traffic(self, peer: _Peer) -> Traffic:
        return Traffic(peer.sent_bytes, peer.busy_seconds, peer.retries, peer.rate())
