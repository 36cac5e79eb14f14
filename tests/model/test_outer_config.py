import pytest

from model.config import problems
from model.outer_config import OuterConfig


def exchange(mode: str, **outer):
    return {"mode": mode, "outer": outer} if outer else {"mode": mode}


def found(mode: str, num_layers: int = 4, **outer) -> dict[str, str]:
    request = {
        "model": {"preset": "palm-tiny", "num_layers": num_layers},
        "train": {"microbatch": 4, "sequence_length": 64},
        "mesh": {},
        "exchange": exchange(mode, **outer),
    }
    return {problem.pointer: f"{problem.detail}: {problem.hint}" for problem in problems(request)}


def test_a_mode_that_exchanges_after_every_step_has_no_outer_optimizer():
    assert OuterConfig.from_spec({}, 4) is None
    assert OuterConfig.from_spec({"mode": "full"}, 4) is None


def test_diloco_synchronises_everything_at_once():
    config = OuterConfig.from_spec(exchange("diloco", every=50), 4)
    assert config == OuterConfig(every=50, learning_rate=0.7, momentum=0.9)
    assert (config.fragments, config.delay, config.mixing) == (1, 0, 0.0)


def test_streaming_has_as_many_fragments_as_layers_and_steps_allow():
    def fragments(num_layers, **outer):
        return OuterConfig.from_spec(exchange("streaming_diloco", **outer), num_layers).fragments

    assert fragments(118) == 4
    assert fragments(2) == 2
    assert fragments(118, every=3) == 3
    assert fragments(118, fragments=12) == 12


def test_streaming_applies_a_fragment_before_it_sends_the_next():
    for every in (1, 3, 8, 25):
        config = OuterConfig.from_spec(exchange("streaming_diloco", every=every), 16)
        assert config.delay <= every // config.fragments
    assert config.delay == 5


@pytest.mark.parametrize("mode", ["diloco", "streaming_diloco"])
def test_what_was_written_out_is_what_it_says(mode):
    config = OuterConfig.from_spec({"mode": mode}, 4)
    fields = {field: getattr(config, field) for field in config.__slots__}
    assert OuterConfig.from_spec(exchange(mode, **fields), 4) == config
    assert found(mode, **fields) == {}


@pytest.mark.parametrize(
    ("mode", "outer", "pointer", "words"),
    [
        ("full", {"every": 10}, "", "leave it out, or use mode: diloco or streaming_diloco"),
        ("diloco", {"everyy": 10}, "/everyy", "did you mean 'every'?"),
        ("diloco", {"every": 0}, "/every", "a value from 1"),
        ("diloco", {"momentum": 1.0}, "/momentum", "0.9999"),
        ("diloco", {"fragments": 2}, "/fragments", "use mode: streaming_diloco"),
        ("diloco", {"delay": 1}, "/delay", "use mode: streaming_diloco"),
        ("diloco", {"mixing": 0.5}, "/mixing", "use mode: streaming_diloco"),
        ("streaming_diloco", {"fragments": 5}, "/fragments", "5 fragments of 4 layers"),
        ("streaming_diloco", {"fragments": 4, "every": 3}, "/fragments", "of 3 steps"),
        ("streaming_diloco", {"fragments": 4, "every": 20, "delay": 6}, "/delay", "from 0 to 5"),
    ],
)
def test_a_mistake_is_named_with_what_to_write(mode, outer, pointer, words):
    assert words in found(mode, **outer)[f"/exchange/outer{pointer}"]


def test_a_section_that_is_none_is_named():
    request = {"mode": "diloco", "outer": 3}
    sections = {"model": {"preset": "palm-tiny"}, "train": {"microbatch": 4, "sequence_length": 64}}
    (problem,) = problems({**sections, "mesh": {}, "exchange": request})
    assert problem.pointer == "/exchange/outer"
