import dataclasses

import pytest

from model import flops
from model.config import PRESETS, MeshConfig, SlotConfig
from model.pod_traffic import PodTraffic, pod_traffic

SLOT = SlotConfig(microbatch=1024, sequence_length=2048)


# What libtpu 0.0.52 makes of it, by model.collectives (docs/palm_compile.md): gathered, and summed.
@pytest.mark.parametrize(
    ("preset", "changes", "mesh", "gathered", "scattered"),
    [
        ("palm-62b", {}, (512, 4), 62.25e9, 60.13e9 + 2.37e9),
        ("palm-540b", {"param_dtype": "bfloat16"}, (256, 12), 192.07e9, 80.18e9 + 9.90e9),
    ],
)
def test_traffic_along_data_is_what_the_tpu_compiler_exchanges(
    preset, changes, mesh, gathered, scattered
):
    config = dataclasses.replace(PRESETS[preset], **changes)
    need = pod_traffic(config, SLOT, MeshConfig(data=mesh[0], model=mesh[1]))
    assert need.gathered_parameters == pytest.approx(gathered, rel=0.001)
    assert need.scattered_gradients == pytest.approx(scattered, rel=0.03)


def test_traffic_along_model_is_whole_activations_of_every_layer():
    config = PRESETS["palm-540b"]
    need = pod_traffic(config, SLOT, MeshConfig(data=256, model=12))
    layer = 4 * 2048 * config.model_dim * 2
    assert need.gathered_activations == 3 * config.num_layers * layer
    assert need.scattered_activations == 2 * config.num_layers * layer


def test_one_device_exchanges_nothing_and_one_axis_only_its_own():
    config = PRESETS["palm-8b"]
    assert pod_traffic(config, SLOT, MeshConfig()) == PodTraffic(0, 0, 0, 0)
    need = pod_traffic(config, SLOT, MeshConfig(data=256))
    assert need.gathered_activations == need.scattered_activations == 0
    everything = flops.parameter_count(config) + flops.norm_scale_count(config)
    # The final norm is left out.
    assert need.scattered_gradients == 4 * (everything - config.model_dim)
