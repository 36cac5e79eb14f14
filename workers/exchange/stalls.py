"""When an emulated wire stands still: windows of time at random, drawn as time goes on."""

import itertools
import random
from collections import deque
from collections.abc import Iterator


class Stalls:
    """Windows of one length whose distances are exponential, so that a stall is as likely at one
    moment as at any other."""

    def __init__(
        self, every: float | None, length: float, chance: random.Random, since: float
    ) -> None:
        """`every` is the mean distance in seconds; None is a wire that never stalls."""
        self._every = every
        self._length = length
        self._chance = chance
        self._drawn_to = since
        # (first moment, first moment after it)
        self._windows: deque[tuple[float, float]] = deque()

    def after(self, start: float, seconds: float) -> float:
        """When the wire will have moved for so long, counted from start."""
        at, left = start, seconds
        for begins, ends in self._from(start):
            # What is complete when a stall begins was not held up by it.
            if at + left < begins or (left > 0 and at + left == begins):
                break
            left -= max(0.0, begins - at)
            at = ends
        return at + left

    def moving(self, start: float, end: float) -> float:
        """Seconds between the two in which the wire moves."""
        still = 0.0
        for begins, ends in self._from(start):
            if begins >= end:
                break
            still += min(ends, end) - max(begins, start)
        return end - start - still

    def forget(self, before: float) -> None:
        """Nobody will ask for what was before."""
        while self._windows and self._windows[0][1] <= before:
            self._windows.popleft()

    def _from(self, start: float) -> Iterator[tuple[float, float]]:
        """Windows that end after start, without end."""
        if self._every is None:
            return
        for index in itertools.count():
            while index >= len(self._windows):
                begins = self._drawn_to + self._chance.expovariate(1 / self._every)
                self._drawn_to = begins + self._length
                self._windows.append((begins, self._drawn_to))
            if self._windows[index][1] > start:
                yield self._windows[index]
