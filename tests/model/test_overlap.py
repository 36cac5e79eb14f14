import itertools
import math

import pytest

from model import flops
from model.config import PRESETS, SlotConfig
from model.overlap import departures
from model.palm_gradient import PalmGradient
from model.segments import segment_count

LENGTH = 256


@pytest.mark.parametrize("preset", ["palm-tiny", "palm-540b"])
def test_the_top_layers_are_ready_first_and_the_embedding_last(preset):
    model = PRESETS[preset]
    count = segment_count(model)
    found = departures(model, LENGTH, count)
    assert len(found) == count + 1
    assert found[0].remaining == flops.parameter_count(model) + flops.norm_scale_count(model)
    assert found[-1].remaining == model.vocab_size * model.model_dim + model.model_dim
    assert all(a.ready <= b.ready for a, b in itertools.pairwise(found))
    assert all(a.remaining > b.remaining for a, b in itertools.pairwise(found))
    # Up to a third of the products, without recomputation, and those of the top group.
    assert 0.2 < found[0].ready < 1 and found[-1].ready == 1.0


@pytest.mark.parametrize("num_segments", [1, 3, 4])
def test_segments_are_those_of_the_bundle_and_as_large(num_segments):
    model = PRESETS["palm-tiny"]
    gradient = PalmGradient(
        model, SlotConfig(microbatch=2, sequence_length=32), (1, 1), num_segments
    )
    groups, components = gradient.groups(), gradient.components()
    done, whole = 0.0, sum((components[call.component].flops or 0) for call in gradient.calls())
    expected = []
    for call in gradient.calls():
        done += components[call.component].flops or 0
        expected.append(done / whole)
    sizes = [
        sum(
            math.prod(buffer.shape)
            for name in segment.groups
            if name != "metrics"
            for buffer in groups[name]
        )
        for segment in gradient.segments()
    ]
    found = departures(model, 32, num_segments)
    assert [each.ready for each in found] == pytest.approx(expected[1:], rel=1e-3)
    assert [each.remaining for each in found] == [sum(sizes[i:]) for i in range(len(sizes))]
