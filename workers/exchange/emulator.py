"""A slow link without privileges: says when a frame offered now would have arrived.

Only arithmetic on times that are passed in and on a generator of random numbers: whoever sends does
the waiting, is woken when the conditions change, and can be interrupted. A frame's way:

    offered -> its turn on the wire -> its bytes at the bandwidth, once more for each time it is
    lost, while no stall holds the wire -> departed -> latency, jitter, a round trip for each loss
    -> arrived

All that a host sends shares one wire. Frames of one flow arrive in the order they were offered.
"""

import math
import random
import threading
from collections.abc import Callable

from workers.exchange.conditions import LinkConditions
from workers.exchange.stalls import Stalls

# Credit a sender may catch up on after it was scheduled late; more would be a burst above the rate.
_SLACK_SECONDS = 0.05

UNLIMITED = LinkConditions()


class Passage:
    """One frame on its way."""

    def __init__(self, flow: "Flow", num_bytes: int, losses: int, jitter: float) -> None:
        """jitter is the share of the largest that this frame gets."""
        self.losses = losses
        """Times that the frame is lost and sent again."""
        self._flow = flow
        self._jitter = jitter
        # Bytes that have yet to go onto the wire, as of the time it was last scheduled.
        self._left = float(num_bytes * (1 + losses))
        self._has_departed = False
        self._starts_at = self._departs_at = math.inf
        # Where nothing is partitioned.
        self._due_at = math.inf
        self._arrives_at = math.inf

    def arrival(self) -> float:
        """When the frame is at the other end under the conditions in force; infinite while nothing
        arrives."""
        return self._arrives_at


class Flow:
    """Frames of one stream, which offers a frame when the one before it has arrived."""

    def __init__(self, emulator: "LinkEmulator", wake: Callable[[], None]) -> None:
        self._emulator = emulator
        self._wake = wake
        self._newest: Passage | None = None
        self._arrived_to = -math.inf

    def offer(self, num_bytes: int, offered_at: float, now: float) -> Passage:
        """Put a frame on the wire that was ready to be sent since offered_at."""
        return self._emulator._offer(self, num_bytes, offered_at, now)

    def _held_up_for(self) -> float:
        """How long after its departure the newest frame had its sender wait."""
        newest = self._newest
        held_up = newest._arrives_at - newest._departs_at if newest else 0.0
        return held_up if math.isfinite(held_up) else 0.0


class LinkEmulator:
    """The wire of one host."""

    def __init__(
        self, conditions: LinkConditions = UNLIMITED, chance: random.Random | None = None
    ) -> None:
        """The same offers at the same times arrive at the same times again when chance has the same
        seed."""
        self._lock = threading.Lock()
        self._chance = chance or random.Random(0)
        self._conditions = conditions
        self._stalls: Stalls | None = None
        self._free_at = -math.inf
        # Frames that have not arrived, in the order they were offered.
        self._waiting: list[Passage] = []

    @property
    def conditions(self) -> LinkConditions:
        """Those in force."""
        return self._conditions

    def flow(self, wake: Callable[[], None]) -> Flow:
        """For one more stream; wake is called when a frame of it that is under way arrives at
        another time than was said."""
        return Flow(self, wake)

    def change(self, conditions: LinkConditions, now: float) -> None:
        """Let other conditions hold from now on, for what is under way too."""
        with self._lock:
            self._forget_arrived(now)
            for passage in self._waiting:
                self._settle(passage, now)
                passage._flow._arrived_to = now
            if _rhythm(conditions) != _rhythm(self._conditions):
                self._stalls = None
            self._conditions = conditions
            # What came before was sent under the old conditions: nobody may catch up on it.
            self._free_at = now
            for passage in self._waiting:
                self._schedule(passage, now, now)
            flows = {passage._flow for passage in self._waiting}
        for flow in flows:
            flow._wake()

    def _offer(self, flow: Flow, num_bytes: int, offered_at: float, now: float) -> Passage:
        with self._lock:
            passage = Passage(flow, num_bytes, self._draw_losses(), self._chance.random())
            # A sender that waited for an arrival comes back that much after the wire was free.
            caught_up = now - flow._held_up_for() - _SLACK_SECONDS
            self._schedule(passage, max(offered_at, caught_up), now)
            flow._newest = passage
            self._forget_arrived(now)
            self._waiting.append(passage)
            return passage

    def _draw_losses(self) -> int:
        losses = 0
        while self._chance.random() < self._conditions.drop_probability:
            losses += 1
        return losses

    def _settle(self, passage: Passage, now: float) -> None:
        """What of the frame is left to be sent from now on."""
        bandwidth = self._conditions.bandwidth_bytes_per_second
        passage._has_departed = passage._departs_at <= now
        if passage._has_departed:
            passage._left = 0.0
        elif bandwidth is not None and math.isfinite(passage._departs_at):
            since = max(now, passage._starts_at)
            passage._left = bandwidth * self._stalls_at(now).moving(since, passage._departs_at)

    def _schedule(self, passage: Passage, earliest: float, now: float) -> None:
        held, flow = self._conditions, passage._flow
        if held.is_partitioned:
            passage._arrives_at = math.inf
            if not passage._has_departed:
                passage._departs_at = math.inf
            return
        if not passage._has_departed:
            bandwidth = held.bandwidth_bytes_per_second
            passage._starts_at = max(self._free_at, earliest)
            seconds = 0.0 if bandwidth is None else passage._left / bandwidth
            self._free_at = self._stalls_at(now).after(passage._starts_at, seconds)
            passage._departs_at = self._free_at
            round_trips = 2 * passage.losses * held.latency_seconds
            delay = held.latency_seconds + passage._jitter * held.jitter_seconds + round_trips
            passage._due_at = passage._departs_at + delay
        passage._arrives_at = flow._arrived_to = max(passage._due_at, flow._arrived_to)

    def _stalls_at(self, now: float) -> Stalls:
        if self._stalls is None:
            self._stalls = Stalls(*_rhythm(self._conditions), self._chance, since=now)
        self._stalls.forget(min(self._free_at, now))
        return self._stalls

    def _forget_arrived(self, now: float) -> None:
        self._waiting = [passage for passage in self._waiting if passage._arrives_at > now]


def _rhythm(conditions: LinkConditions) -> tuple[float | None, float]:
    return conditions.stall_every_seconds, conditions.stall_seconds
