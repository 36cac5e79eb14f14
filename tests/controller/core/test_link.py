"""Texts and links; what both sides of the wire make of them is in tests/contracts."""

from __future__ import annotations

import pytest

from controller.core.link import LinkConditions, NotALink, parse_conditions

EVERYTHING = {
    "bandwidth": "200Mbit",
    "latency": "5ms",
    "jitter": "2ms",
    "stall-every": "30s",
    "stall": "500ms",
    "drop": "0.1%",
}


def test_conditions_are_read_from_texts_and_written_as_them() -> None:
    link = parse_conditions(EVERYTHING, is_partitioned=True)
    assert link == LinkConditions(25e6, 0.005, 0.002, 30.0, 0.5, 0.001, True)
    assert link.texts() == EVERYTHING
    assert str(link) == (
        "bandwidth 200Mbit, latency 5ms, jitter 2ms, stall-every 30s, stall 500ms, drop 0.1%,"
        " partitioned"
    )


def test_what_is_empty_or_none_is_no_limit() -> None:
    link = parse_conditions({"bandwidth": "", "latency": None, "drop": "0%"})
    assert link == LinkConditions()
    assert set(link.texts().values()) == {None}
    assert str(link) == "no limits"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"bandwidth": "0.5bit"}, "bandwidth 0.5bit"),
        ({"bandwidth": "1500 kbit"}, "bandwidth 1.5Mbit"),
        ({"latency": "0.25us"}, "latency 0.25us"),
        ({"latency": "90s"}, "latency 1.5m"),
    ],
)
def test_texts_have_the_largest_unit_that_fits(given: dict[str, str], written: str) -> None:
    assert str(parse_conditions(given)) == written


@pytest.mark.parametrize(
    ("texts", "name", "message"),
    [
        ({"bandwidth": "fast"}, "bandwidth", "'fast' is not a number with one of the units bit, "),
        ({"drop": "0.1"}, "drop", "'0.1' is not a number with the unit %"),
        ({"bandwidth": "0bit"}, "bandwidth", "'0bit' is not more than 0"),
        ({"stall-every": "0s", "stall": "1s"}, "stall-every", "'0s' is not more than 0"),
        ({"drop": "100%"}, "drop", "a link on which nothing arrives is a partition"),
        ({"stall": "1s"}, "stall-every", "--link-stall 1s needs --link-stall-every too"),
        ({"stall-every": "1s"}, "stall", "--link-stall-every 1s needs --link-stall too"),
    ],
)
def test_what_is_no_link_is_named_with_an_example(
    texts: dict[str, str], name: str, message: str
) -> None:
    with pytest.raises(NotALink, match=message) as raised:
        parse_conditions(texts)
    assert raised.value.name == name
    assert raised.value.hint == f"write for example {EVERYTHING[name]}"
    assert str(raised.value) == f"{raised.value.detail}; {raised.value.hint}"
