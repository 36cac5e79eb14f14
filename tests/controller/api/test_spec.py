"""Every mistake in a job spec is named at once, where it is, with a way out."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import pytest

from controller.api.conversion import job_spec
from controller.api.documents import parse_json, parse_yaml
from controller.api.problems import ApiProblem, SpecProblem
from controller.api.spec import Spec
from controller.api.validation import validate
from controller.core.batch import BatchPhase
from controller.core.spikes import SpikePolicy
from tests.controller.rig import SPEC, spec


def check(document: Any) -> Spec:
    return validate(json.dumps(document), parse_json, check_data_paths=True)


def problems(document: Any) -> dict[str, SpecProblem]:
    with pytest.raises(ApiProblem) as caught:
        check(document)
    assert caught.value.status == 422
    return {problem.pointer: problem for problem in caught.value.errors}


def test_a_sound_spec_passes() -> None:
    assert check(SPEC).name == "tiny"


@pytest.mark.parametrize(
    ("document", "pointer", "code", "words"),
    [
        (spec(version=2), "/version", "invalid", "1"),
        (spec(name="has spaces"), "/name", "invalid", "match"),
        (spec(name=None), "/name", "missing", "give it"),
        (spec(train={"steps": 0}), "/train/steps", "invalid", "at least 1"),
        (spec(train={"steps": "20"}), "/train/steps", "type", "integer"),
        (spec(train={"steps": True}), "/train/steps", "type", "integer"),
        (spec(train={"global_batch": 15}), "/train/global_batch", "invalid", "such as 16"),
        (spec(train={"microbatch": None}), "/train/microbatch", "type", "integer"),
        (spec(train={"sequence_length": 0}), "/train/sequence_length", "invalid", "at least 1"),
        (spec(train={"seed": -1}), "/train/seed", "invalid", "at least 0"),
        (spec(train={"optimizer": {"kind": "adam"}}), "/train/optimizer/kind", "invalid", "adamw"),
        (spec(train={"stepz": 1}), "/train/stepz", "unknown-key", "did you mean 'steps'?"),
        (spec(placements={}), "/placements", "unknown-key", "did you mean 'placement'?"),
        (spec(model={"preset": "palm-tinny"}), "/model/preset", "invalid", "palm-tiny"),
        (spec(model={"num_layer": 2}), "/model/num_layer", "invalid", "num_layers"),
        (spec(model={"vocab_size": 200}), "/model/vocab_size", "invalid", "257"),
        (spec(placement={"pods": 5}), "/placement/pods", "invalid", "4 slots"),
        (spec(placement={"pods": {"min": 2}}), "/placement/pods/max", "missing", "give it"),
        (spec(placement={"pods": {"min": 3, "max": 2}}), "/placement/pods/min", "invalid", "swap"),
        (
            spec(placement={"pods": {"mix": 1, "max": 2}}),
            "/placement/pods/mix",
            "unknown-key",
            "min",
        ),
        (spec(placement={"mesh": {"data": 3}}), "/train/microbatch", "invalid", "multiple of 3"),
        (spec(data={"sources": []}), "/data/sources", "invalid", "at least 1"),
        (
            spec(data={"sources": [{"kind": "txt", "paths": ["/x"]}]}),
            "/data/sources/0/kind",
            "invalid",
            "'text'",
        ),
        (
            spec(data={"sources": [{"paths": ["python-stdlib:*.py"]}]}),
            "/data/sources/0/kind",
            "missing",
            "kind",
        ),
        (
            spec(data={"sources": [{"kind": "text", "paths": ["/nowhere/*.txt"]}]}),
            "/data/sources/0/paths/0",
            "no-such-file",
            "/nowhere",
        ),
        (
            spec(
                data={"sources": [{"kind": "text", "path": "x", "paths": ["python-stdlib:*.py"]}]}
            ),
            "/data/sources/0/path",
            "unknown-key",
            "did you mean 'paths'?",
        ),
        (
            spec(data={"sources": [{"kind": "jsonl", "paths": ["/nowhere/*.jsonl"]}]}),
            "/data/sources/0/paths/0",
            "no-such-file",
            "/nowhere",
        ),
        (
            spec(
                data={"sources": [{"kind": "jsonl", "paths": ["python-stdlib:*.py"], "field": ""}]}
            ),
            "/data/sources/0/field",
            "invalid",
            "at least 1",
        ),
        (
            spec(
                data={"sources": [{"kind": "text", "paths": ["python-stdlib:*.py"], "weight": 0}]}
            ),
            "/data/sources/0/weight",
            "invalid",
            "greater than 0",
        ),
        (
            spec(data={"tokenizer": {"kind": "words"}}),
            "/data/tokenizer/kind",
            "invalid",
            "'sentencepiece'",
        ),
        (
            spec(data={"tokenizer": {"kind": "sentencepiece"}}),
            "/data/tokenizer/path",
            "missing",
            "give it",
        ),
        (
            spec(data={"tokenizer": {"kind": "sentencepiece", "path": "/nowhere/tok.model"}}),
            "/data/tokenizer/path",
            "no-such-file",
            "landbridge tokenizer train",
        ),
        (spec(labels={"a b": "c"}), "/labels/a b", "invalid", "match"),
        (
            spec(placement={"wait_timeout": "10m"}),
            "/placement/wait_timeout",
            "invalid",
            "on_pod_loss: wait or shrink",
        ),
        ([1], "", "type", "mapping"),
        (None, "", "type", "mapping"),
    ],
)
def test_a_mistake_is_named(document: Any, pointer: str, code: str, words: str) -> None:
    found = problems(document)
    assert pointer in found, found
    problem = found[pointer]
    assert words in f"{problem.detail} {problem.hint}"
    assert problem.code == code
    assert problem.detail
    assert problem.hint


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (spec(placement={"selector": {"a": "b"}}), "/placement/selector"),
        (spec(queue="research"), "/queue"),
        (spec(priority=5), "/priority"),
        (spec(max_duration="2h"), "/max_duration"),
        (spec(restarts={"on_error": 3}), "/restarts"),
        (spec(model={"preset": None, "bundle": "sha256:x"}), "/model/bundle"),
    ],
)
def test_what_this_version_cannot_run_is_refused_by_name(document: Any, pointer: str) -> None:
    problem = problems(document)[pointer]
    assert problem.code == "not-available"
    assert "not available in this version" in problem.detail


def test_sources_of_every_kind_and_weight_and_a_tokenizer_pass(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "tok.model").write_text("")
    sources = [
        {"kind": "text", "paths": ["python-stdlib:*.py"], "weight": 0.5},
        {"kind": "array_record", "paths": [f"{tmp_path}/tok.model"]},
        {"kind": "jsonl", "paths": [f"{tmp_path}/*.jsonl"], "field": "body", "weight": 2},
    ]
    tokenizer = {"kind": "sentencepiece", "path": f"{tmp_path}/tok.model"}
    checked = check(spec(data={"sources": sources, "tokenizer": tokenizer}))
    assert [source.weight for source in checked.data.sources] == [0.5, 1.0, 2.0]


def test_all_mistakes_come_at_once() -> None:
    document = spec(
        naem=1,
        version=3,
        model={"preset": "palm-tiny", "remat": "sometimes"},
        train={"steps": "many", "global_batch": 15},
        exchange={"mode": "auto", "dtype": "int8"},
        data={"sources": [{"kind": "text", "paths": ["/nowhere"]}]},
    )
    assert set(problems(document)) == {
        "/naem",
        "/version",
        "/model/remat",
        "/train/steps",
        "/train/global_batch",
        "/exchange/dtype",
        "/data/sources/0/paths/0",
    }


def test_yaml_mistakes_have_line_and_column() -> None:
    text = "version: 1\nname: x\nmodel: {preset: palm-tiny}\ntrain:\n  steps: 0\n  stps: 1\n"
    with pytest.raises(ApiProblem) as caught:
        validate(text, parse_yaml, check_data_paths=False)
    places = {problem.pointer: (problem.line, problem.column) for problem in caught.value.errors}
    assert places["/train/steps"] == (5, 3)
    assert places["/train/stps"] == (6, 3)
    assert places["/train/microbatch"] == (4, 1)


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("a: 1\na: 2\n", "twice", (2, 1)),
        ("a: &x 1\nb: *x\n", "anchor", (1, 4)),
        ("a: !!python/object 1\n", "tag", (1, 4)),
        ("a: 1\n---\nb: 2\n", "second document", (2, 1)),
        ("a: [1, 2\n", "flow sequence", (2, 1)),
        ("[a]: 1\n", "no text", (1, 1)),
        ("a: \x07\n", "special characters", (None, None)),
    ],
)
def test_yaml_that_is_not_read(text: str, words: str, place: tuple[int | None, int | None]) -> None:
    with pytest.raises(ApiProblem) as caught:
        validate(text, parse_yaml, check_data_paths=False)
    (problem,) = caught.value.errors
    assert words in problem.detail
    assert (problem.line, problem.column) == place


def test_yaml_is_version_1_2() -> None:
    text = "a: yes\nb: 010\nc: 0o17\nd: 1e3\ne: ~\nf: 'true'\ng: True\nh: 2026-11-24\n"
    assert parse_yaml(text).value == {
        "a": "yes",
        "b": 10,
        "c": 15,
        "d": 1000.0,
        "e": None,
        "f": "true",
        "g": True,
        "h": "2026-11-24",
    }


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', "{", '{"a": ' + "9" * 5000 + "}", ""],
)
def test_json_that_is_not_read(text: str) -> None:
    with pytest.raises(ApiProblem) as caught:
        validate(text, parse_json, check_data_paths=False)
    assert [problem.code for problem in caught.value.errors] == ["syntax"]


@pytest.mark.parametrize(
    ("text", "parse"),
    [
        ("[" * 1000, parse_yaml),
        ("{a: " * 1000, parse_yaml),
        ("\n".join(" " * depth + "a:" for depth in range(1000)), parse_yaml),
        ("- " * 1000, parse_yaml),
        ("[a," * 300_000, parse_yaml),
        ("- a\n" * 200_000, parse_yaml),
        ("[" * 1000 + "]" * 1000, parse_json),
        ('{"a":' * 100_000, parse_json),
    ],
)
def test_deep_and_long_texts_are_refused_quickly(text: str, parse: Any) -> None:
    started = time.process_time()
    with pytest.raises(ApiProblem):
        validate(text, parse, check_data_paths=False)
    assert time.process_time() - started < 10


def test_conversion_writes_everything_out() -> None:
    converted = job_spec(check(SPEC), "the text")
    assert (converted.phases, converted.tokens_of(1)) == ((BatchPhase(1, 4),), 4096)
    assert (converted.min_pods, converted.max_pods, converted.devices_per_pod) == (2, 2, 1)
    assert converted.compute_dtype == "float32"
    request = json.loads(converted.program_request)
    assert set(request) == {"model", "train", "mesh", "exchange", "name"}
    assert request["exchange"] == {"segments": 4}
    assert request["mesh"] == {"data": 1, "model": 1}
    assert request["train"]["optimizer"]["kind"] == "adafactor"
    assert "clip_norm" in request["train"]["optimizer"]
    assert request["model"]["mlp_dim"] == 4 * request["model"]["model_dim"]
    data = json.loads(converted.data)
    assert data["tokenizer"] == {"kind": "bytes"}
    # Hosts know no model; without this they could not refuse a tokenizer that is too large.
    assert data["vocab_size"] == request["model"]["vocab_size"]
    assert json.loads(converted.document)["text"] == "the text"


def test_conversion_passes_the_segments_on() -> None:
    converted = job_spec(check(spec(exchange={"segments": 2})), "")
    assert json.loads(converted.program_request)["exchange"] == {"segments": 2}


def test_specs_that_mean_the_same_give_the_same_bytes() -> None:
    spelled_out = spec(exchange={"mode": "full"}, train={"optimizer": {"kind": "adafactor"}})
    first, second = (job_spec(check(document), "") for document in (SPEC, spelled_out))
    assert first == second


def test_sources_without_a_name_get_one() -> None:
    document = spec(data={"sources": [{"kind": "text", "paths": ["python-stdlib:*.py"]}]})
    sources = json.loads(job_spec(check(document), "").data)["sources"]
    assert sources[0]["name"] == "source-0"


@pytest.mark.parametrize(
    ("train", "pointer", "says"),
    [
        ({"global_batch": [[5, 16]]}, "/train/global_batch/0/0", "nothing before it"),
        ({"global_batch": [[0, 16], [0, 32]]}, "/train/global_batch/1/0", "does not come after 0"),
        ({"global_batch": [[0, 16], [9, 30]]}, "/train/global_batch/1/1", "not divisible"),
        ({"global_batch": [[0, 4], [9, 16]]}, "/placement/pods", "cannot be cut over 2 pods"),
        ({"eval": {}}, "/train/eval", "says not what to evaluate on"),
        ({"eval": {"share": 0.1, "sources": SPEC["data"]["sources"]}}, "/train/eval", "both given"),
        ({"eval": {"share": 0.1, "sequences": 2}}, "/train/eval/sequences", "do not fill"),
        ({"eval": {"share": 1.5}}, "/train/eval/share", "less than 1"),
        ({"spikes": {}}, "/train/spikes", "writes none"),
        ({"spikes": {"skip_steps": 100}}, "/train/spikes/skip_steps", "do not reach the spike"),
    ],
)
def test_rules_of_training_are_told_with_their_place(
    train: dict[str, Any], pointer: str, says: str
) -> None:
    problem = problems(spec(train=train))[pointer]
    assert says in problem.detail
    assert problem.hint


def test_the_best_checkpoint_needs_an_evaluation() -> None:
    found = problems(spec(checkpoint={"keep_best": True}))
    assert "lowest held-out loss" in found["/checkpoint/keep_best"].detail


def test_conversion_of_a_recipe_reaches_the_core_and_the_hosts() -> None:
    document = spec(
        train={
            "global_batch": [[0, 16], [100, 32]],
            "eval": {"every": 20, "share": 0.05, "sequences": 8},
            "spikes": {"rewind_steps": 40},
        },
        checkpoint={"every": 10, "keep_every": 50, "keep_best": True},
    )
    converted = job_spec(check(document), "the text")
    assert converted.phases == (BatchPhase(1, 4), BatchPhase(101, 8))
    assert converted.evaluate_every == 20
    assert json.loads(converted.data)["eval"] == {"share": 0.05, "sequences": 8}
    assert converted.spikes == SpikePolicy(10.0, 64, 40, 200, 3)
    kept = (converted.checkpoint_keep, converted.checkpoint_keep_every)
    assert kept == (3, 50) and converted.checkpoint_keep_best
