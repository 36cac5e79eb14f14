"""The byte tokenizer loses nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.data.tokenizer import ByteTokenizer, Tokenizer

TOKENIZER: Tokenizer = ByteTokenizer()


@given(st.text())
def test_text_survives_the_way_there_and_back(text: str) -> None:
    ids = TOKENIZER.encode(text.encode())
    assert ids.max(initial=0) < TOKENIZER.end_of_document < TOKENIZER.vocab_size
    assert TOKENIZER.decode(np.append(ids.astype(np.int32), TOKENIZER.end_of_document)) == text


def test_cut_character_shows_as_replacement() -> None:
    assert TOKENIZER.decode(np.array([0xC3])) == "\ufffd"


@given(st.text())
def test_bytes_of_the_tokens_add_up_to_those_of_the_text(text: str) -> None:
    sizes = TOKENIZER.bytes_per_token()
    assert (sizes.dtype, sizes.shape) == (np.int32, (TOKENIZER.vocab_size,))
    assert sizes[TOKENIZER.encode(text.encode())].sum() == len(text.encode())
    assert sizes[TOKENIZER.end_of_document] == 0
