"""Random batch plans, and what they mean said in the plainest way."""

import itertools
from collections.abc import Iterator

from hypothesis import strategies as st

from workers.data.batches import BatchPlan


def skips(limit: int) -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    """Ranges of positions up to `limit`; some of them touch."""
    bounds = st.sets(st.integers(0, limit), max_size=8).map(sorted)
    pairs = bounds.map(lambda found: tuple(itertools.pairwise(found)))
    return pairs.flatmap(
        lambda ranges: st.tuples(*(st.booleans() for _ in ranges)).map(
            lambda chosen: tuple(itertools.compress(ranges, chosen))
        )
    )


@st.composite
def plans(draw: st.DrawFn, microbatch: int, limit: int) -> BatchPlan:
    """Batches are whole microbatches; skipped ranges lie below `limit`."""
    steps = sorted(draw(st.sets(st.integers(2, 30), max_size=3)) | {1})
    phases = tuple((step, microbatch * draw(st.integers(1, 6))) for step in steps)
    return BatchPlan(phases, draw(skips(limit)))


def batches(plan: BatchPlan) -> Iterator[list[int]]:
    """The positions of steps 1, 2, ... without end, counted one by one."""
    kept = (p for p in itertools.count() if not any(f <= p < e for f, e in plan.skipped))
    for step in itertools.count(1):
        batch = next(batch for first, batch in reversed(plan.phases) if first <= step)
        yield list(itertools.islice(kept, batch))
