"""Frames of one generation in the order they were cut, with a reading position per peer.

A frame stays until every peer has shown that it is past the frame's step, so it can be sent again
to a peer whose stream failed. Knows nothing of gRPC; streams pull from here, one per peer.

Bound: the frames of two steps, the one under way and the one before it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from workers.exchange.frames import Frame


@dataclass
class _Reader:
    # Index of the next frame, counted since the generation began.
    position: int = 0
    # Frames before this one were sent at least once.
    sent: int = 0
    stream: int = 0


class Outbox:
    def __init__(self, peers: Iterable[int]) -> None:
        self._changed = threading.Condition()
        # (frame, time it was offered)
        self._frames: deque[tuple[Frame, float]] = deque()
        self._first = 0
        self._readers = {peer: _Reader() for peer in peers}
        self._is_finished = False
        self._is_cancelled = False

    def append(self, frame: Frame) -> bool:
        """False when nobody will be sent anything any more."""
        with self._changed:
            if self._is_cancelled or self._is_finished:
                return False
            self._frames.append((frame, time.monotonic()))
            self._changed.notify_all()
            return True

    def open_stream(self, peer: int, step: int) -> tuple[int, int]:
        """Read from the oldest frame of step or later on; earlier streams of the peer end.

        Returns the stream's number and how many of the frames ahead of it were sent before.
        """
        with self._changed:
            reader = self._readers[peer]
            reader.stream += 1
            skipped = sum(1 for frame, _ in self._frames if frame.step < step)
            reader.position = self._first + skipped
            self._changed.notify_all()
            return reader.stream, max(0, reader.sent - reader.position)

    def take(self, peer: int, stream: int) -> tuple[Frame, float] | None:
        """Wait for the next frame; None when the stream is over."""
        with self._changed:
            reader = self._readers[peer]
            while self._is_current(reader, stream):
                reader.position = max(reader.position, self._first)
                at = reader.position - self._first
                if at < len(self._frames):
                    reader.position += 1
                    reader.sent = max(reader.sent, reader.position)
                    return self._frames[at]
                if self._is_finished:
                    return None
                self._changed.wait()
            return None

    def pause(self, peer: int, stream: int, until: Callable[[], float]) -> bool:
        """Wait until the monotonic time that `until` tells, which is asked again after wake();
        False when the stream is over before."""
        with self._changed:
            reader = self._readers[peer]
            while self._is_current(reader, stream):
                remaining = until() - time.monotonic()
                if remaining <= 0:
                    return True
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
            return False

    def wake(self) -> None:
        """What streams pause for may be at another time now."""
        with self._changed:
            self._changed.notify_all()

    def trim(self, step: int) -> None:
        """Drop the frames of steps before step: every peer is past them."""
        with self._changed:
            while self._frames and self._frames[0][0].step < step:
                self._frames.popleft()
                self._first += 1

    def finish(self) -> None:
        """Streams end once they have sent what is here."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Streams end now, and all frames go."""
        with self._changed:
            self._is_cancelled = True
            self._frames.clear()
            self._changed.notify_all()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    @property
    def is_finished(self) -> bool:
        return self._is_finished

    def held_bytes(self) -> int:
        with self._changed:
            return sum(frame.payload_bytes for frame, _ in self._frames)

    def _is_current(self, reader: _Reader, stream: int) -> bool:
        return not self._is_cancelled and reader.stream == stream
