"""Controller and workers read the same texts as the same link, and refuse the same in the same
words."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import link
from workers.exchange import conditions

NUMBERS = st.from_regex(r"\d{1,6}(\.\d{1,3})?", fullmatch=True)
UNITS = st.sampled_from(["bit", "kbit", "Mbit", "Gbit", "us", "ms", "s", "m", "%", "MB", ""])
TEXTS = st.one_of(st.builds("".join, st.tuples(NUMBERS, UNITS)), st.text(max_size=5))


def read(parse, texts: dict[str, str]) -> dict[str, float] | str:  # type: ignore[no-untyped-def]
    try:
        return dataclasses.asdict(parse(texts))
    except ValueError as error:
        return str(error)


@given(st.dictionaries(st.sampled_from(sorted(link.EXAMPLES)), TEXTS))
def test_any_texts_mean_the_same_to_both(texts: dict[str, str]) -> None:
    assert read(link.parse_conditions, texts) == read(conditions.parse_conditions, texts)


@pytest.mark.parametrize("name", link.EXAMPLES)
def test_every_example_is_a_link(name: str) -> None:
    texts = {name: link.EXAMPLES[name]}
    if name.startswith("stall"):
        texts |= {"stall": "500ms", "stall-every": "30s"}
    read_ones = link.parse_conditions(texts)
    assert read_ones != link.LinkConditions()
    assert read_ones.texts()[name] == link.EXAMPLES[name]


@given(st.builds(
    conditions.LinkConditions,
    bandwidth_bytes_per_second=st.one_of(st.none(), st.floats(1, 1e12)),
    latency_seconds=st.one_of(st.just(0.0), st.floats(1e-6, 100)),
    drop_probability=st.one_of(st.just(0.0), st.floats(1e-3, 0.9)),
))  # fmt: skip
def test_any_link_written_out_is_read_back(known: conditions.LinkConditions) -> None:
    texts = link.LinkConditions(**dataclasses.asdict(known)).texts()
    again = conditions.parse_conditions({name: text or "" for name, text in texts.items()})
    assert again.latency_seconds == pytest.approx(known.latency_seconds, rel=1e-5)
    assert again.drop_probability == pytest.approx(known.drop_probability, rel=1e-3)
    bandwidth = known.bandwidth_bytes_per_second or 0.0
    assert (again.bandwidth_bytes_per_second or 0.0) == pytest.approx(bandwidth, rel=1e-5)
