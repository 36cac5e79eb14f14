"""The emulated link against one that the kernel throttles: the same bytes, the same time."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from benchmarks import namespaces
from benchmarks.role import Role, role

SECONDS = 1.25
"""What a transfer should take: the link's start is then a few per cent of it at most."""

RATES = (20e6, 100e6, 400e6)

pytestmark = pytest.mark.usefixtures("namespaces_are_possible")


@contextlib.contextmanager
def throttled(lab: namespaces.Lab) -> Iterator[tuple[Role, Role]]:
    with contextlib.ExitStack() as stack:
        ends = [
            stack.enter_context(
                role(
                    *("benchmarks.transfer", "--member", str(index)),
                    *("--listen", f"{namespace.link_address}:0"),
                    prefix=namespace.command(()),
                )
            )
            for index, namespace in enumerate(lab.namespaces)
        ]
        yield met(ends, [namespace.link_address for namespace in lab.namespaces])


@contextlib.contextmanager
def emulated(bits_per_second: float) -> Iterator[tuple[Role, Role]]:
    with contextlib.ExitStack() as stack:
        ends = [
            stack.enter_context(
                role(
                    *("benchmarks.transfer", "--member", str(index), "--listen", "127.0.0.1:0"),
                    *("--bandwidth", f"{bits_per_second:.0f}bit"),
                )
            )
            for index in (0, 1)
        ]
        yield met(ends, ["127.0.0.1", "127.0.0.1"])


def met(ends: list[Role], hosts: list[str]) -> tuple[Role, Role]:
    addresses = [f"{host}:{end.answer()['port']}" for host, end in zip(hosts, ends, strict=True)]
    for end, other in zip(ends, reversed(addresses), strict=True):
        end.ask(f"join {other}")
    return ends[0], ends[1]


def transfer(ends: tuple[Role, Role], step: int, num_bytes: int) -> float:
    """Seconds until the second has what the first sends."""
    started = time.perf_counter()
    ends[1].tell(f"swap {step} 1 {num_bytes}")
    ends[0].ask(f"swap {step} {num_bytes} 1")
    ends[1].answer()
    return time.perf_counter() - started


def test_emulated_and_throttled_links_take_the_same_time() -> None:
    expected, measured = [], []
    with namespaces.lab(2) as lab, throttled(lab) as ends:
        transfer(ends, 1, 1 << 20)
        for step, rate in enumerate(RATES, 2):
            lab.throttle(rate)
            num_bytes = int(rate / 8 * SECONDS)
            with emulated(rate) as others:
                transfer(others, 1, 1)
                by_emulator = transfer(others, 2, num_bytes)
            by_kernel = transfer(ends, step, num_bytes)
            expected.append(num_bytes / (rate / 8))
            measured.append((by_kernel, by_emulator))
    for (by_kernel, by_emulator), seconds in zip(measured, expected, strict=True):
        assert by_kernel == pytest.approx(seconds, rel=0.1)
        assert by_emulator == pytest.approx(seconds, rel=0.1)
        assert by_emulator == pytest.approx(by_kernel, rel=0.1)
