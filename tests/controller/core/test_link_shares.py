from __future__ import annotations

import dataclasses

import pytest

from controller.core.cluster import Host, HostRef, Pod, Traffic
from controller.core.link import LinkConditions
from controller.core.link_shares import WHOLE, link_shares, rates_of


def sent(shares: tuple[int, ...]) -> list[float]:
    """Gradients that every pod sends."""
    return [1 + share / WHOLE * (len(shares) - 2) for share in shares]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equal_links_have_equal_shares(count: int) -> None:
    shares = link_shares([1e8] * count)
    assert sum(shares) == WHOLE and max(shares) - min(shares) <= 1


@pytest.mark.parametrize("rates", [[1e8, None, 1e8], [None] * 4, [1e8, 1e6]])
def test_what_is_not_known_or_needs_no_shares_is_equal(rates: list[float | None]) -> None:
    shares = link_shares(rates)
    assert sum(shares) == WHOLE and max(shares) - min(shares) <= 1


def test_all_are_done_at_the_same_time() -> None:
    rates = [100e6, 80e6, 120e6, 90e6]
    shares = link_shares(rates)
    times = [each / rate for each, rate in zip(sent(shares), rates, strict=True)]
    assert max(times) == pytest.approx(min(times), rel=1e-4)
    equal = max(sent(link_shares([1.0] * 4))) / min(rates)
    assert max(times) < 0.83 * equal


def test_a_pod_on_a_very_slow_link_adds_up_nothing_and_sends_its_gradient_once() -> None:
    rates = [100e6, 1e6, 100e6, 50e6]
    shares = link_shares(rates)
    assert shares[1] == 0 and sum(shares) == WHOLE and shares[0] == shares[2] > shares[3]
    # It cannot send less than that, and nobody takes longer.
    assert max(each / rate for each, rate in zip(sent(shares), rates, strict=True)) == 1 / 1e6


def host(pod: str, index: int, **fields: object) -> Host:
    made = Host(HostRef(pod, index, "a"), "l", "c", 1, 0.0)
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def pod(name: str, *hosts: Host) -> Pod:
    return Pod(name, len(hosts), dict(enumerate(hosts)))


def moved(rate: float | None) -> Traffic:
    return Traffic(1, 1.0, 0, rate)


def test_a_rate_is_that_of_the_slowest_host() -> None:
    emulated = [
        host("pod-0", 0, link=LinkConditions(bandwidth_bytes_per_second=5e6)),
        host("pod-0", 1, link=LinkConditions(bandwidth_bytes_per_second=4e6)),
    ]
    measured = host("pod-1", 0, traffic={"pod-0": moved(2e6), "pod-2": moved(3e6)})
    free = host("pod-2", 0, link=LinkConditions())
    pods = {
        "pod-0": pod("pod-0", *emulated),
        "pod-1": pod("pod-1", measured),
        "pod-2": pod("pod-2", free),
    }
    assert rates_of(["pod-0", "pod-1", "pod-2"], pods) == [4e6, 5e6, None]


@pytest.mark.parametrize(
    "traffic",
    [{}, {"pod-0": moved(1e6)}, {"pod-0": moved(1e6), "pod-2": moved(None)}],
)
def test_a_rate_that_was_not_measured_to_all_is_not_known(traffic: dict[str, Traffic]) -> None:
    gang = ["pod-0", "pod-1", "pod-2"]
    pods = {name: pod(name, host(name, 0, traffic=traffic)) for name in gang}
    assert rates_of(gang, pods)[1] is None
