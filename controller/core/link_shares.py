"""How much of a gradient each pod of a gang adds up for all, by what its link carries.

Pod j of P adds up a share s of the gradient: it sends 1 - s of its own sums to the others and the
total of its share to P - 1 of them, 1 + s (P - 2) gradients in all, and receives as much. So a pod
on a slower link gets a smaller share, and all are done at the same time; with equal links each gets
1/P and sends 2(P-1)/P. Shares change no bit of a float32 sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from controller.core.cluster import Host, Pod

WHOLE = 65_536
"""Shares are whole numbers that add up to this, so that all pods cut at the same places."""


def rates_of(gang: Sequence[str], pods: Mapping[str, Pod]) -> list[float | None]:
    """Bytes per second that the slowest host of each pod can send: what its emulated link allows,
    else what it lately sent to the others; None where it is not known."""
    found: list[float | None] = []
    for name in gang:
        rates = [
            _rate(host, [pod for pod in gang if pod != name]) for host in pods[name].hosts.values()
        ]
        known = [rate for rate in rates if rate]
        found.append(min(known) if known and len(known) == len(rates) else None)
    return found


def link_shares(rates: Sequence[float | None]) -> tuple[int, ...]:
    """By pod; equal ones when a rate is not known, or where there are no more than two pods, who
    send each other everything."""
    known = [rate for rate in rates if rate]
    if len(known) < len(rates) or len(rates) < 3:
        return _whole([1.0] * len(rates))
    return _whole(_filled(known))


def _rate(host: Host, peers: Sequence[str]) -> float | None:
    if host.link is not None:
        return host.link.bandwidth_bytes_per_second
    rates = [host.traffic[peer].rate_bytes_per_second for peer in peers if peer in host.traffic]
    known = [rate for rate in rates if rate]
    return sum(known) if len(known) == len(peers) else None


def _filled(rates: Sequence[float]) -> list[float]:
    """Shares with which all are done after the same time, or, where that would take a share of less
    than nothing from a slow pod, with which the others share what is left.

    After a time T pod j can have sent T times its rate, so its share can be (T r - 1) / (P - 2);
    together they must be 1.
    """
    others = len(rates) - 2
    fast = sorted(rates, reverse=True)
    # Of the fastest n pods alone: sum of (T r - 1) = P - 2, and T r > 1 for the slowest of them.
    time = next(
        seconds
        for count in range(len(fast), 0, -1)
        if (seconds := (others + count) / sum(fast[:count])) * fast[count - 1] > 1
    )
    return [max(0.0, time * rate - 1) for rate in rates]


def _whole(shares: Sequence[float]) -> tuple[int, ...]:
    total = sum(shares)
    ends = [0, *(round(WHOLE * sum(shares[: i + 1]) / total) for i in range(len(shares)))]
    return tuple(end - start for start, end in itertools.pairwise(ends))
