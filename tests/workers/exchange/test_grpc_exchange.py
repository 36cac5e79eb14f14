"""What the gRPC exchange does on the wire; what it shares with others is in tests/contracts."""

import itertools
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import link_pb2, link_pb2_grpc
from workers.exchange.base import ContributionMismatch, Membership, PeerUnreachable, StepKey
from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange

WAIT = 20.0
KEY = StepKey("job", 1, 1)
PAYLOAD = bytes(range(256)) * 16


def membership(port: int, member_index: int = 0, generation: int = 1) -> Membership:
    peer = 1 - member_index
    return Membership(
        "job",
        generation,
        member_index,
        peers={peer: f"127.0.0.1:{port}"},
        peer_names={peer: f"pod-{peer}"},
        max_step_bytes=10**8,
    )


def chunks(key: StepKey = KEY, payload: bytes = PAYLOAD, size: int = 1000) -> list[link_pb2.Chunk]:
    """A contribution of member 1 as a peer of another make would send it."""
    return [
        link_pb2.Chunk(
            job=key.job,
            generation=key.generation,
            step=key.step,
            segment=key.segment,
            member_index=1,
            offset_bytes=offset,
            total_bytes=len(payload),
            crc32=zlib.crc32(payload[offset : offset + size]),
            data=payload[offset : offset + size],
        )
        for offset in range(0, len(payload), size)
    ]


class ForeignPeer(link_pb2_grpc.LinkServiceServicer):
    """A peer that speaks the protocol but is not ours; fails its first streams as told."""

    def __init__(self, failures: list[grpc.StatusCode]) -> None:
        self._failures = failures
        self.received: list[link_pb2.Chunk] = []
        self.changed = threading.Condition()
        self._threads = ThreadPoolExecutor(4)
        self.server = grpc.server(self._threads)
        link_pb2_grpc.add_LinkServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Send(
        self, request_iterator: Iterator[link_pb2.Chunk], context: grpc.ServicerContext
    ) -> link_pb2.SendSummary:
        for chunk in request_iterator:
            if self._failures:
                context.abort(self._failures.pop(0), "as the test asked")
            with self.changed:
                self.received.append(chunk)
                self.changed.notify_all()
        return link_pb2.SendSummary()

    def close(self) -> None:
        self.server.stop(grace=None).wait()
        self._threads.shutdown()


@contextmanager
def exchange_with(failures: list[grpc.StatusCode]) -> Iterator[tuple[GrpcExchange, ForeignPeer]]:
    with ExitStack() as stack:
        peer = ForeignPeer(failures)
        stack.callback(peer.close)
        exchange = GrpcExchange("127.0.0.1:0")
        stack.callback(exchange.close)
        exchange.join(membership(peer.port))
        yield exchange, peer


@pytest.fixture
def lone() -> Iterator[GrpcExchange]:
    """An exchange in generation 1 whose peer's server does not exist: the test is the peer."""
    exchange = GrpcExchange("127.0.0.1:0")
    exchange.join(membership(1))
    yield exchange
    exchange.abort("job", 1, "the test is over")
    exchange.close()


def send(exchange: GrpcExchange, sent: list[link_pb2.Chunk]) -> link_pb2.SendSummary:
    with grpc.insecure_channel(f"127.0.0.1:{exchange.port}") as channel:
        return link_pb2_grpc.LinkServiceStub(channel).Send(iter(sent), timeout=WAIT)


def receive(exchange: GrpcExchange, key: StepKey = KEY) -> bytes:
    return bytes(exchange.receive(key, {1: len(PAYLOAD)})[1])


def swap(
    exchange: GrpcExchange, key: StepKey, outgoing: bytes | memoryview, incoming: dict[int, int]
) -> Mapping[int, memoryview]:
    exchange.send(key, [memoryview(outgoing)], incoming.keys())
    return exchange.receive(key, incoming)


@pytest.mark.parametrize(
    "order", [lambda c: c, lambda c: c[::-1], lambda c: c[1::2] + c[::2], lambda c: c + c]
)
def test_chunks_in_any_order_and_twice_are_put_together(
    lone: GrpcExchange, order: Callable[[list[link_pb2.Chunk]], list[link_pb2.Chunk]]
) -> None:
    summary = send(lone, order(chunks()))
    assert summary.accepted_bytes == len(PAYLOAD)
    assert receive(lone) == PAYLOAD


def test_chunks_that_overlap_are_put_together(lone: GrpcExchange) -> None:
    mixed = itertools.zip_longest(chunks(size=1000), chunks(size=700))
    summary = send(lone, [chunk for pair in mixed for chunk in pair if chunk is not None])
    assert summary.accepted_bytes == len(PAYLOAD)
    assert receive(lone) == PAYLOAD


def test_corrupt_chunk_fails_the_stream_and_is_never_delivered(lone: GrpcExchange) -> None:
    damaged = chunks()
    damaged[2].data = b"!" + damaged[2].data[1:]
    with pytest.raises(grpc.RpcError) as raised:
        send(lone, damaged)
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS
    assert lone.dropped().corrupt == 1
    send(lone, chunks())
    assert receive(lone) == PAYLOAD


def test_chunk_of_an_older_generation_or_a_finished_step_is_dropped_and_counted(
    lone: GrpcExchange,
) -> None:
    send(lone, chunks())
    assert receive(lone) == PAYLOAD
    assert send(lone, chunks()).accepted_bytes == 0
    lone.join(membership(1, generation=2))
    assert send(lone, chunks(StepKey("job", 1, 2))).accepted_bytes == 0
    assert lone.dropped().stale == 2 * len(chunks())


@pytest.mark.parametrize(
    "spoil",
    [
        {"offset_bytes": len(PAYLOAD)},
        {"total_bytes": len(PAYLOAD) + 1},
        {"member_index": 3},
    ],
)
def test_chunk_that_contradicts_the_gang_is_refused(
    lone: GrpcExchange, spoil: dict[str, int]
) -> None:
    bad = chunks()
    for name, value in spoil.items():
        setattr(bad[1], name, value)
    with pytest.raises(grpc.RpcError) as raised:
        send(lone, bad)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_third_step_of_a_peer_is_held_back_until_there_is_room(lone: GrpcExchange) -> None:
    keys = [StepKey("job", 1, step) for step in (1, 2, 3)]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, lone, [c for key in keys for c in chunks(key)])
        assert receive(lone, keys[0]) == PAYLOAD
        assert lone.held_bytes() <= 2 * len(PAYLOAD) + 2
        assert receive(lone, keys[1]) == PAYLOAD
        assert receive(lone, keys[2]) == PAYLOAD
        assert sending.result(WAIT).accepted_bytes == 3 * len(PAYLOAD)


def test_early_chunks_wait_without_memory_until_the_generation_is_joined() -> None:
    exchange = GrpcExchange("127.0.0.1:0")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, exchange, chunks())
        assert not sending.done()
        assert exchange.held_bytes() == 0
        exchange.join(membership(1))
        assert receive(exchange) == PAYLOAD
        assert sending.result(WAIT).accepted_bytes == len(PAYLOAD)
    exchange.abort("job", 1, "the test is over")
    exchange.close()


def test_sender_that_goes_away_while_held_back_frees_its_thread() -> None:
    exchange = GrpcExchange("127.0.0.1:0")
    channel = grpc.insecure_channel(f"127.0.0.1:{exchange.port}")
    first_is_sent = threading.Event()

    def one_then_more() -> Iterator[link_pb2.Chunk]:
        yield chunks()[0]
        first_is_sent.set()
        yield from chunks()[1:]

    call = link_pb2_grpc.LinkServiceStub(channel).Send.future(one_then_more())
    assert first_is_sent.wait(WAIT)
    call.cancel()
    channel.close()
    started = time.monotonic()
    exchange.close()
    assert time.monotonic() - started < 5.0


def test_sender_told_data_loss_sends_again_and_counts_it() -> None:
    outgoing = np.random.default_rng(0).integers(0, 255, 2_000_000, np.uint8)
    with exchange_with([grpc.StatusCode.DATA_LOSS] * 2) as (exchange, peer):
        with ThreadPoolExecutor(1) as pool:
            swapped = pool.submit(swap, exchange, KEY, outgoing.data, {1: len(PAYLOAD)})
            send(exchange, chunks())
            swapped.result(WAIT)
        with peer.changed:
            assert peer.changed.wait_for(
                lambda: sum(len(chunk.data) for chunk in peer.received) >= outgoing.nbytes, WAIT
            )
            received = sorted(peer.received, key=lambda chunk: chunk.offset_bytes)
        assert b"".join(chunk.data for chunk in received) == outgoing.tobytes()
        assert all(zlib.crc32(chunk.data) == chunk.crc32 for chunk in received)
        assert exchange.traffic()["pod-1"].retries >= 2


@pytest.mark.parametrize(
    "failures",
    [[grpc.StatusCode.DATA_LOSS] * 20, [grpc.StatusCode.INVALID_ARGUMENT]],
    ids=["endless corruption", "refusal"],
)
def test_sender_that_is_never_understood_gives_up_and_says_why(
    failures: list[grpc.StatusCode],
) -> None:
    reason = failures[0].name
    with exchange_with(failures) as (exchange, _), pytest.raises(PeerUnreachable, match=reason):
        swap(exchange, KEY, PAYLOAD, {1: 1})


PEER_PROCESS = """
import sys
from workers.exchange.base import Membership, StepKey
from workers.exchange.grpc_exchange import GrpcExchange

exchange = GrpcExchange("127.0.0.1:0")
print(exchange.port, flush=True)
address = sys.stdin.readline().strip()
exchange.join(Membership("job", 1, 1, {0: address}, {0: "pod-0"}, 1000))
for step in (1, 2):
    exchange.send(StepKey("job", 1, step), [memoryview(bytes(1000))], [0])
    exchange.receive(StepKey("job", 1, step), {0: 1000})
    print(step, flush=True)
sys.stdin.readline()
"""


def test_peer_process_that_is_killed_is_unreachable_within_two_seconds() -> None:
    exchange = GrpcExchange("127.0.0.1:0")
    with (
        subprocess.Popen(
            [sys.executable, "-c", PEER_PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as peer,
        ThreadPoolExecutor(1) as pool,
    ):
        assert peer.stdin is not None and peer.stdout is not None
        exchange.join(membership(int(peer.stdout.readline())))
        peer.stdin.write(f"127.0.0.1:{exchange.port}\n")
        peer.stdin.flush()

        def swap_step(step: int) -> "Future[object]":
            return pool.submit(swap, exchange, StepKey("job", 1, step), bytes(1000), {1: 1000})

        for step in (1, 2):
            swap_step(step).result(WAIT)
        assert [peer.stdout.readline() for _ in (1, 2)] == ["1\n", "2\n"]
        waiting = swap_step(3)
        peer.send_signal(signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(PeerUnreachable, match="pod-1"):
            waiting.result(WAIT)
        assert time.monotonic() - started < 2.0
        with pytest.raises(PeerUnreachable, match="pod-1"):
            swap_step(4).result(WAIT)
    exchange.close()


def test_emulated_link_carries_at_its_bandwidth_and_close_interrupts_it() -> None:
    slow = GrpcExchange("127.0.0.1:0", LinkEmulator(LinkConditions(4e6, 0.02)))
    fast = GrpcExchange("127.0.0.1:0")
    slow.join(membership(fast.port))
    fast.join(membership(slow.port, 1))
    size = 2_000_000
    with ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        theirs = pool.submit(swap, slow, KEY, bytes(size), {1: 1})
        ours = pool.submit(swap, fast, KEY, b"x", {0: size})
        ours.result(WAIT)
        theirs.result(WAIT)
        assert 0.52 <= time.monotonic() - started < 2.0
        endless = pool.submit(swap, slow, StepKey("job", 1, 2), bytes(10**8), {1: 1})
        slow.abort("job", 1, "enough")
        assert "enough" in str(endless.exception(WAIT))
        started = time.monotonic()
        slow.close()
        fast.close()
        assert time.monotonic() - started < 5.0


def test_server_answers_the_standard_health_service(lone: GrpcExchange) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{lone.port}") as channel:
        request = health_pb2.HealthCheckRequest(service="landbridge.v1.LinkService")
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=WAIT)  # pyright: ignore[reportAttributeAccessIssue]
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_agree_step_at_a_host_that_is_no_lead_is_refused(lone: GrpcExchange) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{lone.port}") as channel:
        stub = link_pb2_grpc.LinkServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.AgreeStep(link_pb2.AgreeStepRequest(job="job"), timeout=WAIT)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_listen_on_a_taken_port_is_an_os_error_that_names_it(lone: GrpcExchange) -> None:
    with pytest.raises(OSError, match=f"127.0.0.1:{lone.port}"):
        GrpcExchange(f"127.0.0.1:{lone.port}")


def test_size_that_no_machine_has_is_not_taken_and_leaves_the_exchange_whole(
    lone: GrpcExchange,
) -> None:
    hostile = chunks()[0]
    hostile.total_bytes = 1 << 62
    assert send(lone, [hostile]).accepted_bytes == 0
    assert lone.held_bytes() == 0
    with pytest.raises(ContributionMismatch, match="member 1 sends 4611686018427387904 bytes"):
        receive(lone)
