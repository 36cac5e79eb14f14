"""The command line: exit codes, JSON that is nothing but JSON, and a quick start."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest

from controller.core import commands
from controller.core.link import LinkConditions
from landbridge.cli import build, main
from tests.controller.rig import SPEC, Rig, spec
from tests.landbridge.conftest import Run

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "palm-tiny.yaml"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def spec_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SPEC))
    return str(path)


@pytest.fixture
def bad_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nname: x\ntrain:\n  stepz: 3\n")
    return str(path)


async def finish(controller: Rig, job_id: str, *, diverge: bool = False) -> None:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    await controller.start(job_id)
    if diverge:
        await controller.step_apart(job_id, 10)
    else:
        await controller.step(job_id, *range(1, 21))


async def submitted(controller: Rig) -> str:
    """The id of the one job there is, once it is there."""
    async with asyncio.timeout(20):
        while not controller.loop.state.jobs:
            await controller.loop.changed()
    return next(iter(controller.loop.state.jobs))


async def test_the_example_is_valid(run: Run, address: str) -> None:
    ran = await run("validate", str(EXAMPLE), "--address", address)
    assert (ran.code, ran.out) == (0, f"{EXAMPLE} is valid\n")


async def test_submit_prints_the_id_and_nothing_else(
    run: Run, address: str, controller: Rig, spec_file: str
) -> None:
    ran = await run("submit", spec_file, "--address", address)
    assert ran.code == 0
    assert ran.out.strip() in controller.loop.state.jobs
    assert "follow it with: landbridge job" in ran.err


async def test_submit_with_a_key_submits_once(
    run: Run, address: str, controller: Rig, spec_file: str
) -> None:
    first, second = [
        await run("submit", spec_file, "--key", "k", "--address", address) for _ in range(2)
    ]
    assert first.out == second.out
    assert len(controller.loop.state.jobs) == 1


async def test_an_invalid_spec_is_3_and_names_lines(run: Run, address: str, bad_file: str) -> None:
    for command in ("submit", "validate", "plan"):
        ran = await run(command, bad_file, "--address", address)
        assert (ran.code, ran.out) == (3, "")
        assert "4:3: /train/stepz: unknown key 'stepz' (did you mean 'steps'?)" in ran.err


async def test_exit_codes(run: Run, address: str, controller: Rig) -> None:
    job_id = await controller.submit()
    await finish(controller, job_id)
    assert (await run("job", "nobody", "--address", address)).code == 4
    assert (await run("cancel", job_id, "--address", address)).code == 7
    assert (await run("jobs", "--address", NOWHERE)).code == 6
    assert (await run("jobs", "--nonsense")).code == 2
    assert (await run("submit", "/no/such/file")).code == 2
    assert (await run("nonsense")).code == 2


async def test_a_job_is_shown_with_its_data_and_what_held_out_text_says(
    run: Run, address: str, controller: Rig
) -> None:
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    job_id = await controller.submit()
    bare = await run("job", job_id, "--address", address)
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 11))
    await controller.evaluate(job_id, 10, loss=1.5)
    ran = await run("job", job_id, "--address", address)
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "held-out loss 1.5000 at step 10" in lines
    assert "data books 30.7 k of 61.4 k tokens" in lines
    assert not any(line.startswith(("rewinds", "checkpoint")) for line in lines)
    assert "held-out" not in bare.out and "data" not in bare.out


async def test_a_token_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    from tests.controller.rig import rig, serving

    folder = tmp_path / "guarded"
    folder.mkdir()
    async with rig(folder, token="t") as guarded, serving(guarded) as url:
        assert (await run("jobs", "--address", url)).code == 5
        monkeypatch.setenv("LANDBRIDGE_TOKEN", "t")
        assert (await run("jobs", "--address", url)).code == 0
        monkeypatch.delenv("LANDBRIDGE_TOKEN")
        config = tmp_path / "config" / "landbridge" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'address = "{url}"\ntoken = "t"\n')
        assert (await run("jobs")).code == 0
        # The environment comes before the file, and the flag before both.
        monkeypatch.setenv("LANDBRIDGE_ADDRESS", NOWHERE)
        assert (await run("jobs")).code == 6
        assert (await run("jobs", "--address", url)).code == 0


async def test_wait_succeeds_with_the_job(
    run: Run, address: str, controller: Rig, spec_file: str
) -> None:
    waiting = asyncio.create_task(
        run("submit", spec_file, "--wait", "--json", "--address", address)
    )
    await finish(controller, await submitted(controller))
    ran = await waiting
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == "SUCCEEDED"
    assert "succeeded" in ran.err


async def test_wait_fails_with_the_job(
    run: Run, address: str, controller: Rig, spec_file: str
) -> None:
    waiting = asyncio.create_task(run("submit", spec_file, "--wait", "--address", address))
    await finish(controller, await submitted(controller), diverge=True)
    ran = await waiting
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "other bits" in ran.out


async def test_wait_times_out(run: Run, address: str, controller: Rig, spec_file: str) -> None:
    ran = await run("submit", spec_file, "--wait", "--timeout", "0.3", "--address", address)
    assert ran.code == 124
    assert len(controller.loop.state.jobs) == 1


async def test_an_interrupted_wait_detaches(address: str, controller: Rig, spec_file: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "landbridge", "submit", spec_file, "--wait"),
        env={**os.environ, "LANDBRIDGE_ADDRESS": address},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    while b"pending" not in said:
        said += await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = await process.communicate()
    assert process.returncode == 130
    assert b"detached; the job goes on" in rest
    (job,) = controller.loop.state.jobs.values()
    assert job.state == "PENDING"


async def test_events_are_followed_to_the_end(run: Run, address: str, controller: Rig) -> None:
    job_id = await controller.submit()
    following = asyncio.create_task(
        run("events", job_id, "--follow", "--json", "--address", address)
    )
    await finish(controller, job_id)
    ran = await following
    assert ran.code == 0
    kinds = [json.loads(line)["kind"] for line in ran.out.splitlines()]
    assert kinds[0] == "job.submitted"
    assert kinds[-1] == "job.succeeded"
    assert len(kinds) == len(set(kinds)) or kinds.count("job.waiting") > 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs",),
        ("jobs", "--state", "running", "--label", "a=b"),
        ("job", "JOB"),
        ("job", "nobody"),
        ("steps", "JOB"),
        ("steps", "JOB", "--points", "5"),
        ("events", "JOB"),
        ("cancel", "JOB"),
        ("retry", "JOB"),
        ("checkpoint", "JOB"),
        ("checkpoints", "JOB"),
        ("pods",),
        ("drain", "pod-0"),
        ("undrain", "nobody"),
        ("links",),
        ("links", "set", "pod-0", "--partition"),
        ("links", "set", "pod-0"),
        ("version",),
        ("submit", "SPEC"),
        ("submit", "BAD"),
        ("submit", "SPEC", "--wait", "--timeout", "0.1"),
        ("validate", "SPEC"),
        ("validate", "BAD"),
        ("plan", "SPEC"),
        ("plan", "/no/such/file"),
        ("jobs", "--state", "sideways"),
        ("jobs", "--nonsense"),
        ("up", "--http", "nonsense"),
        ("worker",),
        ("nonsense",),
    ],
)
async def test_json_is_nothing_but_json(
    run: Run,
    address: str,
    controller: Rig,
    spec_file: str,
    bad_file: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setenv("LANDBRIDGE_ADDRESS", address)
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    job_id = await controller.submit(spec(name="shown"))
    names = {"JOB": job_id, "SPEC": spec_file, "BAD": bad_file}
    ran = await run(*(names.get(item, item) for item in arguments), "--json")
    document: dict[str, Any] = json.loads(ran.out)
    assert ("error" in document) == (ran.code != 0)
    if ran.code != 0:
        assert document["error"]["detail"]


async def test_tables_are_readable(run: Run, address: str, controller: Rig) -> None:
    job_id = await controller.submit()
    await finish(controller, job_id)
    await controller.hear("pod-0", "pod-1", 2_000_000, 1.0, 0)
    shown = {
        name: (await run(*name.split(), "--address", address)).out
        for name in ("jobs", f"job {job_id}", f"steps {job_id}", "pods", "links", "version")
    }
    assert "20/20" in shown["jobs"]
    assert "digest dddd" in shown[f"job {job_id}"]
    assert shown[f"steps {job_id}"].splitlines()[1].split()[:2] == ["1", "2.5000"]
    assert "pod-0" in shown["pods"]
    assert "2 MB/s" in shown["links"]
    assert "controller" in shown["version"]


async def test_pod_is_drained_and_used_again(
    run: Run, address: str, controller: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_ADDRESS", address)
    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    ran = await run("drain", "pod-1")
    assert ran.out == "pod-1 is DRAINED\n"
    ran = await run("undrain", "pod-1", "--json")
    assert json.loads(ran.out)["withheld"] is None
    await run("drain", "pod-0")
    withheld = [pod["withheld"] for pod in json.loads((await run("pods", "--json")).out)["pods"]]
    message = "pod-0 is drained by a request to the API"
    assert withheld == [{"code": "Drained", "message": message}, None]
    ran = await run("drain", "pod-9")
    assert ran.code == 4 and "no pod is called 'pod-9'" in ran.err


async def test_links_set_changes_what_is_named_and_keeps_the_rest(
    run: Run, address: str, controller: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_ADDRESS", address)
    await controller.attach_pod("pod-0")
    await controller.emulate("pod-0", LinkConditions(25e6, 0.005, 0.001))
    assert "pod-0     bandwidth 200Mbit, latency 5ms, jitter 1ms" in (await run("links")).out
    ran = await run("links", "set", "pod-0", "--latency", "10ms", "--jitter", "none", "--partition")
    assert ran.out == "pod-0 sends under: bandwidth 200Mbit, latency 10ms, partitioned\n"
    order = controller.commands[-1]
    assert isinstance(order, commands.SetLinkConditions)
    assert order.conditions == LinkConditions(25e6, 0.01, is_partitioned=True)
    await controller.emulate("pod-0", order.conditions)
    ran = await run("links", "set", "pod-0", "--no-partition", "--bandwidth", "none", "--json")
    assert json.loads(ran.out)["conditions"]["latency"] == "10ms"
    assert (
        order
        != controller.commands[-1]
        == dataclasses.replace(order, conditions=LinkConditions(latency_seconds=0.01))
    )


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("pod-0", "--jitter", "5"), 3, "jitter '5' is not a number"),
        (("pod-0",), 2, "--bandwidth 200Mbit"),
        (("pod-1", "--partition"), 7, "--link-emulator"),
        (("pod-9", "--partition"), 4, "no pod is called 'pod-9'"),
    ],
)
async def test_links_set_says_what_cannot_be_done(
    run: Run, address: str, controller: Rig, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    await controller.attach_pod("pod-0")
    await controller.emulate("pod-0", LinkConditions())
    await controller.attach_pod("pod-1")
    ran = await run("links", "set", *arguments, "--address", address)
    assert ran.code == code
    assert complaint in ran.err


async def test_links_set_waits_for_no_pod_that_is_changing_over(
    run: Run, address: str, controller: Rig
) -> None:
    await controller.attach_hosts("pod-0", 2)
    await controller.emulate("pod-0", LinkConditions())
    await controller.emulate("pod-0", LinkConditions(latency_seconds=1.0), index=1)
    ran = await run("links", "set", "pod-0", "--partition", "--address", address)
    assert ran.code == 1 and "ask again in a moment" in ran.err
    assert "changing over" in (await run("links", "--address", address)).out


def test_every_command_takes_json() -> None:
    app = build()
    groups = [group.typer_instance for group in app.registered_groups]
    assert {group.info.name for group in groups} == {"links", "tokenizer"}
    grouped = [command for group in groups for command in group.registered_commands]
    for command in [*app.registered_commands, *grouped]:
        assert command.callback is not None
        assert "json" in command.callback.__annotations__, command.callback.__name__


def test_help_needs_no_controller(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_the_configuration_file_of_up_is_checked(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "up.toml"
    path.write_text("podz = 3\n")
    assert main(["up", "--config", str(path)]) == 2
    assert "unknown key 'podz'" in capsys.readouterr().err


def test_listening_to_everybody_needs_a_token(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LANDBRIDGE_TOKEN", raising=False)
    assert main(["up", "--http", "0.0.0.0:0", "--state-dir", str(tmp_path)]) == 2
    assert "LANDBRIDGE_TOKEN" in capsys.readouterr().err


def test_a_command_imports_nothing_heavy_and_little_besides_its_libraries() -> None:
    """Of the 0.25 s that a command takes, 0.2 s are those of typer and pydantic. Modules are
    counted because times of so short a process vary by half between runs of the suite."""
    command = _modules("import landbridge.cli; landbridge.cli.main(['jobs', '--help'])")
    libraries = _modules("import typer, typer._adapters, pydantic")
    heavy = {*("jax", "ray", "numpy", "grpc", "fastapi", "sqlalchemy", "httpx2", "rich")}
    assert command & {*heavy, "controller", "workers"} == set()
    # 12 of our own, the rest from the standard library: 60 altogether.
    assert len(command - libraries) <= 75


def _modules(code: str) -> set[str]:
    """Those that a process has loaded once it has run `code`."""
    code = f"{code}; import sys; print('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded")[2].split())


async def test_a_plan_needs_no_controller(
    run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(spec(assume={"device": "h100", "mfu": 0.4})))
    ran = await run("plan", str(path), "--local", "--json")
    assert ran.code == 0
    alone = json.loads(ran.out)
    assert alone["bytes_per_device"]["total"] > 0 < alone["hardware_flops_per_token"]
    monkeypatch.setattr("landbridge.client.DEFAULT_ADDRESS", NOWHERE)
    fallen_back = await run("plan", str(path), "--json")
    assert (fallen_back.code, json.loads(fallen_back.out)) == (0, alone)
    assert fallen_back.err == f"no controller at {NOWHERE}: planned here, as with --local\n"


async def test_where_neither_controller_nor_its_rules_are_the_controller_is_missed(
    run: Run, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landbridge.client.DEFAULT_ADDRESS", NOWHERE)
    monkeypatch.setitem(sys.modules, "controller.api.documents", None)
    ran = await run("plan", spec_file)
    assert (ran.code, ran.out) == (6, "")
    assert "planned here" not in ran.err
    ran = await run("plan", spec_file, "--local")
    assert (ran.code, "pip install 'landbridge[controller,worker]'" in ran.err) == (1, True)


async def test_a_plan_without_pods_to_ask_about_warns_of_none(
    run: Run, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(spec()))
    ran = await run("plan", str(path), "--local", "--json")
    assert json.loads(ran.out)["warnings"] == []


async def test_a_controller_that_was_named_is_not_done_without(
    run: Run, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await run("plan", spec_file, "--address", NOWHERE)).code == 6
    monkeypatch.setenv("LANDBRIDGE_ADDRESS", NOWHERE)
    assert (await run("plan", spec_file)).code == 6
    assert (await run("plan", spec_file, "--local")).code == 0


async def test_a_local_plan_names_what_is_wrong_by_line(run: Run, bad_file: str) -> None:
    ran = await run("plan", bad_file, "--local")
    assert (ran.code, ran.out) == (3, "")
    assert "4:3: /train/stepz: unknown key 'stepz' (did you mean 'steps'?)" in ran.err


async def test_a_plan_shows_what_is_known_and_says_what_the_rest_needs(
    run: Run, address: str, tmp_path: pathlib.Path
) -> None:
    assume = {"device": "h100", "mfu": 0.4}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(spec(assume=assume)))
    ran = await run("plan", str(path), "--address", address)
    assert ran.code == 0
    assert "needs assume.link_bytes_per_second" in ran.out
    path.write_text(json.dumps(spec(assume={**assume, "link_bytes_per_second": 1e9})))
    ran = await run("plan", str(path), "--address", address)
    assert "needs assume" not in ran.out
    (scaling,) = [line.split() for line in ran.out.splitlines() if line.startswith("weak")]
    assert 0.0 < float(scaling[2].removesuffix("x")) <= 2.0
