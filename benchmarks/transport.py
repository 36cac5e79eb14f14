"""Transport: how fast one host's exchange sends to another's, with CRCs, resending and bounded
memory, against a bare gRPC stream of the same chunks; and how much memory the two ends take.

The bare stream's receiver forgets what it takes, so that it never writes more than a chunk. What
follows from that and what from the exchange, a second reference tells: a stream whose receiver puts
the chunks where they belong.

Both over loopback between two processes, one way at a time, alternating.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from benchmarks import table
from benchmarks.role import Role, role

NUM_BYTES = 64 << 20
"""A contribution of a host of PaLM 540B's is some twenty times that; by then a rate is steady."""

TARGET = 0.8
HELD_STEPS = 2
"""Contributions that each end may hold (docs/design.md, section 14)."""

_GRPC_BYTES = 16 << 20
"""What gRPC holds beside: both ends' flow-control windows and messages on their way."""

_WARM_UP_TURNS = 2


def run(*, quick: bool) -> table.Result:
    turns = 3 if quick else 11
    with _exchanges() as (sender, receiver), _streams() as (client, address):
        ours: list[float] = []
        bare: dict[str, list[float]] = {"send": [], "place": []}
        for step in range(1, _WARM_UP_TURNS + turns + 1):
            ours.append(_swapped(sender, receiver, step))
            for way, seconds in bare.items():
                seconds.append(_streamed(client, f"{way} {address} {NUM_BYTES}"))
        grown = {"sender": sender.ask("memory"), "receiver": receiver.ask("memory")}
    ours = ours[_WARM_UP_TURNS:]
    rates = [
        _rate_row("a bare stream", ours, bare["send"][_WARM_UP_TURNS:], TARGET),
        _rate_row("a stream put in its place", ours, bare["place"][_WARM_UP_TURNS:], None),
    ]
    bound = HELD_STEPS * NUM_BYTES + _GRPC_BYTES
    memory = [
        table.Row(
            case=f"memory that the {end} took / bound of {bound / 1e6:.0f} MB",
            ratio=grown[end] / bound,
            target="<= 1",
            runs=turns,
            is_met=grown[end] <= bound,
            figures={"grown MB": grown[end] / 1e6},
        )
        for end in grown
    ]
    title = "Transport: a host's exchange against a bare gRPC stream of the same chunks"
    return table.Result("transport", title, [*rates, *memory])


def _rate_row(
    reference: str, ours: list[float], theirs: list[float], target: float | None
) -> table.Row:
    ratio = table.median([bare / mine for mine, bare in zip(ours, theirs, strict=True)])
    return table.Row(
        case=f"{NUM_BYTES >> 20} MiB, exchange / {reference}",
        ratio=ratio,
        target="" if target is None else f">= {target}",
        runs=len(ours),
        is_met=None if target is None else ratio >= target,
        figures={
            "exchange MB/s": NUM_BYTES / 1e6 / table.median(ours),
            "bare MB/s": NUM_BYTES / 1e6 / table.median(theirs),
        },
    )


def _swapped(sender: Role, receiver: Role, step: int) -> float:
    """Seconds until the receiver has everything; a byte goes the other way."""
    start = time.perf_counter()
    receiver.tell(f"swap {step} 1 {NUM_BYTES}")
    sender.tell(f"swap {step} {NUM_BYTES} 1")
    receiver.answer()
    seconds = time.perf_counter() - start
    sender.answer()
    return seconds


def _streamed(client: Role, order: str) -> float:
    start = time.perf_counter()
    client.ask(order)
    return time.perf_counter() - start


@contextlib.contextmanager
def _exchanges() -> Iterator[tuple[Role, Role]]:
    """Two that have met."""
    with contextlib.ExitStack() as stack:
        ends = [
            stack.enter_context(
                role(
                    *("benchmarks.transfer", "--member", str(member)),
                    *("--listen", "127.0.0.1:0", "--most", str(NUM_BYTES)),
                )
            )
            for member in (0, 1)
        ]
        addresses = [f"127.0.0.1:{end.answer()['port']}" for end in ends]
        for end, other in zip(ends, reversed(addresses), strict=True):
            end.ask(f"join {other}")
        yield ends[0], ends[1]


@contextlib.contextmanager
def _streams() -> Iterator[tuple[Role, str]]:
    """A client, and the server's address."""
    with role("benchmarks.grpc_stream") as client, role("benchmarks.grpc_stream") as server:
        yield client, f"127.0.0.1:{server.ask('serve')['port']}"
