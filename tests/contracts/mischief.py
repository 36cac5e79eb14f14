"""What can happen to frames between a sender and the inbox of its peer, done at the service.

Frames are delivered twice, arrive with a byte changed, are lost together with their connection, and
have frames of an older generation between them. Seeded, and within what a sender bears for a step:
more than that is a broken path, which is another test's.
"""

import collections
import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import grpc

from protos import link_pb2
from workers.exchange.frames import read
from workers.exchange.service import LinkServicer

_CORRUPT_PER_STEP = 3
_LOST_PER_STEP = 1
_UNLIMITED = 1 << 30
_KEPT_FRAMES = 8


class Mischief:
    def __init__(self, seed: int) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        """How often which kind was done: twice, corrupt, lost, late."""
        self._met: set[tuple[int, ...]] = set()
        self._spoilt: collections.Counter[tuple[int, int]] = collections.Counter()
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._spent: collections.Counter[tuple[object, ...]] = collections.Counter()
        # generation -> some of its frames
        self._passed: dict[int, list[bytes]] = {}

    @contextlib.contextmanager
    def afoot(self) -> Iterator[None]:
        """Exchanges that are made meanwhile meet it."""
        serve = LinkServicer.Send

        def send(servicer: LinkServicer, frames: Iterator[bytes], context: Any) -> object:
            return serve(servicer, self._between(frames, context, id(servicer)), context)

        with mock.patch.object(LinkServicer, "Send", send):
            yield

    def num_spoilt(self, abandoned: tuple[int, int]) -> int:
        """Frames with data that were corrupt or lost when they first came, but for those of one
        (generation, step): whoever applied the other steps was sent each of these again."""
        return sum(count for step, count in self._spoilt.items() if step != abandoned)

    def _between(self, frames: Iterator[bytes], context: Any, receiver: int) -> Iterator[bytes]:
        for wire in frames:
            chunk, data = read(wire)
            place = (receiver, chunk.member_index, chunk.generation, chunk.step)
            older = self._older(chunk.generation, wire)
            kind = self._choose(place, has_data=len(data) > 0, has_older=bool(older))
            if data:
                self._note(receiver, chunk, kind)
            if kind == "lost":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
            elif kind == "corrupt":
                yield _changed(wire, len(data))
            elif kind == "late":
                yield older[chunk.offset_bytes % len(older)]
                yield wire
            elif kind == "twice":
                yield wire
                yield wire
            else:
                yield wire

    def _note(self, receiver: int, chunk: link_pb2.Chunk, kind: str) -> None:
        step = (chunk.generation, chunk.step)
        sender = (chunk.member_index, chunk.round)
        frame = (receiver, *sender, *step, chunk.segment, chunk.offset_bytes)
        with self._lock:
            if frame not in self._met and kind in ("corrupt", "lost"):
                self._spoilt[step] += 1
            self._met.add(frame)

    def _older(self, generation: int, wire: bytes) -> list[bytes]:
        with self._lock:
            kept = self._passed.setdefault(generation, [])
            if len(kept) < _KEPT_FRAMES:
                kept.append(wire)
            return [w for g, wires in self._passed.items() if g < generation for w in wires]

    def _choose(self, place: tuple[object, ...], has_data: bool, has_older: bool) -> str:
        limits = {
            "twice": _UNLIMITED,
            "corrupt": _CORRUPT_PER_STEP if has_data else 0,
            "lost": _LOST_PER_STEP,
            "late": _UNLIMITED if has_older else 0,
        }
        with self._lock:
            kind = self._chance.choice(["", "", "", *limits])
            if not kind or self._spent[place, kind] >= limits[kind]:
                return ""
            self._spent[place, kind] += 1
            self.done[kind] += 1
            return kind


def _changed(wire: bytes, data_bytes: int) -> bytes:
    """With another first byte of data, which stands behind a tag and a varint of its size."""
    changed = bytearray(wire)
    changed[1 + -(-data_bytes.bit_length() // 7)] ^= 1
    return bytes(changed)
