"""The stream to one peer in one generation: pulls frames from the outbox, survives corruption.

The stream opens at join and stays until the generation ends, so its break is the news that the
peer is gone. A stream that the peer fails with DATA_LOSS is opened again from the first frame the
peer may lack. Threads: gRPC's own, one per stream.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from protos import link_pb2
from workers.exchange.base import Traffic
from workers.exchange.channel import CLIENT_OPTIONS, TOKEN_KEY
from workers.exchange.emulator import LinkEmulator
from workers.exchange.outbox import Outbox

_SERVICE = link_pb2.DESCRIPTOR.services_by_name["LinkService"].full_name

# Corruption that CRC-checked resending does not get past is a broken path, not bad luck.
_MAX_RESENDS_PER_STEP = 8


class TrafficMeter:
    """Cumulative traffic by pod, over all generations of all jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_pod: dict[str, Traffic] = {}

    def add(self, pod: str, *, sent: int = 0, seconds: float = 0.0, retries: int = 0) -> None:
        with self._lock:
            old = self._by_pod.get(pod, Traffic())
            self._by_pod[pod] = Traffic(
                old.sent_bytes + sent, old.sending_seconds + seconds, old.retries + retries
            )

    def snapshot(self) -> dict[str, Traffic]:
        with self._lock:
            return dict(self._by_pod)


@dataclass(frozen=True)
class PeerAddress:
    member_index: int
    pod: str
    address: str


@dataclass(frozen=True)
class Link:
    """What all streams of a host share."""

    emulator: LinkEmulator | None
    join_token: str = field(default="", repr=False)
    meter: TrafficMeter = field(default_factory=TrafficMeter)


class PeerStream:
    def __init__(
        self,
        peer: PeerAddress,
        outbox: Outbox,
        link: Link,
        newest_step: Callable[[], int],
        lost: Callable[[str], None],
    ) -> None:
        """newest_step tells how far the peer is; lost is called at most once, from any thread."""
        self._peer = peer
        self._outbox = outbox
        self._link = link
        self._newest_step = newest_step
        self._lost = lost
        self._resends = 0
        self._resends_at_step = 0
        self._ended = threading.Event()
        self._channel = grpc.insecure_channel(peer.address, CLIENT_OPTIONS)
        self._send = self._channel.stream_unary(
            f"/{_SERVICE}/Send",
            request_serializer=None,
            response_deserializer=link_pb2.SendSummary.FromString,
        )
        self._call = self._open()

    def cancel(self) -> None:
        """The outbox is cancelled first, so that no new call follows this one."""
        self._call.cancel()

    def wait_ended(self, timeout: float | None = None) -> bool:
        return self._ended.wait(timeout)

    def close(self) -> None:
        self._channel.close()

    def _open(self) -> Any:
        stream, num_resent = self._outbox.open_stream(self._peer.member_index, self._newest_step())
        if num_resent:
            self._link.meter.add(self._peer.pod, retries=num_resent)
        metadata = ((TOKEN_KEY, self._link.join_token),)
        call = self._send.future(self._frames(stream), wait_for_ready=True, metadata=metadata)
        call.add_done_callback(self._on_done)
        return call

    def _frames(self, stream: int) -> Iterator[bytes]:
        member, emulator = self._peer.member_index, self._link.emulator
        flow = emulator.flow(self._outbox.wake) if emulator is not None else None
        while (taken := self._outbox.take(member, stream)) is not None:
            frame, offered_at = taken
            started, losses = time.monotonic(), 0
            if flow is not None:
                passage = flow.offer(frame.payload_bytes, offered_at, started)
                losses = passage.losses
                if not self._outbox.pause(member, stream, passage.arrival):
                    return
            # gRPC asks for the next frame when flow control has let this one go.
            yield frame.wire
            seconds = time.monotonic() - started
            sent = frame.payload_bytes
            self._link.meter.add(self._peer.pod, sent=sent, seconds=seconds, retries=losses)

    def _on_done(self, call: Any) -> None:
        code = call.code()
        if self._outbox.is_cancelled or (code is grpc.StatusCode.OK and self._outbox.is_finished):
            self._ended.set()
        elif code is grpc.StatusCode.DATA_LOSS and self._may_resend():
            self._call = self._open()
            if self._outbox.is_cancelled:
                self._call.cancel()
        else:
            self._ended.set()
            self._lost(f"{self._peer.address}: {code.name}: {call.details()}")

    def _may_resend(self) -> bool:
        step = self._newest_step()
        if step != self._resends_at_step:
            self._resends_at_step, self._resends = step, 0
        self._resends += 1
        return self._resends <= _MAX_RESENDS_PER_STEP
