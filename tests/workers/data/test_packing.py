"""Every token but the first is predicted by one sequence, and no sequence leaves its source."""

import numpy as np
import pytest

from workers.data.errors import DataError
from workers.data.packing import SourceTokens, gather, num_sequences


def source(num_tokens: int) -> SourceTokens:
    return SourceTokens("corpus", 1.0, np.arange(num_tokens, dtype=np.uint16), 1, "00")


@pytest.mark.parametrize(("num_tokens", "size"), [(6, 1), (10, 1), (11, 2), (15, 2), (16, 3)])
def test_sequences_are_whole_and_the_first_token_is_no_target(num_tokens: int, size: int) -> None:
    assert num_sequences(source(num_tokens), 5) == size
    _, targets = gather([source(num_tokens).tokens], np.zeros(size, int), np.arange(size), 5)
    assert targets.ravel().tolist() == list(range(1, 5 * size + 1))


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_source_without_a_whole_sequence_is_a_data_error(num_tokens: int) -> None:
    with pytest.raises(DataError, match=f"'corpus': {num_tokens} tokens do not fill one .* of 5"):
        num_sequences(source(num_tokens), 5)


def test_gather_takes_sequences_in_any_order_and_more_than_once() -> None:
    tokens = [np.arange(11, dtype=np.uint16), np.arange(100, 121, dtype=np.uint32)]
    inputs, targets = gather(tokens, np.array([1, 0, 1, 0]), np.array([3, 1, 3, 0]), 5)
    assert inputs[:, 0].tolist() == [115, 5, 115, 0]
    assert np.array_equal(inputs + 1, targets)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous
