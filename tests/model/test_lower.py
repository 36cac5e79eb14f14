import json
import os
import pathlib
import subprocess
import sys

import pytest

import model.lower

ROOT = pathlib.Path(model.lower.__file__).parents[1]

REQUEST = {
    "name": "tiny",
    "model": {"preset": "palm-tiny", "num_layers": 1},
    "train": {"microbatch": 2, "sequence_length": 32, "optimizer": {"kind": "adafactor"}},
    "mesh": {"data": 2, "model": 1},
    "platform": "cpu",
}


def lower(tmp_path, request, **environment):
    path = tmp_path / "request.json"
    path.write_text(request if isinstance(request, str) else json.dumps(request))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "model.lower", str(path), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=100,
        check=False,
    )


def last_line(process):
    return json.loads(process.stdout.splitlines()[-1])


def test_lower_from_other_directories_and_processes_gives_the_same_bytes(tmp_path):
    answers = []
    for seed in ("1", "2"):
        directory = tmp_path / f"elsewhere-{seed}"
        directory.mkdir()
        # A checkout under another path, too.
        (directory / "model").symlink_to(ROOT / "model")
        process = lower(directory, REQUEST, PYTHONHASHSEED=seed, PYTHONPATH=str(directory))
        assert process.returncode == 0, process.stderr
        answers.append(last_line(process))
    contents = [pathlib.Path(answer["path"]).read_bytes() for answer in answers]
    assert contents[0] == contents[1]
    assert answers[0]["digest"] == answers[1]["digest"]
    assert answers[0]["bytes"] == len(contents[0])
    assert str(ROOT).encode() not in contents[0]
    assert b".py" not in contents[0]


@pytest.mark.parametrize(
    ("request_text", "pointers"),
    [
        (
            REQUEST | {"mesh": {"data": 3}, "platform": "abacus"},
            ["/train/microbatch", "/model/model_dim", "/platform"],
        ),
        ({}, ["/model", "/train", "/mesh", "/platform", "/name"]),
        ("[]", [""]),
        ("{", [""]),
        ("[" * 100_000, [""]),
    ],
)  # fmt: skip
def test_lower_wrong_request_exits_three_with_all_problems(tmp_path, request_text, pointers):
    process = lower(tmp_path, request_text)
    assert process.returncode == 3, process.stderr
    assert [problem["pointer"] for problem in last_line(process)["problems"]] == pointers
    assert list(tmp_path.glob("*.bundle")) == []


def test_lower_directory_that_cannot_be_written_exits_one_with_a_traceback(tmp_path):
    (tmp_path / "blocked").write_text("a file where a directory should go")
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST))
    process = subprocess.run(
        [sys.executable, "-m", "model.lower", str(path), "--out", str(tmp_path / "blocked")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert process.returncode == 1
    assert "FileExistsError" in process.stderr
