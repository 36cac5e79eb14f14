import pytest

from model import palm
from model.config import PRESETS
from model.shapes import parameter_shapes


@pytest.mark.parametrize("preset", PRESETS)
def test_the_shapes_are_those_of_the_model(preset):
    assert parameter_shapes(PRESETS[preset]) == palm.parameter_info(PRESETS[preset])
