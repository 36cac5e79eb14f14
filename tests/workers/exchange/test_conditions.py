"""Texts that describe a link, and what no link can be."""

import pytest

from workers.exchange.conditions import (
    LinkConditions,
    parse_bandwidth,
    parse_conditions,
    parse_duration,
    parse_probability,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("200Mbit", 25e6), ("1Gbit", 125e6), ("800 kbit", 1e5), ("8bit", 1.0), ("2.5gbit", 312.5e6)],
)
def test_parse_bandwidth(text: str, value: float) -> None:
    assert parse_bandwidth(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("5ms", 0.005), ("250us", 0.00025), ("1s", 1.0), ("2m", 120.0)]
)
def test_parse_duration(text: str, value: float) -> None:
    assert parse_duration(text, "link latency") == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("0.1%", 0.001), ("50 %", 0.5), ("0%", 0.0)])
def test_parse_probability(text: str, value: float) -> None:
    assert parse_probability(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "200", "fast", "-1Mbit", "5ms", "1 Mbit/s", "٣Mbit"])
def test_parse_bandwidth_of_something_else_names_it_and_the_units(text: str) -> None:
    with pytest.raises(ValueError, match=r"link bandwidth .* units bit, kbit, Mbit, Gbit"):
        parse_bandwidth(text)


def test_parse_conditions_reads_all_that_is_given() -> None:
    texts = {
        "bandwidth": "200Mbit",
        "latency": "5ms",
        "jitter": "2ms",
        "stall-every": "30s",
        "stall": "500ms",
        "drop": "0.1%",
    }
    assert parse_conditions(texts) == LinkConditions(25e6, 0.005, 0.002, 30.0, 0.5, 0.001)
    assert parse_conditions(dict.fromkeys(texts, "")) == LinkConditions()


@pytest.mark.parametrize(
    ("name", "text", "example"),
    [
        ("bandwidth", "fast", "200Mbit"),
        ("latency", "5", "5ms"),
        ("jitter", "1Mbit", "2ms"),
        ("stall-every", "often", "30s"),
        ("stall", "-1s", "500ms"),
        ("drop", "0.1", "0.1%"),
        ("bandwidth", "0Mbit", "200Mbit"),
        ("stall-every", "0s", "30s"),
        ("drop", "100%", "0.1%"),
    ],
)
def test_parse_conditions_names_flag_value_and_example(name: str, text: str, example: str) -> None:
    with pytest.raises(ValueError, match=rf"--link-{name} '{text}' .*for example {example}"):
        parse_conditions({name: text})


@pytest.mark.parametrize(("name", "other"), [("stall", "stall-every"), ("stall-every", "stall")])
def test_parse_conditions_of_half_a_stall_names_the_other_half(name: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"--link-{name} 1s needs --link-{other} too"):
        parse_conditions({name: "1s"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bandwidth_bytes_per_second": 0.0}, "bandwidth must be positive"),
        ({"latency_seconds": -1.0}, "latency must not be negative"),
        ({"jitter_seconds": float("nan")}, "jitter must not be negative"),
        ({"stall_every_seconds": 1.0}, "stall-every and stall go together"),
        ({"stall_seconds": 1.0}, "stall-every and stall go together"),
        ({"drop_probability": 1.0}, "is a partition"),
    ],
)
def test_impossible_links_are_value_errors(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinkConditions(**fields)
