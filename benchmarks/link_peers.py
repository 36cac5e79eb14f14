"""What others make of the same model on the same link: multi-controller JAX and PyTorch's
DistributedDataParallel, each in two network namespaces with a core each, on a link that the kernel
throttles."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import namespaces
from benchmarks.role import Role, role

PEERS = (
    "JAX, multi-controller",
    "PyTorch DDP, buckets of 2 MiB",
    "PyTorch DDP, buckets of 256 KiB",
)
"""The second kind of bucket is as large as our segments: the model's whole gradient is little more
than one of the first."""

_BUCKET_MIB = {PEERS[1]: 2.0, PEERS[2]: 0.25}
_PORT = 29500
_WARM_UP_STEPS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class PeerTurn:
    """Seconds of a step with the link and without, right before and after."""

    coupled_seconds: float
    apart_seconds: float
    link_bytes_per_second: float


class PeerPair:
    """Two processes that take turns, apart and coupled."""

    def __init__(self, lab: namespaces.Lab, ends: list[Role], steps: int) -> None:
        self._lab, self._ends, self._steps = lab, ends, steps
        self.gradient_bytes: int = max(end.answer()["gradient_bytes"] for end in ends)
        self._all("apart", _WARM_UP_STEPS)
        self._all("coupled", _WARM_UP_STEPS)

    def turn(self, ratio: float) -> PeerTurn:
        """On a link on which a gradient takes `ratio` as long as a step apart. Two processes that
        sum a gradient by halves send it once each, as two pods do."""
        before = self._all("apart", self._steps)
        rate = self.gradient_bytes / (ratio * before)
        self._lab.throttle(8 * rate)
        self._all("coupled", 1)
        coupled = self._all("coupled", self._steps)
        after = self._all("apart", self._steps)
        return PeerTurn(coupled, (before + after) / 2, rate)

    def _all(self, how: str, steps: int) -> float:
        for end in self._ends:
            end.tell(f"{how} {steps}")
        seconds = [end.answer() for end in self._ends]
        # Of a pair whose rates add up.
        return len(seconds) / sum(1 / each for each in seconds)


def missing(kind: str) -> str:
    """What this machine lacks to run a peer; empty when nothing."""
    if kind in _BUCKET_MIB and importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    try:
        namespaces.check()
    except namespaces.NoNamespaces as error:
        return str(error)
    return ""


@contextlib.contextmanager
def peer(
    kind: str, model: Mapping[str, Any], microbatch: int, length: int, steps: int
) -> Iterator[PeerPair]:
    """A pair of one of PEERS for a `with` block, whose turns have so many steps."""
    cores = sorted(os.sched_getaffinity(0))
    sizes = (json.dumps(dict(model)), str(microbatch), str(length))
    with namespaces.lab(2) as lab, contextlib.ExitStack() as stack:
        first = lab.namespaces[0].link_address
        ends = []
        for index, namespace in enumerate(lab.namespaces):
            core = str(cores[index % len(cores)])
            arguments = [str(index), f"{first}:{_PORT}"]
            if kind in _BUCKET_MIB:
                module = "benchmarks.ddp_palm"
                arguments += [core, str(_BUCKET_MIB[kind]), *sizes]
            else:
                module = "benchmarks.multicontroller_palm"
                arguments += [namespace.link_address, core, *sizes]
            prefix = namespace.command(())
            ends.append(stack.enter_context(role(module, *arguments, prefix=prefix)))
        yield PeerPair(lab, ends, steps)
