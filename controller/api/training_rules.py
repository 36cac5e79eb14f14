"""Rules between the fields of the training and checkpoint sections that are sound by themselves.

Each takes the document as sent, since one mistake must not hide the next, and leaves alone what has
not the shape it should have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from controller.api.problems import SpecProblem


def batch_problems(document: dict[str, Any], fewest: int, most: int) -> list[SpecProblem]:
    """About train.global_batch, one number or a schedule, for `fewest` to `most` pods."""
    train = _section(document, "train")
    microbatch = whole(train.get("microbatch"))
    batch = train.get("global_batch")
    problems = []
    if fewest > most:
        detail = f"min = {fewest} is more than max = {most}"
        problems.append(SpecProblem("/placement/pods/min", "invalid", detail, "swap them"))
    if isinstance(batch, list):
        problems += _schedule_problems(batch)
        sizes = [
            (f"/train/global_batch/{index}/1", whole(entry[1]))
            for index, entry in enumerate(batch)
            if isinstance(entry, list) and len(entry) == 2
        ]
    else:
        sizes = [("/train/global_batch", whole(batch))]
    for pointer, size in sizes:
        if size is not None and microbatch is not None:
            problems += _size_problems(pointer, size, microbatch, most)
    return problems


def _schedule_problems(schedule: list[Any]) -> Iterator[SpecProblem]:
    """[[0, 16], [100, 32]]: the first entry is in force from the start, later ones after theirs."""
    steps = [entry[0] for entry in schedule if isinstance(entry, list) and len(entry) == 2]
    if len(steps) < len(schedule) or not all(type(step) is int for step in steps):
        return
    if steps[0] != 0:
        detail = f"the first entry is in force after step {steps[0]} and nothing before it"
        yield SpecProblem("/train/global_batch/0/0", "invalid", detail, "begin with step 0")
    for index, (before, step) in enumerate(itertools.pairwise(steps), 1):
        if step <= before:
            pointer = f"/train/global_batch/{index}/0"
            detail = f"step {step} does not come after {before}"
            yield SpecProblem(pointer, "invalid", detail, "put the entries in order of their steps")


def _size_problems(pointer: str, size: int, microbatch: int, most: int) -> Iterator[SpecProblem]:
    slots = size // microbatch
    if size % microbatch:
        detail = f"{size} is not divisible by train.microbatch = {microbatch}"
        hint = f"a multiple of {microbatch}, such as {-(-size // microbatch) * microbatch}"
        yield SpecProblem(pointer, "invalid", detail, hint)
    elif slots < most:
        detail = f"{slots} slots (global_batch / microbatch) cannot be cut over {most} pods"
        hint = "every pod needs a slot: lower train.microbatch or ask for fewer pods"
        yield SpecProblem("/placement/pods", "invalid", detail, hint)


def evaluation_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """About train.eval: where the text comes from, and whether it fills a slot."""
    train = _section(document, "train")
    section = train.get("eval")
    if not isinstance(section, dict):
        return []
    problems = []
    given = [key for key in ("share", "sources") if section.get(key) is not None]
    if len(given) != 1:
        detail = "share and sources are both given" if given else "it says not what to evaluate on"
        hint = "give either share, of every source, or sources"
        problems.append(SpecProblem("/train/eval", "invalid", detail, hint))
    sequences = whole(section.get("sequences", 256))
    microbatch = whole(train.get("microbatch"))
    if sequences is not None and microbatch is not None and sequences < microbatch:
        detail = f"{sequences} sequences do not fill a microbatch of {microbatch}"
        hint = f"{microbatch} at least"
        problems.append(SpecProblem("/train/eval/sequences", "invalid", detail, hint))
    return problems


def checkpoint_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """Sections that need each other."""
    train, checkpoint = _section(document, "train"), document.get("checkpoint")
    problems = []
    if isinstance(train.get("spikes"), dict) and not isinstance(checkpoint, dict):
        detail = "a spike is met by going back to a checkpoint, and the job writes none"
        hint = "add a checkpoint section; rewinds go back to one of its steps"
        problems.append(SpecProblem("/train/spikes", "invalid", detail, hint))
    problems += _spike_problems(train.get("spikes"))
    wants_best = isinstance(checkpoint, dict) and checkpoint.get("keep_best") is True
    if wants_best and not isinstance(train.get("eval"), dict):
        detail = "the best checkpoint is the one with the lowest held-out loss, and there is none"
        hint = "add train.eval"
        problems.append(SpecProblem("/checkpoint/keep_best", "invalid", detail, hint))
    return problems


def _spike_problems(spikes: Any) -> list[SpecProblem]:
    if not isinstance(spikes, dict):
        return []
    back, over = whole(spikes.get("rewind_steps", 100)), whole(spikes.get("skip_steps", 200))
    if back is None or over is None or over > back:
        return []
    detail = f"{over} batches from {back} steps before a spike on do not reach the spike"
    return [SpecProblem("/train/spikes/skip_steps", "invalid", detail, f"more than {back}")]


def whole(value: Any) -> int | None:
    """A positive integer, or None."""
    return value if type(value) is int and value > 0 else None


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}
