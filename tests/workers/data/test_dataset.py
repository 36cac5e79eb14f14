"""Documents are packed without loss, and each token is predicted as often as the weight says."""

import logging
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.data.batch_plans import plans
from workers.data.batches import BatchPlan, slot_positions
from workers.data.dataset import SourceReport, TokenDataset, open_dataset
from workers.data.errors import DataError
from workers.data.packing import SourceTokens
from workers.data.tokenizer import ByteTokenizer


def data(*paths: str, name: str = "text", **more: Any) -> dict[str, Any]:
    return {"sources": [{"name": name, "kind": "text", "paths": list(paths), **more}]}


def numbered(*lengths: int, weights: tuple[float, ...] = (1.0, 1.0), base: int = 10_000) -> Any:
    """Sources of so many tokens; a token is its place, plus `base` times the source."""
    return [
        SourceTokens(f"s{i}", weight, np.arange(length, dtype=np.uint32) + base * i, 1, f"{i}")
        for i, (length, weight) in enumerate(zip(lengths, weights, strict=False))
    ]


def epoch(dataset: TokenDataset, seed: int = 0, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    size = dataset.mixture.epoch_size
    return dataset.rows(seed, range(number * size, (number + 1) * size))


@given(num_tokens=st.integers(2, 500), length=st.integers(1, 50), number=st.integers(0, 3))
def test_an_epoch_predicts_each_token_exactly_once(
    num_tokens: int, length: int, number: int
) -> None:
    if num_tokens <= length:
        num_tokens += length
    dataset = TokenDataset(numbered(num_tokens), length, "test")
    size = (num_tokens - 1) // length
    inputs, targets = epoch(dataset, number=number)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (size, length)
    assert np.array_equal(np.sort(targets.ravel()), np.arange(1, size * length + 1))
    assert np.array_equal(inputs + 1, targets)


def test_sequences_do_not_cross_from_one_source_to_another() -> None:
    dataset = TokenDataset(numbered(501, 307), 10, "test")
    inputs, targets = epoch(dataset)
    assert (np.diff(inputs, axis=1) == 1).all()
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert (inputs[:, 0] // 10_000).tolist().count(1) == 30


def test_epochs_differ_in_order_and_not_in_content() -> None:
    dataset = TokenDataset(numbered(501, 307, weights=(1.0, 2.0)), 10, "test")
    one, two = (epoch(dataset, number=number)[0][:, 0] for number in (0, 1))
    assert np.array_equal(np.sort(one), np.sort(two))
    assert not np.array_equal(one, two)


@given(
    microbatch=st.integers(1, 4),
    num_slots=st.integers(1, 8),
    step=st.integers(1, 60),
    cuts=st.sets(st.integers(1, 7)),
)
def test_pods_of_any_cut_hold_the_whole_batch_together(
    microbatch: int, num_slots: int, step: int, cuts: set[int]
) -> None:
    dataset = TokenDataset(numbered(301, 207, weights=(1.5, 0.7)), 10, "test")
    positions = BatchPlan(((1, microbatch * num_slots),)).positions(step)
    whole, _ = dataset.rows(5, positions)
    bounds = sorted({0, num_slots, *(cut for cut in cuts if cut < num_slots)})
    parts = [
        dataset.rows(5, slot_positions(positions, slot, microbatch))[0]
        for first, end in pairwise(bounds)
        for slot in range(first, end)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_steps_may_cross_epochs_and_data_lasts_to_the_last_whole_batch() -> None:
    dataset = TokenDataset(numbered(101), 10, "test")
    plan = BatchPlan(((1, 4),))
    steps = dataset.num_steps(3, plan)
    assert steps == 30 // 4
    read = [dataset.rows(0, plan.positions(step))[0][:, 0] for step in range(1, steps + 1)]
    seen = np.bincount(np.concatenate(read) // 10, minlength=10)
    assert seen.sum() == 28
    assert seen.min() >= 2
    assert seen.max() == 3


def test_data_that_does_not_fill_a_batch_is_an_error_with_the_numbers() -> None:
    dataset = TokenDataset(numbered(101), 10, "test")
    with pytest.raises(DataError, match="'s0': 2 x 10 sequences do not fill one batch of 32"):
        dataset.num_steps(2, BatchPlan(((1, 32), (2, 16))))
    skipping = BatchPlan(((1, 16),), ((3, 8),))
    with pytest.raises(
        DataError, match=r"2 x 10 sequences, without those .* skipped, .* batch of 16"
    ):
        dataset.num_steps(2, skipping)
    assert dataset.num_steps(3, skipping) == 1


@given(draw=st.data(), seed=st.integers(0, 2**32 - 1))
def test_one_epoch_trains_on_each_position_that_is_not_skipped_once_whatever_the_plan_and_pods(
    draw: st.DataObject, seed: int
) -> None:
    sizes = draw.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    weights = tuple(draw.draw(st.sampled_from([1.0, 0.5, 2.0, 1.7])) for _ in sizes)
    if not all(round(w * n) for w, n in zip(weights, sizes, strict=True)):
        weights = tuple(1.0 for _ in sizes)
    dataset = TokenDataset(numbered(*(10 * n + 1 for n in sizes), weights=weights), 10, "test")
    size = dataset.mixture.epoch_size
    plan = draw.draw(plans(microbatch=2, limit=size))

    trained: list[np.ndarray] = []
    sequences: list[np.ndarray] = []
    step = 0
    while plan.end(step) < size:
        step += 1
        positions, num_slots = plan.positions(step), plan.global_batch(step) // 2
        num_pods = draw.draw(st.integers(1, num_slots))
        for pod in range(num_pods):
            first, end = pod * num_slots // num_pods, (pod + 1) * num_slots // num_pods
            for slot in range(first, end):
                mine = slot_positions(positions, slot, 2)
                inside = mine < size
                trained.append(mine[inside])
                sequences.append(dataset.rows(seed, mine)[0][inside, 0])
    kept = [p for p in range(size) if not any(f <= p < e for f, e in plan.skipped)]
    assert np.concatenate([[], *trained]).tolist() == kept

    times = Counter(np.concatenate([[], *sequences]).astype(int).tolist())
    skipped = sorted({*range(size)} - {*kept})
    times.update(dataset.rows(seed, skipped)[0][:, 0].tolist())
    for source, (number, weight) in enumerate(zip(sizes, weights, strict=True)):
        seen = [times.pop(10_000 * source + 10 * sequence, 0) for sequence in range(number)]
        assert sum(seen) == round(weight * number)
        assert {*seen} <= {math.floor(weight), math.ceil(weight)}
    assert not times


def test_documents_end_with_end_of_document_and_decode_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grüße", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_text("tail")
    inputs, targets = epoch(open_dataset(data(f"{tmp_path}/*.txt"), 12))
    stream = np.append(inputs[0], targets[0, -1])
    end = ByteTokenizer.end_of_document
    assert stream.tolist() == [*"grüße".encode(), end, *b"tail", end]
    assert ByteTokenizer().decode(stream) == "grüßetail"


def test_digest_is_of_all_that_batches_depend_on_and_nothing_else(tmp_path: Path) -> None:
    for folder, tail in (("one", "cd"), ("two", "cd"), ("three", "cD")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("ab")
        (tmp_path / folder / "b").write_text(tail)
    one, two = data(f"{tmp_path}/one/*"), data(f"{tmp_path}/two/*", name="other")
    digest = open_dataset(one, 2).digest
    # Changing this number means that running jobs no longer agree with new workers.
    assert digest == "sha256:9ef800c8855399bb21cd55cdb2a6a2b015e50d7d715e104fd69e3497624a6031"
    assert open_dataset(two, 2).digest == digest
    assert open_dataset(one, 2, tmp_path / "cache").digest == digest
    others = [
        open_dataset(data(f"{tmp_path}/three/*"), 2),
        open_dataset(one, 3),
        open_dataset(data(f"{tmp_path}/one/*", weight=2.0), 2),
        open_dataset({"sources": one["sources"] * 2}, 2),
    ]
    assert len({digest, *(other.digest for other in others)}) == 5


def test_source_that_changed_gives_another_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    before = open_dataset(data(f"{tmp_path}/a"), 2, tmp_path / "cache").digest
    (tmp_path / "a").write_text("aftera")
    assert open_dataset(data(f"{tmp_path}/a"), 2, tmp_path / "cache").digest != before


def test_digest_covers_what_is_held_out_and_not_how_much_of_it_is_evaluated(
    tmp_path: Path,
) -> None:
    for name, content in (("a", "0123456789" * 10), ("b", "held out"), ("c", "held oUt")):
        (tmp_path / name).write_text(content)

    def digest(**section: Any) -> str:
        more = {"eval": section} if section else {}
        return open_dataset({**data(f"{tmp_path}/a"), **more}, 2).digest

    def apart(name: str) -> Any:
        return data(f"{tmp_path}/{name}")["sources"]

    different = [digest(), digest(share=0.1), digest(share=0.2), digest(sources=apart("a"))]
    different += [digest(sources=apart("b")), digest(sources=apart("c"))]
    assert len({*different}) == 6
    assert digest(share=0.1, sequences=2) == digest(share=0.1)
    # One sequence of 50 either way: nothing that is trained on or held out differs.
    assert digest(share=0.015) == digest(share=0.02)


def test_what_every_source_amounts_to_is_told_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 4)
    (tmp_path / "b.jsonl").write_text('{"text": "0123456789"}\n{"text": "0123456789"}\n')
    sources = [
        {"name": "a", "kind": "text", "paths": [f"{tmp_path}/a.txt"]},
        {"name": "b", "kind": "jsonl", "paths": [f"{tmp_path}/b.jsonl"], "weight": 2.5},
    ]
    with caplog.at_level(logging.INFO):
        dataset = open_dataset({"sources": sources}, 5)
    assert dataset.reports == [
        SourceReport("a", documents=1, tokens=41, sequences=8, epoch_sequences=8),
        SourceReport("b", documents=2, tokens=22, sequences=4, epoch_sequences=10),
    ]
    assert (
        "data source b: 2 documents, 22 tokens, 4 sequences of 5, 10 in an epoch of 18"
    ) in caplog.text
    assert len(caplog.records) == 2


def test_python_stdlib_opens_and_is_real_text() -> None:
    inputs, _ = epoch(open_dataset(data("python-stdlib:json/*.py"), 256))
    text = [ByteTokenizer().decode(row) for row in inputs]
    assert any("def loads(" in row for row in text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "parquet"}, "kind 'parquet' is not known"),
        ({"paths": ["/nowhere/*.txt"]}, "no file matches '/nowhere/"),
    ],
)
def test_bad_source_is_a_data_error_that_names_it(change: dict[str, Any], message: str) -> None:
    section = data("x", name="corpus")
    section["sources"][0].update(change)
    with pytest.raises(DataError, match=f"'corpus'.*{message}"):
        open_dataset(section, 8)


def test_too_little_text_is_a_data_error_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("short")
    with pytest.raises(DataError, match="6 tokens do not fill one sequence of 6"):
        open_dataset(data(f"{tmp_path}/a"), 6)


def test_weight_below_one_sequence_is_a_data_error_with_the_least() -> None:
    with pytest.raises(
        DataError, match=r"'s0': weight 0\.001 of 10 sequences .* raise its weight to 0\.1"
    ):
        TokenDataset(numbered(101, weights=(0.001,)), 10, "test")


def test_unknown_tokenizer_and_too_small_vocabulary_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("some text")
    section = data(f"{tmp_path}/a")
    with pytest.raises(DataError, match="kind 'words' is not known"):
        open_dataset({**section, "tokenizer": {"kind": "words"}}, 4)
    with pytest.raises(DataError, match="257 tokens do not fit in the model's vocab_size of 256"):
        open_dataset({**section, "vocab_size": 256}, 4)
    assert open_dataset({**section, "vocab_size": 257}, 4)
