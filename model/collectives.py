"""Bytes that a compiled program exchanges inside a pod, read from XLA's optimized HLO text.

What a loop does counts as often as the loop runs. XLA counts the turns of a loop from zero by one
and compares with a constant, which is where the number of turns is read when the loop does not say
it. A loop that can not be read is an error: a wrong factor would go unnoticed.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLEES = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_KNOWN_TURNS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_COMPARISON = re.compile(r"ROOT .* compare\((.*?)\), direction=LT")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_TILED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")


@dataclasses.dataclass(frozen=True, slots=True)
class Collective:
    """One kind of collective over groups of one size, in one run of the program.

    `group` is the number of devices that take part in one; None for collective-permute, which has
    pairs. `bytes` are those of the whole array on one device, gathered or not yet reduced: a ring
    sends (group - 1) / group of them for a gather or a scatter, and twice that for an all-reduce.
    """

    kind: str
    group: int | None
    calls: int
    bytes: int


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a module's entry computation, sorted by kind and group.

    Raises ValueError for text without an entry, or with a loop whose turns can not be read.
    """
    module = _Module(hlo)
    found = module.traffic(module.entry)
    return [
        Collective(kind, group, calls, size)
        for (kind, group), (calls, size) in sorted(
            found.items(), key=lambda item: (item[0][0], item[0][1] or 0)
        )
    ]


_Traffic = Mapping[tuple[str, int | None], tuple[int, int]]


class _Module:
    def __init__(self, hlo: str) -> None:
        self.computations: dict[str, list[str]] = {}
        self.known: dict[str, _Traffic] = {}
        self.entry = ""
        lines: list[str] = []
        for line in hlo.splitlines():
            header = _HEADER.match(line)
            if header:
                lines = self.computations[header[2]] = []
                if header[1]:
                    self.entry = header[2]
            else:
                lines.append(line)
        if not self.entry:
            raise ValueError("no ENTRY computation: this is not the text of an HLO module")

    def traffic(self, name: str) -> _Traffic:
        """Calls and bytes of one run of a computation, by kind and group."""
        if name not in self.known:
            total: dict[tuple[str, int | None], tuple[int, int]] = collections.defaultdict(
                lambda: (0, 0)
            )
            for key, calls, size in self._own_and_called(name):
                before = total[key]
                total[key] = before[0] + calls, before[1] + size
            self.known[name] = dict(total)
        return self.known[name]

    def _own_and_called(self, name: str) -> Iterator[tuple[tuple[str, int | None], int, int]]:
        for line in self.computations[name]:
            instruction = _INSTRUCTION.match(line)
            if not instruction:
                continue
            _, shape, operation = instruction.groups()
            kind = operation.removesuffix("-start")
            if kind in KINDS:
                group = _group_size(line)
                # On TPU a reduce-scatter is a fusion: an all-reduce, and a slice of it.
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                elif kind == "reduce-scatter":
                    yield (kind, group), 1, _bytes_of(operation, shape) * (group or 1)
                    continue
                yield (kind, group), 1, _bytes_of(operation, shape)
            else:
                turns = self._turns(line) if operation == "while" else 1
                for callee in _callees(line):
                    for key, (calls, size) in self.traffic(callee).items():
                        yield key, turns * calls, turns * size

    def _turns(self, line: str) -> int:
        known = _KNOWN_TURNS.search(line)
        if known:
            return int(known[1])
        condition = _CONDITION.search(line)
        lines = self.computations[condition[1]] if condition else []
        constants = {found[1]: int(found[2]) for text in lines if (found := _CONSTANT.search(text))}
        for text in lines:
            comparison = _COMPARISON.search(text)
            for operand in re.findall(r"%([\w.\-]+)", comparison[1]) if comparison else ():
                if operand in constants:
                    return constants[operand]
        raise ValueError(f"how often does this loop turn? {line.strip():.200}")


def _callees(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    listed = [name.strip(" %") for name in branches[1].split(",")] if branches else []
    return [*_CALLEES.findall(line), *listed]


def _bytes_of(operation: str, shape: str) -> int:
    arrays = [
        math.prod(int(size) for size in sizes.split(",") if size) * _bits(dtype) // 8
        for dtype, sizes in _ARRAY.findall(shape)
    ]
    if not operation.endswith("-start") or operation == "all-reduce-start":
        return sum(arrays)
    # Operands, results of the same number, and for a permute two words that belong to neither.
    arrays = arrays[:2] if operation == "collective-permute-start" else arrays
    operands, results = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
    return sum(results if operation == "all-gather-start" else operands)


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return _DTYPE_BITS.get(dtype) or (int(digits[0]) if digits else 0)


def _group_size(line: str) -> int | None:
    mesh = _MESH_GROUPS.search(line)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    tiled = _TILED_GROUPS.search(line)
    if tiled:
        return int(tiled[1])
    listed = _LISTED_GROUPS.search(line)
    return listed[1].count(",") + 1 if listed else None
