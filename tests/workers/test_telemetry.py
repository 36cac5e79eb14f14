import types

import pytest

from workers import telemetry

GPUS = ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200"]


def devices(kind: str, platform: str, count: int = 1) -> list[types.SimpleNamespace]:
    return [types.SimpleNamespace(device_kind=kind, platform=platform)] * count


def test_peak_of_a_cpu_is_calibrated_once_per_process():
    first, again = telemetry.inventory(), telemetry.inventory()
    assert first.peak_source == "calibrated"
    assert first.peak_flops_per_second["float32"] > 1e8
    assert first.peak_flops_per_second == again.peak_flops_per_second


def test_peak_of_emulated_devices_is_what_they_are_given():
    given = telemetry.inventory(device_flops_per_second=2e9)
    assert given.peak_source == "emulated"
    devices = given.num_devices
    assert given.peak_flops_per_second == {"bfloat16": 2e9 * devices, "float32": 2e9 * devices}


@pytest.mark.parametrize("kind", GPUS)
def test_peak_of_float32_on_a_gpu_is_what_tensor_cores_make_of_it(kind):
    flops, source = telemetry.peaks(devices(kind, "gpu"))
    assert source == "table"
    # TF32 has half the rate of bfloat16 on every tensor core since Ampere.
    assert flops["float32"] == pytest.approx(flops["bfloat16"] / 2, rel=0.002)


def test_peak_is_of_all_devices_of_the_host():
    flops, _ = telemetry.peaks(devices("TPU v4", "tpu", count=4))
    assert flops == {"bfloat16": 4 * 275e12}


def test_peak_of_an_unknown_device_is_absent():
    assert telemetry.peaks(devices("TPU v99", "tpu")) == ({}, "unknown")
