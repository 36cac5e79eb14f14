"""The road PaLM did not take: pipeline stages instead of one program per pod.

A schedule of S stages and M microbatches leaves each stage idle for S - 1 of M + S - 1 turns
(GPipe, section 2.3). PaLM, section 4, names that bubble, weights read again for every microbatch,
and complexity as its reasons to do without.
"""

from __future__ import annotations

import dataclasses

from model.memory import DeviceBytes


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """What a pipeline of `stages` with `microbatches` costs."""

    stages: int
    microbatches: int

    @property
    def bubble(self) -> float:
        """Share of the time in which a stage waits."""
        return (self.stages - 1) / (self.microbatches + self.stages - 1)

    @property
    def activations_held(self) -> int:
        """Microbatches whose activations the first stage holds at once, one forward and one
        backward in turn (1F1B): no more than there are stages."""
        return min(self.stages, self.microbatches)

    def device_bytes(self, whole: DeviceBytes) -> int:
        """What a device of one stage holds. `whole` is what it would hold as one of a pod's devices
        that run all layers, one microbatch and one gradient at a time.

        Layers are taken to divide evenly, and the embedding with them.
        """
        state = whole.params + whole.optimizer + whole.gradients
        return round((state + whole.activations * self.activations_held) / self.stages)

    @property
    def weight_reads(self) -> int:
        """How often a step reads each stage's weights, forward and backward."""
        return 2 * self.microbatches


def microbatches_for(stages: int, bubble: float) -> int:
    """The fewest microbatches whose bubble is at most `bubble`, in (0, 1)."""
    if not 0 < bubble < 1:
        raise ValueError(f"a bubble of {bubble} is no share between 0 and 1")
    exact = (stages - 1) * (1 - bubble) / bubble
    return max(1, -int(-exact // 1))
