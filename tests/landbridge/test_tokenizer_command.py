"""`landbridge tokenizer train`: from paths or a job spec to a model that a job can use."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from landbridge.cli import main
from tests.controller.rig import spec
from workers.data.sentencepiece_tokenizer import SentencePieceTokenizer

SOURCES = [{"name": "json", "kind": "text", "paths": ["python-stdlib:json/*.py"]}]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tok.model"


def train(*what: str, out: Path, size: int = 600) -> int:
    return main(["tokenizer", "train", *what, "--vocab-size", str(size), "--out", str(out)])


def answered(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_paths_become_a_model_and_a_line_for_the_spec(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("python-stdlib:json/*.py", out=out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"tokenizer: {{kind: sentencepiece, path: {out}}}\n"
    assert "trained 600 tokens on 5 documents" in captured.err
    assert SentencePieceTokenizer(str(out)).vocab_size == 600


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_spec_gives_its_sources_before_its_tokenizer_is_there(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"spec.{suffix}"
    tokenizer = {"kind": "sentencepiece", "path": str(out)}
    # JSON is YAML too.
    path.write_text(json.dumps(spec(data={"sources": SOURCES, "tokenizer": tokenizer})))
    assert train(str(path), "--json", out=out) == 0
    answer = answered(capsys)
    assert (answer["path"], answer["documents"]) == (str(out), 5)
    assert answer["sha256"] in SentencePieceTokenizer(str(out)).identity
    assert train("python-stdlib:json/*.py", "--json", out=out) == 0
    assert answered(capsys) == answer


def test_json_lines_are_read_by_their_field(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"body": f"line {n} of the text that is trained on"}) for n in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert train(f"{tmp_path}/a.jsonl", "--field", "body", "--json", out=out, size=285) == 0
    assert answered(capsys)["documents"] == 200
    assert train(f"{tmp_path}/a.jsonl", out=out) == 1
    assert "a.jsonl line 1: no field 'text'" in capsys.readouterr().err


def test_invalid_spec_is_3_and_names_places(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nname: x\ntrain:\n  stepz: 3\n")
    assert train(str(path), out=out) == 3
    assert "4:3: /train/stepz: unknown key" in capsys.readouterr().err
    assert not out.exists()


def test_mistakes_on_the_command_line_are_2(tmp_path: Path, out: Path) -> None:
    assert train(f"{tmp_path}/absent.yaml", out=out) == 2
    assert train("python-stdlib:json/*.py", out=out / "no" / "folder") == 2
    assert train("python-stdlib:json/*.py", out=out, size=100) == 2
    assert main(["tokenizer", "train", "--vocab-size", "600", "--out", str(out)]) == 2


def test_missing_library_names_the_extra(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert train("python-stdlib:json/*.py", out=out) == 1
    assert "pip install 'landbridge[worker]'" in capsys.readouterr().err


def test_group_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "tokenizer" in capsys.readouterr().out
    assert main(["tokenizer", "train", "--help"]) == 0
    assert "SPEC|PATH..." in capsys.readouterr().out
