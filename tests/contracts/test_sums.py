"""Whatever carries them, in whatever order and through whatever mischief: every member's total is
the sum of the slots over the slot tree, bit for bit.

Every reduction over every exchange, against plain numpy. LANDBRIDGE_EXAMPLES makes the search
longer (`make soak`).
"""

import contextlib
import dataclasses
import functools
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.contracts.exchange_gang import KINDS, WAIT, eventually, gang_of
from tests.contracts.exchange_gang import Gang as Exchanges
from tests.contracts.mischief import Mischief
from workers.exchange.base import ExchangeAborted, StepKey
from workers.exchange.conditions import LinkConditions
from workers.exchange.tree import Node, maximal_subtrees, reduce_tree
from workers.orders import ExchangeRule
from workers.payload import Payload
from workers.program import Buffer
from workers.reduction.base import Gang, Reduction, SegmentLayout, add_arrays, flat, grouped
from workers.reduction.choice import reduction_for
from workers.reduction.residuals import WholeGradients

EXAMPLES = int(os.environ.get("LANDBRIDGE_EXAMPLES", "4"))

BAD_WEATHER = LinkConditions(
    bandwidth_bytes_per_second=100e6,
    latency_seconds=0.001,
    jitter_seconds=0.002,
    stall_every_seconds=0.05,
    stall_seconds=0.01,
    drop_probability=0.05,
)

# The last one is several frames. Few, because a sum is compiled for each.
SHAPES = ((), (3,), (5, 7), (2, 300), (150_001,))
DTYPES = (np.float32, ml_dtypes.bfloat16, np.int32)

Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """What a gang sums up."""

    segments: list[list[Buffer]]
    """Gradients first, then one that must be exact."""
    cuts: list[list[range]]
    """Of every step: the slots of every member."""
    shares: list[int]
    """How much each member adds up."""
    seed: int

    @property
    def num_members(self) -> int:
        return len(self.cuts[0])

    def num_slots(self, step: int) -> int:
        return self.cuts[step - 1][-1].stop

    def subtrees(self, step: int) -> list[list[Node]]:
        num_slots = self.num_slots(step)
        return [maximal_subtrees(num_slots, s.start, s.stop) for s in self.cuts[step - 1]]

    def slot(self, step: int, segment: int, slot: int) -> Arrays:
        """What a slot contributes, over twelve orders of magnitude."""
        rng = np.random.default_rng([self.seed, step, segment, slot])
        made = []
        for buffer in self.segments[segment]:
            scale = 10.0 ** rng.integers(-6, 6)
            numbers = rng.standard_normal(buffer.shape) * scale
            made.append(np.asarray(numbers).astype(buffer.dtype))
        return made

    def total(self, step: int, segment: int, node: Node) -> Arrays:
        """The sum over a node, in numpy."""

        def look_up(at: Node) -> Arrays | None:
            return self.slot(step, segment, at[0]) if at[1] - at[0] == 1 else None

        return reduce_tree(node, look_up, _plus)


def _plus(left: Arrays, right: Arrays) -> Arrays:
    return [np.asarray(a + b) for a, b in zip(left, right, strict=True)]


@st.composite
def cases(
    draw: st.DrawFn,
    dtypes: Sequence[Any] = DTYPES,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    most_devices: int = 2,
    fewest: int = 1,
) -> Case:
    num_members = draw(st.integers(fewest, 5))
    num_devices = draw(st.integers(1, most_devices))
    mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))

    def buffer(name: str, dtypes: Sequence[Any]) -> Buffer:
        shape = draw(st.sampled_from(shapes))
        is_cut = bool(shape) and shape[0] % mesh.size == 0
        spec = PartitionSpec("data") if is_cut else PartitionSpec()
        dtype = np.dtype(draw(st.sampled_from(dtypes)))
        return Buffer(name, shape, dtype, NamedSharding(mesh, spec))

    segments = [
        [buffer(f"g{i}", dtypes) for i in range(draw(st.integers(1, 3)))]
        + [Buffer("metric", (2,), np.dtype(np.float32), NamedSharding(mesh, PartitionSpec()))]
        for _ in range(draw(st.integers(1, 2)))
    ]
    cuts = []
    for _ in range(draw(st.integers(2, 3))):
        counts = draw(st.lists(st.integers(1, 3), min_size=num_members, max_size=num_members))
        ends = np.cumsum(counts).tolist()
        cuts.append([range(end - count, end) for end, count in zip(ends, counts, strict=True)])
    shares = draw(st.lists(st.integers(0, 3), min_size=num_members, max_size=num_members))
    if not any(shares):
        shares = [1] * num_members
    return Case(segments, cuts, shares, draw(st.integers(0, 2**31)))


def layout_of(buffers: list[Buffer]) -> SegmentLayout:
    sizes = (len(buffers) - 1, 1)

    def add(left: Any, right: Any) -> Any:
        return grouped(
            add_arrays([a for g in left for a in g], [a for g in right for a in g]), sizes
        )

    return SegmentLayout(Payload(buffers), buffers[:-1], buffers[-1:], sizes, add)


class Member:
    """One member of the gang in one generation: offers and takes totals in an order of its own."""

    def __init__(self, case: Case, exchanges: Exchanges, index: int, generation: int,
                 rule: ExchangeRule) -> None:  # fmt: skip
        self._case, self._index, self._generation = case, index, generation
        self._is_exact = rule.dtype == "float32"
        self._chance = random.Random(case.seed * 31 + index * 7 + generation)
        one_sum = [[(m, m + 1)] for m in range(case.num_members)]
        gradients = [
            [dataclasses.replace(buffer, name=f"{number}/{buffer.name}") for buffer in buffers[:-1]]
            for number, buffers in enumerate(case.segments)
        ]
        gang = Gang(
            exchange=exchanges.exchanges[index],
            member_index=index,
            num_members=case.num_members,
            segments=[layout_of(buffers) for buffers in case.segments],
            subtrees=case.subtrees if self._is_exact else lambda step: one_sum,
            whole=WholeGradients(gradients, [0] * len(gradients)),
            shares=case.shares,
        )
        self.reduction: Reduction = reduction_for(gang, rule, case.seed, {})

    def offer(self, step: int) -> None:
        for segment in self._shuffled():
            # Members are not equally fast.
            threading.Event().wait(self._chance.uniform(0.0, 0.003))
            nodes = {
                node: self._case.total(step, segment, node)
                for node in self._case.subtrees(step)[self._index]
            }
            if not self._is_exact:
                nodes = {(self._index, self._index + 1): functools.reduce(_plus, nodes.values())}
            buffers = self._case.segments[segment]
            sums = {
                node: grouped(
                    [jax.device_put(a, b.sharding) for a, b in zip(arrays, buffers, strict=True)],
                    (len(arrays) - 1, 1),
                )
                for node, arrays in nodes.items()
            }
            self.reduction.offer(self._key(step, segment), sums)

    def totals(self, step: int) -> list[Arrays]:
        taken = {
            segment: [
                np.asarray(array)
                for array in flat({(0, 1): self.reduction.total(self._key(step, segment))})
            ]
            for segment in self._shuffled()
        }
        self.reduction.applied()
        return [taken[segment] for segment in range(len(self._case.segments))]

    def step(self, step: int) -> list[Arrays]:
        self.offer(step)
        return self.totals(step)

    def _shuffled(self) -> list[int]:
        segments = list(range(len(self._case.segments)))
        self._chance.shuffle(segments)
        return segments

    def _key(self, step: int, segment: int) -> StepKey:
        return StepKey("job", self._generation, step, segment)


Totals = list[list[list[Arrays]]]
"""By member, step and segment."""


class Run:
    """A gang of one kind of exchange that sums a case up."""

    def __init__(self, case: Case, exchanges: Exchanges, rule: ExchangeRule) -> None:
        self._case, self._exchanges, self._rule = case, exchanges, rule
        self._pool = ThreadPoolExecutor(case.num_members)

    def generation(self, number: int, steps: int, late_by: frozenset[int] = frozenset()) -> Totals:
        """All members apply so many steps; those of `late_by` offer one more, of which nothing
        comes, before the generation ends."""
        for index in range(self._case.num_members):
            self._exchanges.join(index, generation=number)
        members = [
            Member(self._case, self._exchanges, index, number, self._rule)
            for index in range(self._case.num_members)
        ]

        def train(index: int) -> list[list[Arrays]]:
            try:
                return [members[index].step(step) for step in range(1, steps + 1)]
            except BaseException as error:
                for exchange in self._exchanges.exchanges:
                    exchange.abort("job", number, f"member {index} failed: {error!r}")
                raise

        done = [self._pool.submit(train, index) for index in range(self._case.num_members)]
        try:
            totals = [work.result(2 * WAIT) for work in done]
            for index in late_by:
                with contextlib.suppress(ExchangeAborted):
                    members[index].offer(steps + 1)
        finally:
            for exchange in self._exchanges.exchanges:
                if late_by:
                    exchange.abort("job", number, "a new generation is coming")
                exchange.leave("job", number)
            for member in members:
                member.reduction.close()
        return totals

    def close(self) -> None:
        self._pool.shutdown()


@contextlib.contextmanager
def running(
    case: Case, kind: str, rule: ExchangeRule, conditions: LinkConditions = BAD_WEATHER
) -> Iterator[tuple[Run, Exchanges]]:
    with gang_of(kind, case.num_members, conditions) as exchanges:
        run = Run(case, exchanges, rule)
        try:
            yield run, exchanges
        finally:
            run.close()


def same_bits(found: Arrays, expected: Arrays) -> None:
    assert [array.dtype for array in found] == [array.dtype for array in expected]
    assert [array.shape for array in found] == [array.shape for array in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def is_the_tree_sum(case: Case, totals: Totals, steps: int) -> None:
    for step in range(1, steps + 1):
        for segment in range(len(case.segments)):
            expected = case.total(step, segment, (0, case.num_slots(step)))
            for of_member in totals:
                same_bits(of_member[step - 1][segment], expected)


def searched(examples: int) -> Callable[[Any], Any]:
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.timeout(60 * EXAMPLES)
@pytest.mark.parametrize("kind", KINDS)
@searched(2 * EXAMPLES)
@given(case=cases(), late_by=st.frozensets(st.integers(0, 4)), seed=st.integers(0, 2**31))
def test_every_total_is_the_tree_sum_bit_for_bit(
    kind: str, case: Case, late_by: frozenset[int], seed: int
) -> None:
    """Two generations, the first of which ends in the middle of a step for some members, through
    mischief where there is a wire to do it on."""
    last, mischief = len(case.cuts), Mischief(seed)
    interrupted = late_by & set(range(case.num_members))
    with mischief.afoot(), running(case, kind, ExchangeRule()) as (run, exchanges):
        is_the_tree_sum(case, run.generation(1, last - 1, interrupted), last - 1)
        is_the_tree_sum(case, run.generation(2, last), last)
        if kind != "loopback":
            is_counted(mischief, exchanges, abandoned=(1, last))


def is_counted(mischief: Mischief, exchanges: Exchanges, abandoned: tuple[int, int]) -> None:
    """What came too late, twice or broken was dropped, and is counted as such."""

    def dropped(kind: str) -> int:
        return sum(getattr(exchange.dropped(), kind) for exchange in exchanges.exchanges)

    assert eventually(lambda: dropped("corrupt") == mischief.done["corrupt"])
    assert eventually(lambda: dropped("stale") >= mischief.done["late"])
    surplus = mischief.done["late"] + mischief.done["twice"]
    assert eventually(lambda: dropped("stale") + dropped("duplicate") >= surplus)
    retries = (t.retries for e in exchanges.exchanges for t in e.traffic().values())
    assert sum(retries) >= mischief.num_spoilt(abandoned)


class _Encoding:
    """bfloat16 and int8 of a row of numbers, in numpy."""

    def __init__(self, dtype: str) -> None:
        self.unit = 256 if dtype == "int8" else 1
        self.loses = self._int8 if dtype == "int8" else self._bfloat16

    def _bfloat16(self, row: np.ndarray) -> np.ndarray:
        return row.astype(ml_dtypes.bfloat16).astype(np.float32)

    def _int8(self, row: np.ndarray) -> np.ndarray:
        blocks = row.reshape(-1, 256)
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127.0)
        multiples = blocks / np.where(scale == 0.0, np.float32(1.0), scale)
        return (np.clip(np.rint(multiples), -127.0, 127.0) * scale).reshape(-1)


class EncodedSum:
    """What gradients that are encoded with error feedback come to, in numpy; step by step."""

    def __init__(self, case: Case, dtype: str) -> None:
        self._case, self._encoding = case, _Encoding(dtype)
        self._residuals: dict[tuple[int, int, int], np.ndarray] = {}

    def step(self, step: int, segment: int) -> Arrays:
        num_members = self._case.num_members
        sums = [self._own(step, segment, member) for member in range(num_members)]
        exact = functools.reduce(_plus, [arrays[-1:] for arrays in sums])
        rows = num_members if num_members > 2 else 1
        encoded = [
            self._lossy((segment, member, 0), self._rows(arrays[:-1], rows))
            for member, arrays in enumerate(sums)
        ]
        total = functools.reduce(np.add, encoded)
        if rows > 1:
            total = np.stack(
                [self._lossy((segment, owner, 1), total[owner]) for owner in range(rows)]
            )
        gradients, at = [], 0
        for array in sums[0][:-1]:
            numbers = total.reshape(-1)[at : at + array.size]
            gradients.append(numbers.reshape(array.shape).astype(array.dtype))
            at += array.size
        return [*gradients, *exact]

    def _own(self, step: int, segment: int, member: int) -> Arrays:
        nodes = self._case.subtrees(step)[member]
        return functools.reduce(_plus, [self._case.total(step, segment, node) for node in nodes])

    def _rows(self, arrays: Arrays, rows: int) -> np.ndarray:
        numbers = np.concatenate([array.reshape(-1).astype(np.float32) for array in arrays])
        unit = self._encoding.unit
        count = -(-len(numbers) // (rows * unit)) * unit
        return np.pad(numbers, (0, rows * count - len(numbers))).reshape(rows, count)

    def _lossy(self, place: tuple[int, int, int], rows: np.ndarray) -> np.ndarray:
        rows = rows + self._residuals.get(place, np.float32(0.0))
        decoded = self._encoding.loses(rows.reshape(-1)).reshape(rows.shape)
        self._residuals[place] = rows - decoded
        return decoded


@pytest.mark.timeout(60 * EXAMPLES)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
@searched(max(1, EXAMPLES // 4))
@given(case=cases([np.float32], SHAPES[:4], most_devices=1, fewest=2), seed=st.integers(0, 2**31))
def test_every_encoded_total_is_what_encoding_leaves_bit_for_bit(
    kind: str, dtype: str, case: Case, seed: int
) -> None:
    """The same as a run that nothing disturbs; and as numpy has it, but for int8, where a compiler
    may round a product and a sum once instead of twice."""
    steps, rule = len(case.cuts), ExchangeRule(dtype=dtype)
    with Mischief(seed).afoot(), running(case, kind, rule) as (run, _):
        totals = run.generation(1, steps)
    with running(case, "loopback", rule) as (run, _):
        (undisturbed, *_) = run.generation(1, steps)
    expected = EncodedSum(case, dtype)
    for step in range(1, steps + 1):
        for segment in range(len(case.segments)):
            wanted = expected.step(step, segment)
            for of_member in totals:
                same_bits(of_member[step - 1][segment], undisturbed[step - 1][segment])
            if dtype == "bfloat16":
                same_bits(undisturbed[step - 1][segment], wanted)
            for found, known in zip(undisturbed[step - 1][segment], wanted, strict=True):
                largest = np.abs(known).max()
                np.testing.assert_allclose(found, known, rtol=0.0, atol=largest / 50)
