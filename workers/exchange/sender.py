"""The flows to one peer in one generation: connections that pull frames from the outbox and survive
corruption, breaks and stalls.

Flows open at join and stay until the generation ends, so that the end of all connections is the
news that the peer is gone. A flow that the peer fails with DATA_LOSS sends again what it took. One
whose connection breaks, or that stands still while another flow gets on, is opened anew on a fresh
connection; when that cannot be made, the peer is lost. Threads: gRPC's own, one per flow.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from protos import link_pb2
from workers.exchange.channel import CLIENT_OPTIONS, TOKEN_KEY
from workers.exchange.emulator import Flow as EmulatedFlow
from workers.exchange.emulator import LinkEmulator
from workers.exchange.outbox import Offered, Outbox
from workers.exchange.traffic import TrafficMeter

_SERVICE = link_pb2.DESCRIPTOR.services_by_name["LinkService"].full_name

# Corruption that CRC-checked resending does not get past is a broken path, not bad luck.
_MAX_RESENDS_PER_STEP = 8
# A peer that is gone refuses the first fresh connection; one that cannot be reached takes a second
# for each.
_MAX_RECONNECTS_PER_STEP = 2
# A connection that stands still this long, while others to the same peer get on, is given up: TCP
# itself would try for minutes. Far above what a full buffer or a pause of the peer takes.
STALL_SECONDS = 5.0
# How often a flow that has nothing to send looks after the others.
_WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class PeerAddress:
    member_index: int
    pod: str
    address: str


@dataclass(frozen=True)
class Link:
    """What all flows of a host share."""

    emulator: LinkEmulator | None
    join_token: str = field(default="", repr=False)
    num_flows: int = 1
    stall_seconds: float = STALL_SECONDS
    meter: TrafficMeter = field(default_factory=TrafficMeter)


class PeerFlows:
    """All flows to one peer."""

    def __init__(
        self,
        peer: PeerAddress,
        outbox: Outbox,
        link: Link,
        newest_step: Callable[[], int],
        lost: Callable[[str], None],
    ) -> None:
        """newest_step tells how far the peer is; lost is called at most once per flow, from any
        thread."""
        self._flows = [
            _Flow(number, peer, outbox, link, newest_step, lost, self._look_after_others)
            for number in range(link.num_flows)
        ]
        self._stall_seconds = link.stall_seconds
        for flow in self._flows:
            flow.start()

    def cancel(self) -> None:
        """The outbox is cancelled first, so that no new call follows this one."""
        for flow in self._flows:
            flow.cancel()

    def wait_ended(self) -> None:
        for flow in self._flows:
            flow.wait_ended()

    def close(self) -> None:
        for flow in self._flows:
            flow.close()

    def _look_after_others(self, looking: "_Flow") -> None:
        now = time.monotonic()
        for flow in self._flows:
            started = flow.handing_over_since
            if flow is looking or started is None or now - started < self._stall_seconds:
                continue
            # That another got on since tells a dead path from a peer that takes nothing now.
            if looking.last_progress > started:
                flow.restart(started)


class _Flow:
    """One connection at a time, and the stream of frames on it."""

    def __init__(
        self,
        number: int,
        peer: PeerAddress,
        outbox: Outbox,
        link: Link,
        newest_step: Callable[[], int],
        lost: Callable[[str], None],
        look_after_others: Callable[["_Flow"], None],
    ) -> None:
        self._number = number
        self._peer = peer
        self._outbox = outbox
        self._link = link
        self._newest_step = newest_step
        self._lost = lost
        self._look_after_others = look_after_others
        # None while no frame is being handed to the connection, else since when, monotonic seconds.
        self.handing_over_since: float | None = None
        # When the connection last took a frame.
        self.last_progress = 0.0
        # How often a stream was opened again since the peer was last seen to get on, by cause.
        self._repeats: dict[grpc.StatusCode, int] = {}
        self._repeats_at_step = 0
        self._ended = threading.Event()
        # Guards what follows: gRPC's threads open streams anew, others restart them. A call that
        # has failed already runs its callback inside _open, on the same thread.
        self._lock = threading.RLock()
        self._stream = 0
        self._channel: grpc.Channel
        self._call: Any = None

    def start(self) -> None:
        with self._lock:
            self._connect()
            # A peer that is still starting is waited for.
            self._open(wait_for_ready=True)

    def restart(self, stalled_since: float) -> None:
        """Give the connection up and send what it took on a fresh one, unless it has gone on."""
        with self._lock:
            if self.handing_over_since != stalled_since or self._outbox.is_cancelled:
                return
            stalled_call, stalled_channel = self._call, self._channel
            self._connect()
            self._open(wait_for_ready=False)
        stalled_call.cancel()
        stalled_channel.close()

    def cancel(self) -> None:
        with self._lock:
            self._call.cancel()

    def wait_ended(self) -> None:
        self._ended.wait()

    def close(self) -> None:
        with self._lock:
            self._channel.close()

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self._peer.address, CLIENT_OPTIONS)

    def _open(self, wait_for_ready: bool) -> None:
        member = self._peer.member_index
        self._link.meter.end(self._peer.pod, (self, self._stream), None)
        stream, num_resent = self._outbox.open_stream(member, self._number, self._newest_step())
        self._stream = stream
        self.handing_over_since = None
        if num_resent:
            self._link.meter.add_retries(self._peer.pod, num_resent)
        send = self._channel.stream_unary(
            f"/{_SERVICE}/Send",
            request_serializer=None,
            response_deserializer=link_pb2.SendSummary.FromString,
        )
        self._call = send.future(
            self._frames(stream),
            wait_for_ready=wait_for_ready,
            metadata=((TOKEN_KEY, self._link.join_token),),
        )
        self._call.add_done_callback(lambda call: self._on_done(call, stream))

    def _frames(self, stream: int) -> Iterator[bytes]:
        at = (self._peer.member_index, self._number, stream)
        # One flow has no other to look after.
        watch = _WATCH_SECONDS if self._link.num_flows > 1 else None
        emulator = self._link.emulator
        emulated = emulator.flow(self._outbox.wake) if emulator is not None else None
        while True:
            offered = self._outbox.take(*at, timeout=watch)
            if offered is not None:
                self._link.meter.begin(self._peer.pod, (self, stream))
                if emulated is not None and not self._travel(offered, stream, emulated):
                    return
                # gRPC asks for the next frame when flow control has let this one go.
                self.handing_over_since = time.monotonic()
                yield offered.frame.wire
                self._handed_over(offered, stream)
            elif not self._outbox.is_open(*at):
                return
            self._look_after_others(self)

    def _travel(self, offered: Offered, stream: int, emulated: EmulatedFlow) -> bool:
        """Wait out the emulated link; False when the stream is over before."""
        passage = emulated.offer(offered.frame.payload_bytes, offered.at, time.monotonic())
        if passage.losses:
            self._link.meter.add_retries(self._peer.pod, passage.losses)
        member = self._peer.member_index
        return self._outbox.pause(member, self._number, stream, passage.arrival)

    def _handed_over(self, offered: Offered, stream: int) -> None:
        if stream == self._stream:
            self.handing_over_since, self.last_progress = None, time.monotonic()
        self._link.meter.end(self._peer.pod, (self, stream), offered.frame.payload_bytes)

    def _on_done(self, call: Any, stream: int) -> None:
        code = call.code()
        broken: grpc.Channel | None = None
        with self._lock:
            if stream != self._stream:
                return
            self._link.meter.end(self._peer.pod, (self, stream), None)
            if self._outbox.is_cancelled or (
                code is grpc.StatusCode.OK and self._outbox.is_finished
            ):
                self._ended.set()
                return
            if self._may_repeat(code, grpc.StatusCode.DATA_LOSS, _MAX_RESENDS_PER_STEP):
                self._open(wait_for_ready=True)
            elif self._may_repeat(code, grpc.StatusCode.UNAVAILABLE, _MAX_RECONNECTS_PER_STEP):
                broken = self._channel
                self._connect()
                self._open(wait_for_ready=False)
            else:
                self._ended.set()
        if broken is not None:
            broken.close()
        if self._ended.is_set():
            self._lost(f"{self._peer.address}: {code.name}: {call.details()}")
        elif self._outbox.is_cancelled:
            self.cancel()

    def _may_repeat(self, code: grpc.StatusCode, cause: grpc.StatusCode, limit: int) -> bool:
        if code is not cause:
            return False
        step = self._newest_step()
        if step != self._repeats_at_step:
            self._repeats_at_step, self._repeats = step, {}
        self._repeats[cause] = self._repeats.get(cause, 0) + 1
        return self._repeats[cause] <= limit
