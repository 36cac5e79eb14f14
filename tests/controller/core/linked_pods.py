"""Pods that obey: they run what they are granted, exchange as they are told, over links of the rate
that a test says, and tell what they sent."""

from __future__ import annotations

from typing import Any

from controller.core import commands, events
from controller.core.batch import BatchPhase
from controller.core.choosing import (
    Candidate,
    ChoicePolicy,
    Conditions,
    Departure,
    SlotLayout,
    exposed_seconds,
)
from controller.core.cluster import HostRef, Traffic
from controller.core.exchange import ExchangeRule
from controller.core.turn import Entry, Outcome, State
from tests.controller.core.world import World

GRADIENT_BYTES = 2_000_000
COMPUTE_SECONDS = 0.4
MBIT = 1e6 / 8

READY = (0.5, 2 / 3, 5 / 6, 1.0)
"""A third of a slot forward, four segments backward."""


def candidate(dtype: str, share: float) -> Candidate:
    """In which a gradient is so much of what it is in float32."""
    part = GRADIENT_BYTES * share / len(READY)
    departures = tuple(Departure(r, part * (len(READY) - i)) for i, r in enumerate(READY))
    return Candidate(ExchangeRule(dtype=dtype), departures)


FLOAT32, BFLOAT16, INT8 = (
    candidate(dtype, share)
    for dtype, share in (("float32", 1.0), ("bfloat16", 0.5), ("int8", 0.254))
)
POLICY = ChoicePolicy((FLOAT32, BFLOAT16, INT8))


class LinkedPods:
    """Two pods with a job whose exchange is chosen."""

    def __init__(self, world: World, num_hosts: int = 1, **fields: Any) -> None:
        self.world, self.num_hosts = world, num_hosts
        self.entries: list[Entry] = []
        """Of decisions."""
        self._granted: dict[HostRef, int] = {}
        self._rules: dict[HostRef, dict[int, ExchangeRule]] = {}
        """By the first step that they are for."""
        self._sent = {"pod-0": (0, 0.0), "pod-1": (0, 0.0)}
        world.observers.append(self._hear)
        for pod in self._sent:
            world.pod_joins(pod, hosts=num_hosts)
        settings = {"steps": 100_000, "choice": POLICY, "phases": (BatchPhase(1, 2),), **fields}
        world.start(devices_per_pod=num_hosts, **settings)

    @property
    def history(self) -> list[str]:
        """The dtypes decided for, the first at the start."""
        return [entry.data["to"] for entry in self.entries]

    def dtype(self, step: int) -> str:
        """That every host exchanges this step in."""
        rules = {
            rules[max(first for first in rules if first <= step)]
            for host, rules in self._rules.items()
            if host in self._granted
        }
        (rule,) = rules
        return rule.dtype

    def run(self, steps: int, bytes_per_second: float, rtt_seconds: float = 0.0) -> None:
        """So many steps, all of which must have been granted by then."""
        for _ in range(steps):
            progress = self.world.job().progress
            assert progress is not None
            step = progress.merged + 1
            assert set(self._granted) == set(self.world.hosts())
            assert min(self._granted.values()) >= step
            way = next(c for c in POLICY.candidates if c.rule.dtype == self.dtype(step))
            seen = Conditions(bytes_per_second, rtt_seconds, COMPUTE_SECONDS)
            exposed = exposed_seconds(way, seen, SlotLayout(2, 1))
            seconds = COMPUTE_SECONDS + exposed
            self.world.now += seconds
            self._beat(round(way.departures[0].remaining_bytes), bytes_per_second, rtt_seconds)
            for pod in self._sent:
                lead = next(h for h in self.world.hosts() if (h.pod, h.index) == (pod, 0))
                fields = {"exposed_seconds": exposed, "seconds": seconds, "time": self.world.now}
                self.world.apply(lead, [step], **fields)

    def _beat(self, num_bytes: int, rate: float, rtt_seconds: float) -> None:
        """Every host sends its share of the bytes, at its share of the rate."""
        peers = {"pod-0": "pod-1", "pod-1": "pod-0"}
        for host in self.world.hosts():
            if host.index == 0:
                before, seconds = self._sent[host.pod]
                self._sent[host.pod] = before + num_bytes, seconds + num_bytes / rate
            sent, seconds = self._sent[host.pod]
            traffic = Traffic(sent // self.num_hosts, seconds, 0, None, rtt_seconds)
            self.world.happens(events.HostHeard(host, {peers[host.pod]: traffic}))

    def _hear(self, _before: State, _event: events.Event, outcome: Outcome) -> None:
        self.entries += [e for e in outcome.entries if e.kind == "exchange.chosen"]
        for command in outcome.commands:
            match command:
                case commands.PrepareHost(host):
                    self._granted.pop(host, None)
                    self._rules[host] = {1: command.exchange}
                case commands.ChangeExchange(host, _, first_step, rule):
                    assert first_step == self._granted[host] + 1
                    self._rules[host][first_step] = rule
                case commands.GrantWindow(host, _, last_step):
                    self._granted[host] = last_step
                case _:
                    pass
