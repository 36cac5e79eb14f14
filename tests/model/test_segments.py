import pytest

from model.config import PRESETS, ModelConfig
from model.segments import LEAST_BYTES, MAX_SEGMENTS, layer_groups, segment_count


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (4, 4), (5, 2), (7, 3), (118, 16), (9, 1)])
def test_groups_cover_the_layers_once_and_the_smaller_are_at_the_bottom(layers, count):
    groups = layer_groups(layers, count)
    assert len(groups) == count
    assert [i for first, size in groups for i in range(first, first + size)] == list(range(layers))
    sizes = [size for _, size in groups]
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] <= 1


@pytest.mark.parametrize(
    ("preset", "count"),
    [("palm-tiny", 4), ("palm-8b", 16), ("palm-62b", 16), ("palm-540b", MAX_SEGMENTS)],
)
def test_presets_have_as_many_segments_as_pay(preset, count):
    assert segment_count(PRESETS[preset]) == count


@pytest.mark.parametrize(
    ("layers", "layer_numbers_fit", "count"), [(8, 1, 8), (8, 0.5, 4), (7, 0.4, 2), (4, 0.01, 1)]
)
def test_no_segment_is_too_small_to_be_worth_a_call(layers, layer_numbers_fit, count):
    # Kernels of a layer of 1,024 numbers for every unit of mlp_dim, but for the attention's few.
    width = round(LEAST_BYTES / 4 * layer_numbers_fit / 48)
    model = ModelConfig(
        num_layers=layers, model_dim=16, num_heads=1, head_dim=2, mlp_dim=width, vocab_size=8
    )
    assert segment_count(model) == count
