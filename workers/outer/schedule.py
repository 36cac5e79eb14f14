"""After which steps fragments are sent and what came of them is applied. Arithmetic alone, the same
at all pods.

Fragment f of F is sent every H steps, F fragments H / F steps apart, and applied `delay` steps
after. The delay is at most H // F steps, so that one fragment is applied before the next is sent:
pods are never more than one exchange apart, as they are in a step-by-step exchange, and the
numbers of exchanges take the place of those of steps on the link. After the last step everything is
exchanged once more and waited for; what would still travel then is not sent before.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class OuterStep:
    """One exchange of some fragments."""

    number: int
    """From 1 on, in the order in which they are sent."""
    fragments: tuple[int, ...]
    sent_after: int
    applied_after: int
    is_last: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """When what is exchanged; ValueError when a fragment would not be there before the next."""

    every: int
    delay: int
    num_fragments: int
    last_step: int

    def __post_init__(self) -> None:
        if not 0 <= self.delay <= self.every // self.num_fragments:
            raise ValueError(
                f"{self.num_fragments} fragments every {self.every} steps leave no room for a delay"
                f" of {self.delay}"
            )

    def sent_after(self, step: int) -> OuterStep | None:
        """What is sent after a step."""
        return self._last if step == self.last_step else self._regular(step)

    def applied_after(self, step: int) -> list[OuterStep]:
        """What is applied after a step, in order."""
        due = [self._regular(step - self.delay), self._last if step == self.last_step else None]
        return [outer for outer in due if outer is not None]

    def in_flight_after(self, step: int) -> OuterStep | None:
        """What was sent by then and is applied later."""
        for sent_after in range(max(1, step - self.delay + 1), step + 1):
            outer = self._regular(sent_after)
            if outer is not None and outer.applied_after > step:
                return outer
        return None

    @property
    def _last(self) -> OuterStep:
        step = self.last_step
        number = 1 + self._number(min(step - 1, step - self.delay))
        return OuterStep(number, tuple(range(self.num_fragments)), step, step, True)

    def _regular(self, step: int) -> OuterStep | None:
        if not 0 < step < self.last_step or step + self.delay > self.last_step:
            return None
        for fragment in range(self.num_fragments):
            if step % self.every == self._offset(fragment):
                number = self._number(step)
                return OuterStep(number, (fragment,), step, step + self.delay, False)
        return None

    def _offset(self, fragment: int) -> int:
        return fragment * self.every // self.num_fragments

    def _number(self, step: int) -> int:
        """Exchanges after the steps up to this one."""
        if step < 1:
            return 0
        # Offset 0 is that of every multiple of `every`, of which step 0 is none.
        offsets = (self._offset(fragment) for fragment in range(self.num_fragments))
        return sum((step - offset) // self.every + (offset > 0) for offset in offsets)
