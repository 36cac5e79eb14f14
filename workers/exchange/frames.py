"""Cuts a contribution into Chunk messages, encoded once and ready for the wire.

A frame names no receiver, so peers that are sent the same share its bytes, and frames are what is
kept for sending again: the caller's memory is free as soon as the last frame is cut.

Data comes first on the wire, where read() reaches it without copying it; whoever reads a frame as
the message it is reads the same, and read() takes messages with their fields in any order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from zlib_ng import zlib_ng

from protos import link_pb2
from workers.exchange.base import StepKey

# gRPC in Python moves 380-770 MiB/s with chunks of 128 KiB to 1 MiB, less with larger ones.
CHUNK_BYTES = 512 * 1024

# Bytes; enough for any length below 2^35.
_LONGEST_VARINT = 5
# Field number and wire type (length-delimited) of Chunk.data.
_DATA_TAG = bytes([link_pb2.Chunk.DATA_FIELD_NUMBER << 3 | 2])


@dataclass(frozen=True, slots=True)
class Frame:
    step: int
    payload_bytes: int
    # A serialised Chunk.
    wire: bytes


def cut(key: StepKey, member_index: int, outgoing: Sequence[memoryview]) -> Iterator[Frame]:
    """Frames of the concatenation of outgoing; at least one, so that nothing is still a message."""
    views = [view.cast("B") for view in outgoing if view.nbytes > 0]
    total = sum(len(view) for view in views)
    offset = 0
    for pieces in _chunks(views):
        header = link_pb2.Chunk(
            job=key.job,
            generation=key.generation,
            step=key.step,
            segment=key.segment,
            round=key.round,
            member_index=member_index,
            offset_bytes=offset,
            total_bytes=total,
            crc32=_crc32(pieces),
        )
        payload = sum(len(piece) for piece in pieces)
        # A field followed by a message is the message with that field: data is copied only once.
        wire = b"".join((_DATA_TAG, _varint(payload), *pieces, header.SerializeToString()))
        yield Frame(key.step, payload, wire)
        offset += payload


def read(wire: bytes) -> tuple[link_pb2.Chunk, bytes | memoryview]:
    """A chunk, and its data, which keeps the memory of `wire` where it comes first.

    Raises ValueError when these are no chunk's bytes.
    """
    length, start = _read_varint(wire, 1) if wire[:1] == _DATA_TAG else (0, 0)
    try:
        chunk = link_pb2.Chunk.FromString(wire[start + length :])
    except DecodeError as error:
        raise ValueError(f"a chunk cannot be read: {error}") from error
    if start == 0:
        return chunk, chunk.data
    if start + length > len(wire):
        raise ValueError(f"a chunk of {len(wire)} bytes announces {length} bytes of data")
    return chunk, memoryview(wire)[start : start + length]


def _chunks(views: list[memoryview]) -> Iterator[list[memoryview]]:
    pieces: list[memoryview] = []
    room = CHUNK_BYTES
    for view in views:
        at = 0
        while at < len(view):
            piece = view[at : at + room]
            pieces.append(piece)
            at += len(piece)
            room -= len(piece)
            if room == 0:
                yield pieces
                pieces, room = [], CHUNK_BYTES
    if pieces or not views:
        yield pieces


def _crc32(pieces: list[memoryview]) -> int:
    crc = 0
    for piece in pieces:
        crc = zlib_ng.crc32(piece, crc)
    return crc


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(wire: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a position, and where what follows it begins."""
    value = 0
    for shift, byte in enumerate(wire[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a chunk ends inside the size of its data")
