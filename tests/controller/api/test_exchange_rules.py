import pytest

from controller.api.exchange_rules import exchange_problems

CHECKPOINT = {"every": 10}


@pytest.mark.parametrize(
    ("exchange", "checkpoint", "field"),
    [
        ({"rounding": "stochastic"}, None, "rounding"),
        ({"dtype": "bfloat16", "rounding": "stochastic"}, None, "rounding"),
        ({"dtype": "int8", "reproducible": True}, None, "reproducible"),
        ({"dtype": "int8"}, CHECKPOINT, "error_feedback"),
        ({"dtype": "bfloat16", "error_feedback": True}, CHECKPOINT, "error_feedback"),
        ({"dtype": "int4"}, None, "dtype"),
        ({"mode": "diloco", "reproducible": True}, None, "reproducible"),
        ({"mode": "streaming_diloco", "overlap": False}, None, "overlap"),
        ({"mode": "diloco", "dtype": "bfloat16", "rounding": "stochastic"}, None, "rounding"),
        ({"mode": "streaming_diloco", "dtype": "int4"}, CHECKPOINT, "error_feedback"),
    ],
)
def test_what_contradicts_itself_is_refused(exchange, checkpoint, field) -> None:
    [problem] = exchange_problems({"exchange": exchange, "checkpoint": checkpoint})
    assert problem.pointer == f"/exchange/{field}"
    assert problem.hint


@pytest.mark.parametrize(
    ("exchange", "checkpoint"),
    [
        (None, CHECKPOINT),
        ({}, CHECKPOINT),
        ({"dtype": "int8", "rounding": "stochastic"}, None),
        ({"dtype": "int8", "error_feedback": False}, CHECKPOINT),
        ({"reproducible": False}, CHECKPOINT),
        ({"mode": "diloco"}, CHECKPOINT),
        ({"mode": "diloco", "dtype": "int4", "error_feedback": False}, CHECKPOINT),
        ({"mode": "streaming_diloco", "dtype": "int4", "rounding": "stochastic"}, None),
    ],
)
def test_what_fits_together_is_taken(exchange, checkpoint) -> None:
    assert exchange_problems({"exchange": exchange, "checkpoint": checkpoint}) == []
