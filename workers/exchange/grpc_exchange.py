"""The exchange over gRPC: one server per host, a few flows per peer and generation.

Receiving is workers.exchange.inbox behind service, sending is outbox behind sender; here they are
put together and generations come and go. Memory held per generation: at most two steps of the own
contribution (the one under way and the one before it, for sending again) and at most two steps of
every peer's, besides what gRPC buffers per flow (a few MiB).
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import link_pb2
from workers.exchange.agreement import StepAgreement
from workers.exchange.base import ExchangeAborted, Membership, StepKey, Traffic
from workers.exchange.channel import SERVER_OPTIONS
from workers.exchange.emulator import LinkEmulator
from workers.exchange.frames import cut
from workers.exchange.inbox import DroppedChunks, Inbox
from workers.exchange.outbox import Outbox
from workers.exchange.round_trips import RoundTrips
from workers.exchange.sender import STALL_SECONDS, Link, PeerAddress, PeerFlows
from workers.exchange.service import LinkServicer, add_to_server

# Connections to one peer: one alone stands still when TCP does.
FLOWS_PER_PEER = 2

# A flow occupies a thread for as long as its generation lives, an agreement for as long as it
# waits: enough for 16 jobs of 8 pods. Calls beyond it are refused with RESOURCE_EXHAUSTED.
_MAX_CALLS = 128 * FLOWS_PER_PEER

# close() waits this long for the contributions of generations that were left to reach the peers.
_DRAIN_SECONDS = 10.0


@dataclass
class _Sending:
    outbox: Outbox
    # pod -> host:port
    addresses: Mapping[str, str]
    flows: list[PeerFlows] = field(default_factory=list)

    def cancel(self) -> None:
        self.outbox.cancel()
        for flows in self.flows:
            flows.cancel()

    def drain(self) -> None:
        for flows in self.flows:
            flows.wait_ended()
            flows.close()
        self.outbox.cancel()


class GrpcExchange:
    def __init__(
        self,
        listen: str,
        emulator: LinkEmulator | None = None,
        agreement: StepAgreement | None = None,
        join_token: str = "",
        num_flows: int = FLOWS_PER_PEER,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """listen is host:port, port 0 takes a free one; agreement is given at the lead of a pod of
        several hosts; join_token is shown to peers and asked of them; num_flows connections are
        made to each peer, and one that stands still for stall_seconds is replaced. Raises OSError
        when the address cannot be bound."""
        self._inbox = Inbox()
        self._link = Link(emulator, join_token, num_flows, stall_seconds)
        self._round_trips = RoundTrips(emulator, join_token)
        self._agreement = agreement
        self._lock = threading.Lock()
        self._sending: dict[tuple[str, int], _Sending] = {}
        self._draining: dict[threading.Thread, _Sending] = {}
        self._handlers = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="link")
        self._server = self._build_server()
        self.port = _bind(self._server, listen)
        self._server.start()

    def join(self, membership: Membership) -> None:
        job, generation = membership.job, membership.generation
        self._inbox.join(membership)
        addresses = {membership.peer_names[m]: at for m, at in membership.peers.items()}
        sending = _Sending(Outbox(membership.peers, self._link.num_flows), addresses)
        sending.flows.extend(self._open_flows(membership, sending.outbox))
        with self._lock:
            earlier = [at for at in self._sending if at[0] == job]
            superseded = [self._sending.pop(at) for at in earlier]
            self._sending[job, generation] = sending
        self._watch_peers()
        for old in superseded:
            old.cancel()
            self._drain(old)

    def send(self, key: StepKey, outgoing: Sequence[memoryview], to: Collection[int]) -> None:
        membership = self._inbox.membership(key)
        strangers = set(to) - membership.peers.keys()
        if strangers:
            raise ValueError(f"{key}: {sorted(strangers)} are no peers of this host")
        with self._lock:
            sending = self._sending.get((key.job, key.generation))
        if sending is None:
            raise ExchangeAborted(f"generation {key.generation} of job {key.job} is over here")
        for member in membership.peers:
            newest_step = self._inbox.newest_step(key.job, key.generation, member)
            sending.outbox.trim(member, newest_step)
        if to:
            for frame in cut(key, membership.member_index, outgoing):
                if not sending.outbox.append(frame, to):
                    return

    def receive(self, key: StepKey, incoming_bytes: Mapping[int, int]) -> Mapping[int, memoryview]:
        self._inbox.begin(key, incoming_bytes)
        return self._inbox.collect(key, incoming_bytes)

    def abort(self, job: str, generation: int, reason: str) -> None:
        self._inbox.abort(job, generation, reason)
        with self._lock:
            sending = self._sending.get((job, generation))
        if sending is not None:
            sending.cancel()

    def leave(self, job: str, generation: int) -> None:
        self._inbox.leave(job, generation)
        with self._lock:
            sending = self._sending.pop((job, generation), None)
        self._watch_peers()
        if sending is not None:
            sending.outbox.finish()
            self._drain(sending)

    def traffic(self) -> Mapping[str, Traffic]:
        round_trips = self._round_trips.seconds()
        return {
            pod: replace(traffic, rtt_seconds=round_trips.get(pod))
            for pod, traffic in self._link.meter.snapshot().items()
        }

    def dropped(self) -> DroppedChunks:
        """Chunks that arrived and were not taken, since the exchange was opened."""
        return self._inbox.dropped()

    def held_bytes(self) -> int:
        """Payload held now, incoming and outgoing, and what leave() left to be delivered."""
        with self._lock:
            sendings = [*self._sending.values(), *self._draining.values()]
        return self._inbox.held_bytes() + sum(sending.outbox.held_bytes() for sending in sendings)

    def close(self) -> None:
        with self._lock:
            open_generations = list(self._sending.items())
            self._sending.clear()
        self._round_trips.close()
        for (job, generation), sending in open_generations:
            self._inbox.abort(job, generation, "the exchange is closed")
            sending.cancel()
            self._drain(sending)
        self._finish_draining()
        self._inbox.close()
        if self._agreement is not None:
            self._agreement.close()
        self._server.stop(grace=None).wait()
        self._handlers.shutdown()

    def _build_server(self) -> grpc.Server:
        server = grpc.server(
            self._handlers, options=SERVER_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS
        )
        link = self._link
        servicer = LinkServicer(self._inbox, self._agreement, link.join_token, link.emulator)
        add_to_server(servicer, server)
        status = health.HealthServicer()
        for service in ("", link_pb2.DESCRIPTOR.services_by_name["LinkService"].full_name):
            status.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        return server

    def _open_flows(self, membership: Membership, outbox: Outbox) -> list[PeerFlows]:
        job, generation = membership.job, membership.generation
        return [
            PeerFlows(
                PeerAddress(member, membership.peer_names[member], address),
                outbox,
                self._link,
                newest_step=partial(self._inbox.newest_step, job, generation, member),
                lost=partial(self._inbox.mark_unreachable, job, generation, member),
            )
            for member, address in membership.peers.items()
        ]

    def _watch_peers(self) -> None:
        with self._lock:
            sendings = list(self._sending.values())
        self._round_trips.watch({pod: at for s in sendings for pod, at in s.addresses.items()})

    def _drain(self, sending: _Sending) -> None:
        thread = threading.Thread(target=self._drain_and_forget, args=(sending,), daemon=True)
        with self._lock:
            self._draining[thread] = sending
        thread.start()

    def _drain_and_forget(self, sending: _Sending) -> None:
        sending.drain()
        with self._lock:
            self._draining.pop(threading.current_thread())

    def _finish_draining(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        with self._lock:
            draining = list(self._draining.items())
        for thread, sending in draining:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                sending.cancel()
                thread.join()


def _bind(server: grpc.Server, listen: str) -> int:
    try:
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(
            f"cannot listen on {listen} for the link: {error}; is the port taken, is the address"
            " one of this machine's?"
        ) from error
