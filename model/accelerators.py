"""Accelerators a plan can assume: dense peaks, memory, and how many share a host.

Sources: Google's TPU system architecture pages; NVIDIA's data sheets (SXM, without sparsity).
float32 on GPU is the TF32 rate, which jax's default precision uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Accelerator:
    """One device: FLOP/s by compute dtype, bytes of memory, devices of one host."""

    name: str
    peak_flops_per_second: Mapping[str, float]
    memory_bytes: int
    devices_per_host: int


_GIB = 1 << 30


def _table(*rows: Accelerator) -> dict[str, Accelerator]:
    return {row.name: row for row in rows}


ACCELERATORS: Mapping[str, Accelerator] = _table(
    Accelerator("tpu-v4", {"bfloat16": 275e12}, 32 * _GIB, 4),
    Accelerator("tpu-v5e", {"bfloat16": 197e12}, 16 * _GIB, 4),
    Accelerator("tpu-v5p", {"bfloat16": 459e12}, 95 * _GIB, 4),
    Accelerator("tpu-v6e", {"bfloat16": 918e12}, 32 * _GIB, 4),
    Accelerator("a100-40gb", {"bfloat16": 312e12, "float32": 156e12}, 40 * _GIB, 8),
    Accelerator("a100-80gb", {"bfloat16": 312e12, "float32": 156e12}, 80 * _GIB, 8),
    Accelerator("h100", {"bfloat16": 989e12, "float32": 494e12}, 80 * _GIB, 8),
    Accelerator("h200", {"bfloat16": 989e12, "float32": 494e12}, 141 * _GIB, 8),
)
