"""`landbridge up` as a real process without pods: where it answers, and who may ask there."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

from landbridge.cli import main
from landbridge.local import LocalController, LocalControllerError, local_controller

NO_PODS = ("--pods", "0", "--launcher", "none")


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANDBRIDGE_TOKEN", "LANDBRIDGE_JOIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def up(folder: pathlib.Path, *arguments: str) -> Iterator[LocalController]:
    with local_controller(state_dir=folder, arguments=[*NO_PODS, *arguments]) as controller:
        yield controller


def test_metrics_are_at_the_port_of_the_api_unless_told_otherwise(tmp_path: pathlib.Path) -> None:
    with up(tmp_path) as controller:
        assert controller.metrics == f"{controller.address}/metrics"
        assert "landbridge_jobs" in httpx2.get(controller.metrics).text


def test_metrics_port_serves_the_metrics_and_nothing_else(tmp_path: pathlib.Path) -> None:
    with up(tmp_path, "--metrics-port", "0") as controller:
        base = controller.metrics.removesuffix("/metrics")
        assert base != controller.address
        answer = httpx2.get(controller.metrics)
        assert answer.status_code == 200
        assert "landbridge_jobs" in answer.text
        for path in ("/", "/api/v1/jobs", "/livez", "/login", "/static/", "/metrics/x"):
            answer = httpx2.get(base + path)
            assert answer.status_code == 404, path
            assert "serves /metrics alone" in answer.json()["detail"]
        posted = httpx2.post(f"{base}/api/v1/jobs", json={})
        assert posted.status_code == 404
        assert httpx2.get(f"{controller.address}/api/v1/jobs").status_code == 200
        assert controller.stop() == 0


def test_metrics_port_asks_for_the_token_of_the_api(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_TOKEN", "t")
    with up(tmp_path, "--metrics-port", "0") as controller:
        assert httpx2.get(controller.metrics).status_code == 401
        for token, status in (("x", 401), ("t", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx2.get(controller.metrics, headers=headers).status_code == status


def test_metrics_port_beyond_this_machine_needs_a_token(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--metrics-port", "0", "--state-dir", str(tmp_path)]
    assert main(["up", *NO_PODS, "--http", "0.0.0.0:0", *arguments]) == 2
    assert "LANDBRIDGE_TOKEN" in capsys.readouterr().err


def test_metrics_port_that_is_taken_is_named(tmp_path: pathlib.Path) -> None:
    with up(tmp_path / "first", "--metrics-port", "0") as first:
        port = httpx2.URL(first.metrics).port
        refused = pytest.raises(
            LocalControllerError, match=rf"cannot listen on 127\.0\.0\.1:{port}"
        )
        with refused, up(tmp_path / "second", "--metrics-port", str(port)):
            pass


def test_metrics_port_comes_from_the_configuration_file_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "up.toml"
    path.write_text("metrics_port = 0\n")
    with up(tmp_path / "state", "--config", str(path)) as controller:
        assert controller.metrics != f"{controller.address}/metrics"
        assert httpx2.get(controller.metrics).status_code == 200


def test_json_ready_line_tells_every_address(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "landbridge", "up", *NO_PODS, "--json"]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--state-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        at = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait() == 0
    assert set(at) == {"http", "grpc", "metrics"}
    assert at["metrics"] == f"{at['http']}/metrics"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('launcher = "rey"', "'local', 'ray', 'none'"),
        ("metrics_port = 70000", "65535"),
        ('http = "nonsense"', "write HOST:PORT"),
        ('link_jitter = "much"', "--link-jitter 'much' is not a number"),
        ('link_stall = "1s"', "--link-stall 1s needs --link-stall-every too"),
    ],
)
def test_what_up_cannot_be_told_is_a_usage_error(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], line: str, complaint: str
) -> None:
    path = tmp_path / "up.toml"
    path.write_text(f"{line}\n")
    assert main(["up", "--config", str(path), "--state-dir", str(tmp_path / "state")]) == 2
    assert complaint in capsys.readouterr().err
