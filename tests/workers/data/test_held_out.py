"""What is evaluated is never trained on, and is spread evenly over what is held out."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.dataset import TokenDataset, open_dataset
from workers.data.errors import DataError
from workers.data.held_out import HeldOut, HeldOutSource, hold_out
from workers.data.packing import SourceTokens
from workers.data.report import SourceReport
from workers.data.tokenizer import ByteTokenizer

LENGTH = 5
END = 999_999


def numbered(num_sequences: int, base: int = 0) -> SourceTokens:
    """A token is its place plus `base`; two tokens are too few for one more sequence."""
    tokens = np.arange(base, base + num_sequences * LENGTH + 3, dtype=np.uint32)
    return SourceTokens(f"s{base}", 1.0, tokens, 1, f"{base}")


def held_out(sizes: list[int], at_most: int | None) -> HeldOut:
    """All of sources of so many sequences, whose tokens start at 0, 10000, ..."""
    held = [HeldOutSource(numbered(n, 10_000 * i), range(n)) for i, n in enumerate(sizes)]
    return HeldOut(held, LENGTH, np.ones(100_000, np.int32), at_most)


def evaluated(held: HeldOut) -> list[tuple[int, int]]:
    """(source, sequence) of all indexes."""
    inputs, _ = held.rows(range(held.num_sequences))
    return [(int(t) // 10_000, int(t) % 10_000 // LENGTH) for t in inputs[:, 0]]


def section(folder: Path, *names: str, **held: Any) -> dict[str, Any]:
    return {"sources": [entry(folder, name) for name in names], "eval": held}


def entry(folder: Path, name: str) -> dict[str, Any]:
    return {"name": name, "kind": "text", "paths": [str(folder / name)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("0123456789" * 4)
    (tmp_path / "b").write_text("grüße, held out")
    (tmp_path / "c").write_text("x")
    return tmp_path


@given(sizes=st.lists(st.integers(2, 60), min_size=1, max_size=3), share=st.floats(0.01, 0.5))
def test_a_share_is_the_end_of_every_source_and_training_is_all_before_it(
    sizes: list[int], share: float
) -> None:
    cut = [
        hold_out(numbered(n, 10_000 * i), share, LENGTH, END)
        for i, n in enumerate(sizes)
        if n - math.ceil(share * n) >= 1
    ]
    held = HeldOut([part for _, part in cut], LENGTH, np.ones(100_000, np.int32))
    dataset = TokenDataset([trained for trained, _ in cut], LENGTH, "test", held)
    inputs, targets = held.rows(range(held.num_sequences))
    _, trained = dataset.rows(3, range(dataset.mixture.epoch_size))
    assert np.array_equal(inputs + 1, targets)
    assert not {*targets.ravel().tolist()} & {*trained.ravel().tolist()}
    for base, size in ((10_000 * i, n) for i, n in enumerate(sizes)):
        border = base + (size - math.ceil(share * size)) * LENGTH
        last = base + size * LENGTH
        ours = [t for t in sorted(trained.ravel().tolist()) if base <= t <= last]
        theirs = [t for t in sorted(targets.ravel().tolist()) if base <= t <= last]
        assert ours == list(range(base + 1, border + 1))
        assert theirs == list(range(border + 1, last + 1))


@given(sizes=st.lists(st.integers(1, 80), min_size=1, max_size=4), at_most=st.integers(1, 100))
def test_sources_are_evaluated_in_proportion_and_evenly_from_end_to_end(
    sizes: list[int], at_most: int
) -> None:
    held = held_out(sizes, at_most)
    found, total = evaluated(held), sum(sizes)
    assert len(found) == len({*found}) == held.num_sequences == min(at_most, total)
    for source, size in enumerate(sizes):
        mine = [sequence for owner, sequence in found if owner == source]
        assert abs(len(mine) - size * len(found) / total) < 1
        gaps = np.diff(mine)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
        # Neither end is left out by more than a whole gap.
        assert {*mine} <= {*range(size)}
        if mine:
            assert mine[0] <= total / len(found)
            assert size - 1 - mine[-1] <= total / len(found)


def test_everything_is_evaluated_without_a_limit_or_with_a_generous_one() -> None:
    everything = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert evaluated(held_out([3, 2], None)) == everything
    assert evaluated(held_out([3, 2], 50)) == everything


def test_which_sequences_are_evaluated_is_the_same_for_ever() -> None:
    found = evaluated(held_out([40, 10, 3], 6))
    assert found == [(0, 4), (0, 13), (0, 22), (0, 30), (0, 39), (1, 8)]


def test_rows_are_by_index_alone_and_others_are_an_index_error() -> None:
    held = held_out([40, 10], 6)
    inputs, targets = held.rows(range(6))
    again, targets_again = held.rows([4, 1, 4])
    assert np.array_equal(again, inputs[[4, 1, 4]])
    assert np.array_equal(targets_again, targets[[4, 1, 4]])
    assert held.rows([])[0].shape == (0, LENGTH)
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"6 sequences have no index {index}"):
            held.rows([0, index])


def test_bytes_are_those_of_the_text_without_the_ends_of_documents() -> None:
    held = HeldOut([], LENGTH, ByteTokenizer().bytes_per_token())
    end = ByteTokenizer.end_of_document
    targets = np.array([[*"grüße".encode(), end], [end] * 8], np.int32)
    assert held.num_bytes(targets) == 7


def test_reports_are_of_what_is_trained_on(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = open_dataset(section(folder, "a", "b", share=0.3), LENGTH)
    assert dataset.held_out is not None
    # Of 8 sequences 3 are held out, of 3 one.
    assert dataset.reports == [
        SourceReport("a", documents=1, tokens=26, sequences=5, epoch_sequences=5),
        SourceReport("b", documents=1, tokens=11, sequences=2, epoch_sequences=2),
    ]
    assert dataset.held_out.num_sequences == 4
    assert "held out of a: 3 sequences" in caplog.text
    assert "held-out text: 4 of 4 sequences are evaluated" in caplog.text


def test_documents_of_training_are_counted_up_to_the_border() -> None:
    tokens = np.array([1, 2, END, 3, 4, END, 5, 6, 7, END, 8, 9, END], np.uint32)
    for share, num_tokens, documents in ((0.1, 10, 3), (0.5, 7, 3), (0.7, 4, 2)):
        source = SourceTokens("s", 1.0, tokens, 4, "00")
        trained, held = hold_out(source, share, 3, END)
        assert (len(trained.tokens), trained.num_documents) == (num_tokens, documents)
        assert held.sequences == range((num_tokens - 1) // 3, 4)


def test_sources_apart_leave_training_as_it_is(folder: Path) -> None:
    plain = open_dataset({"sources": [entry(folder, "a")]}, LENGTH)
    apart = open_dataset(section(folder, "a", sources=[entry(folder, "b")], sequences=2), LENGTH)
    assert plain.held_out is None
    assert apart.held_out is not None
    assert apart.reports == plain.reports
    assert np.array_equal(apart.rows(1, range(8))[0], plain.rows(1, range(8))[0])
    inputs, targets = apart.held_out.rows([0, 1])
    text = [*"grüße, held out".encode(), ByteTokenizer.end_of_document]
    assert inputs.tolist() == [text[0:5], text[10:15]]
    assert targets.tolist() == [text[1:6], text[11:16]]
    assert apart.held_out.num_bytes(targets) == 10


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "one of the two; give either train.eval.share or train.eval.sources"),
        ({"share": 0.1, "sources": [{"name": "b"}]}, "one of the two"),
        ({"share": 0}, "the share 0 is not between 0 and 1"),
        ({"share": 1.0}, "the share 1 is not between 0 and 1"),
        ({"share": math.nan}, "the share nan is not between 0 and 1"),
        ({"sources": []}, "no sources"),
        ({"share": 0.1, "sequences": 0}, "0 sequences are nothing to evaluate"),
    ],
)
def test_section_that_cannot_be_meant_is_a_data_error(
    folder: Path, held: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"'eval': .*{message}"):
        open_dataset(section(folder, "a", **held), LENGTH)


def test_share_that_leaves_nothing_to_train_on_is_a_data_error_that_names_the_source(
    folder: Path,
) -> None:
    with pytest.raises(DataError, match=r"'b': a share of 0\.7 .* all of its 3 sequences; add"):
        open_dataset(section(folder, "a", "b", share=0.7), LENGTH)


def test_held_out_source_without_a_sequence_or_a_known_kind_is_a_data_error(folder: Path) -> None:
    with pytest.raises(DataError, match="'c': 2 tokens do not fill one sequence of 5"):
        open_dataset(section(folder, "a", sources=[entry(folder, "c")]), LENGTH)
    unknown = {**entry(folder, "b"), "kind": "parquet"}
    with pytest.raises(DataError, match="'b': kind 'parquet' is not known"):
        open_dataset(section(folder, "a", sources=[unknown]), LENGTH)
