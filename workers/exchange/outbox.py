"""Frames of one generation in the order they were cut: what each peer is still to be sent, and what
it may have to be sent again.

A peer's flows take its frames from one queue, so a slow flow holds up only what it took. A frame
stays until its peer has shown that it is past the frame's step; when a flow fails, what it took
goes back to the front of the queue. Knows nothing of gRPC; flows pull from here.

Bound: the frames of two steps, the one under way and the one before it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from workers.exchange.frames import Frame


@dataclass(frozen=True, slots=True)
class Offered:
    frame: Frame
    # Monotonic seconds.
    at: float


@dataclass
class _Flow:
    # Goes up when the flow is opened again: whoever pulls for an earlier stream is told to end.
    stream: int = 0
    taken: list[Offered] = field(default_factory=list)


@dataclass
class _Peer:
    flows: list[_Flow]
    pending: deque[Offered] = field(default_factory=deque)


class Outbox:
    def __init__(self, peers: Iterable[int], num_flows: int = 1) -> None:
        self._changed = threading.Condition()
        self._peers = {peer: _Peer([_Flow() for _ in range(num_flows)]) for peer in peers}
        self._is_finished = False
        self._is_cancelled = False

    def append(self, frame: Frame, to: Collection[int]) -> bool:
        """False when nobody will be sent anything any more."""
        with self._changed:
            if self._is_cancelled or self._is_finished:
                return False
            offered = Offered(frame, time.monotonic())
            for peer in to:
                self._peers[peer].pending.append(offered)
            self._changed.notify_all()
            return True

    def open_stream(self, peer: int, flow: int, step: int) -> tuple[int, int]:
        """Pull for a flow from now on; what its earlier streams took of `step` and later is to be
        sent again, and those streams end.

        Returns the stream's number and how many frames are sent again.
        """
        with self._changed:
            state, pulling = self._peers[peer], self._peers[peer].flows[flow]
            again = [offered for offered in pulling.taken if offered.frame.step >= step]
            state.pending.extendleft(reversed(again))
            pulling.taken.clear()
            pulling.stream += 1
            self._changed.notify_all()
            return pulling.stream, len(again)

    def take(
        self, peer: int, flow: int, stream: int, timeout: float | None = None
    ) -> Offered | None:
        """Wait for the next frame. None when the stream is over, or when `timeout` seconds have
        passed: is_open() tells which."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            state = self._peers[peer]
            while self._is_current(peer, flow, stream):
                if state.pending:
                    offered = state.pending.popleft()
                    state.flows[flow].taken.append(offered)
                    return offered
                if self._is_finished:
                    return None
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                self._changed.wait(remaining)
            return None

    def is_open(self, peer: int, flow: int, stream: int) -> bool:
        """Whether the stream may still be given frames."""
        with self._changed:
            state = self._peers[peer]
            has_more = bool(state.pending) or not self._is_finished
            return has_more and self._is_current(peer, flow, stream)

    def pause(self, peer: int, flow: int, stream: int, until: Callable[[], float]) -> bool:
        """Wait until the monotonic time that `until` tells, which is asked again after wake();
        False when the stream is over before."""
        with self._changed:
            while self._is_current(peer, flow, stream):
                remaining = until() - time.monotonic()
                if remaining <= 0:
                    return True
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
            return False

    def wake(self) -> None:
        """What streams pause for may be at another time now."""
        with self._changed:
            self._changed.notify_all()

    def trim(self, peer: int, step: int) -> None:
        """Drop the peer's frames of steps before `step`: it is past them."""
        with self._changed:
            state = self._peers[peer]
            while state.pending and state.pending[0].frame.step < step:
                state.pending.popleft()
            for flow in state.flows:
                flow.taken = [offered for offered in flow.taken if offered.frame.step >= step]

    def finish(self) -> None:
        """Streams end once they have sent what is here."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Streams end now, and all frames go."""
        with self._changed:
            self._is_cancelled = True
            for state in self._peers.values():
                state.pending.clear()
                for flow in state.flows:
                    flow.taken.clear()
            self._changed.notify_all()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    @property
    def is_finished(self) -> bool:
        return self._is_finished

    def held_bytes(self) -> int:
        """Payload held, a frame for several peers counted once."""
        with self._changed:
            held = {
                id(offered.frame): offered.frame.payload_bytes
                for state in self._peers.values()
                for offered in (*state.pending, *(o for flow in state.flows for o in flow.taken))
            }
            return sum(held.values())

    def _is_current(self, peer: int, flow: int, stream: int) -> bool:
        return not self._is_cancelled and self._peers[peer].flows[flow].stream == stream
