"""What this host's accelerators are and how fast they could be.

A utilisation without a true denominator is worthless, so the peak comes from a table of published
dense figures or from a measurement, and is absent otherwise.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from workers.orders import Inventory

# Dense peaks per jax device, FLOP/s, without structured sparsity. TPU: Google's system architecture
# pages; GPU: NVIDIA's data sheets (SXM). float32 on GPU is the plain FP32 rate, not TF32.
_PUBLISHED_PEAKS: Mapping[str, Mapping[str, float]] = {
    "TPU v2": {"bfloat16": 22.5e12},
    "TPU v3": {"bfloat16": 61.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 67e12},
}

_CALIBRATION_DIM = 1024
"""Square matrices of 4 MiB: large enough for the full rate, 2.1 GFLOP a product, 20-40 ms on a
core."""

_CALIBRATION_RUNS = 8

_PACKAGES = ("landbridge", "jax", "jaxlib", "numpy")


def inventory() -> Inventory:
    """Of this host. Takes up to half a second on a CPU, whose peak is measured."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    peaks, source = _peaks(devices)
    return Inventory(
        platform=devices[0].platform,
        device_kind=kind,
        num_devices=len(devices),
        device_memory_bytes=_memory_bytes(devices[0]),
        peak_flops_per_second=peaks,
        peak_source=source,
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    )


def _peaks(devices: Sequence[Any]) -> tuple[dict[str, float], str]:
    published = _PUBLISHED_PEAKS.get(devices[0].device_kind)
    if published is not None:
        return {dtype: peak * len(devices) for dtype, peak in published.items()}, "table"
    if devices[0].platform == "cpu":
        return {"float32": _calibrated_peak()}, "calibrated"
    return {}, "unknown"


def _calibrated_peak() -> float:
    """FLOP/s of a float32 matrix product on all cores this process may use; the best of some runs.

    Virtual CPU devices share those cores, so one device's product measures the whole host.
    """
    matrix_dxd = jnp.ones((_CALIBRATION_DIM, _CALIBRATION_DIM), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(matrix_dxd, matrix_dxd).block_until_ready()
    best = float("inf")
    for _ in range(_CALIBRATION_RUNS):
        start = time.perf_counter()
        product(matrix_dxd, matrix_dxd).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * _CALIBRATION_DIM**3 / best


def _memory_bytes(device: Any) -> int:
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats.get("bytes_limit", 0)) if stats else 0
