"""What this host's accelerators are and how fast they could be.

A utilisation without a true denominator is worthless, so the peak comes from a table of published
dense figures or from a measurement, and is absent otherwise.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from workers.orders import Inventory

# Dense peaks per jax device, FLOP/s, without structured sparsity. TPU: Google's system architecture
# pages; GPU: NVIDIA's data sheets (SXM).
#
# float32 on GPU is the TF32 rate of the tensor cores: a matrix product of float32 arrays runs in
# TF32 there unless the program asks for jax.lax.Precision.HIGHEST (jax/_src/lax/lax.py, Precision),
# and ours asks for nothing. Against the plain FP32 rate utilisation could exceed 1, by up to 8
# times. A program lowered with JAX_DEFAULT_MATMUL_PRECISION=highest, or kept from TF32 by
# NVIDIA_TF32_OVERRIDE=0, is measured against TF32 all the same: which precision a bundle asks for
# is not known here, the variable binds NVIDIA's libraries and not XLA's own kernels, and a
# utilisation that is too low flatters nobody.
_PUBLISHED_PEAKS: Mapping[str, Mapping[str, float]] = {
    "TPU v2": {"bfloat16": 22.5e12},
    "TPU v3": {"bfloat16": 61.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 494e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 494e12},
}

_CALIBRATION_DIM = 1024
"""Square matrices of 4 MiB: large enough for the full rate, 2.1 GFLOP a product, 20-40 ms on a
core."""

_CALIBRATION_RUNS = 8

_PACKAGES = ("landbridge", "jax", "jaxlib", "numpy")


def inventory(device_flops_per_second: float | None = None) -> Inventory:
    """Of this host, with emulated devices of so many FLOP/s each if that is given. The first takes
    up to half a second on a CPU, whose peak is measured."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    flops, source = peaks(devices, device_flops_per_second)
    return Inventory(
        platform=devices[0].platform,
        device_kind=kind,
        num_devices=len(devices),
        device_memory_bytes=_memory_bytes(devices[0]),
        peak_flops_per_second=flops,
        peak_source=source,
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    )


def peaks(
    devices: Sequence[Any], emulated_flops_per_second: float | None = None
) -> tuple[dict[str, float], str]:
    """FLOP/s of all the jax devices of a host together by compute dtype, and where the figures
    come from; none when the kind of device is not known."""
    if emulated_flops_per_second is not None:
        peak = emulated_flops_per_second * len(devices)
        return {"bfloat16": peak, "float32": peak}, "emulated"
    published = _PUBLISHED_PEAKS.get(devices[0].device_kind)
    if published is not None:
        return {dtype: peak * len(devices) for dtype, peak in published.items()}, "table"
    if devices[0].platform == "cpu":
        return {"float32": _calibrated_peak()}, "calibrated"
    return {}, "unknown"


@functools.cache
def _calibrated_peak() -> float:
    """FLOP/s of a float32 matrix product on all cores this process may use; the best of some runs.

    Measured once a process: a job's utilisation must not depend on how often its host has dialled,
    and a step that is still running when the host dials again would spoil a second measurement.
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
