import pytest

from controller.api.conversion import exchange_rule, normalise
from controller.api.exchange_rules import exchange_problems
from controller.api.spec import Spec
from tests.controller.rig import SPEC


@pytest.mark.parametrize(
    ("exchange", "field"),
    [
        ({"rounding": "stochastic"}, "rounding"),
        ({"dtype": "bfloat16", "rounding": "stochastic"}, "rounding"),
        ({"dtype": "int8", "reproducible": True}, "reproducible"),
        ({"dtype": "int4"}, "dtype"),
        ({"mode": "diloco", "reproducible": True}, "reproducible"),
        ({"mode": "streaming_diloco", "overlap": False}, "overlap"),
        ({"mode": "diloco", "dtype": "bfloat16", "rounding": "stochastic"}, "rounding"),
        ({"budget": 0.1}, "budget"),
        ({"mode": "full", "allow": []}, "allow"),
        ({"mode": "diloco", "allow": ["int8"]}, "allow"),
        ({"mode": "auto", "dtype": "int8"}, "dtype"),
        ({"mode": "auto", "dtype": "float32", "allow": ["int8"]}, "dtype"),
        ({"mode": "auto", "overlap": False}, "overlap"),
        ({"mode": "auto", "reproducible": True, "allow": ["bfloat16"]}, "reproducible"),
        ({"mode": "auto", "rounding": "stochastic", "allow": ["bfloat16"]}, "rounding"),
    ],
)
def test_what_contradicts_itself_is_refused(exchange, field) -> None:
    [problem] = exchange_problems({"exchange": exchange})
    assert problem.pointer == f"/exchange/{field}"
    assert problem.hint


@pytest.mark.parametrize(
    "exchange",
    [
        None,
        {},
        {"dtype": "int8", "rounding": "stochastic"},
        {"dtype": "int8", "error_feedback": True},
        {"dtype": "bfloat16", "error_feedback": False},
        {"reproducible": False},
        {"mode": "diloco"},
        {"mode": "auto"},
        {"mode": "auto", "dtype": "float32", "reproducible": True},
        {"mode": "auto", "budget": 0.1, "allow": ["bfloat16", "int8"], "rounding": "stochastic"},
        {"mode": "auto", "reproducible": False, "allow": ["int8"], "error_feedback": False},
        {"mode": "diloco", "dtype": "int4", "error_feedback": False},
        {"mode": "streaming_diloco", "dtype": "int4", "rounding": "stochastic"},
    ],
)
def test_what_fits_together_is_taken(exchange) -> None:
    assert exchange_problems({"exchange": exchange, "checkpoint": {"every": 10}}) == []
    # Written out with every default, it is taken again and means the same.
    spec = Spec.model_validate({**SPEC, "exchange": exchange or {}})
    written = normalise(spec)["exchange"]
    assert exchange_problems({"exchange": written}) == []
    again = Spec.model_validate({**SPEC, "exchange": written})
    assert (exchange_rule(again), normalise(again)["exchange"]) == (exchange_rule(spec), written)
