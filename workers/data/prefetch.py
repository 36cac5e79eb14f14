"""Prepares the host arrays of coming steps in a background thread, for the executor to find ready.

At most `depth` steps are held ready and one more is being made. Putting them on devices is not done
here: one thread owns the devices.
"""

import threading
from collections.abc import Callable

import numpy as np

from workers.data.batches import BatchPlan, slot_positions
from workers.data.dataset import TokenDataset
from workers.data.seen import SeenSequences

# Two steps ahead hide a hiccup of a whole step time; more would only hold memory.
_DEPTH = 2

SlotArrays = tuple[np.ndarray, np.ndarray]


class Prefetcher:
    def __init__(
        self,
        dataset: TokenDataset,
        plan: BatchPlan,
        seed: int,
        microbatch: int,
        slots: Callable[[int], range],
        first_step: int,
        last_step: int,
        depth: int = _DEPTH,
    ) -> None:
        """`slots` tells which slots of a step are this pod's; it is called in the background."""
        self._seen = SeenSequences(dataset, seed, plan)
        self._counts: dict[int, tuple[int, ...]] = {}
        self._dataset = dataset
        self._plan = plan
        self._seed = seed
        self._microbatch = microbatch
        self._slots = slots
        self._next_step = first_step
        self._last_step = last_step
        self._depth = depth
        self._changed = threading.Condition()
        self._ready: dict[int, list[SlotArrays]] = {}
        self._error: Exception | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, step: int) -> list[SlotArrays]:
        """Inputs and targets of each slot. Steps are taken in order, each once; blocks until ready
        and raises what went wrong while preparing."""
        with self._changed:
            if not self._next_step <= step <= self._last_step:
                raise ValueError(
                    f"step {step} is not ahead: the next is {self._next_step}, the last"
                    f" {self._last_step}"
                )
            for skipped in [s for s in self._ready if s < step]:
                del self._ready[skipped]
            self._next_step = step
            self._changed.notify_all()
            while step not in self._ready:
                self._check_alive()
                self._changed.wait()
            self._next_step = step + 1
            self._changed.notify_all()
            return self._ready.pop(step)

    def seen_through(self, step: int) -> tuple[int, ...]:
        """Sequences of every source that all pods together have trained on up to a step that was
        taken; nothing where that is still being counted, which takes a while after a restore. For
        the last step it blocks and raises as `get` does. Steps are asked for in order."""
        with self._changed:
            while step == self._last_step and step not in self._counts:
                self._check_alive()
                self._changed.wait()
            counts = self._counts.get(step, ())
            self._counts = {later: n for later, n in self._counts.items() if later > step}
            return counts

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (step := self._await_step()) is not None:
            try:
                arrays = self._prepare(step)
                with self._changed:
                    if step >= self._next_step and not self._is_closed:
                        self._ready[step] = arrays
                        self._changed.notify_all()
                for _ in self._seen.advance(step):
                    if self._is_closed:
                        return
            except Exception as error:  # raised again in get()
                self._fail(error)
                return
            with self._changed:
                self._counts[step] = self._seen.counts
                self._changed.notify_all()

    def _await_step(self) -> int | None:
        with self._changed:
            while not self._is_closed:
                step = max(self._next_step, max(self._ready, default=0) + 1)
                if step > self._last_step:
                    return None
                if len(self._ready) < self._depth:
                    return step
                self._changed.wait()
            return None

    def _prepare(self, step: int) -> list[SlotArrays]:
        positions = self._plan.positions(step)
        return [
            self._dataset.rows(self._seed, slot_positions(positions, slot, self._microbatch))
            for slot in self._slots(step)
        ]

    def _check_alive(self) -> None:
        if self._is_closed:
            raise RuntimeError("the prefetcher is closed")
        if self._error is not None:
            raise self._error

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
