"""docker-compose.yml and the Dockerfile name what exists, and close what should be closed."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from landbridge.cli import build

ROOT = pathlib.Path(__file__).parents[2]

Document = dict[str, Any]


def load(name: str) -> Document:
    return YAML(typ="safe").load(ROOT / name)


COMPOSE = load("docker-compose.yml")
SERVICES: dict[str, Document] = COMPOSE["services"]
BUILT = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def options(service: str) -> Document:
    """What the command line of a service says, read by the real CLI."""
    name, *arguments = SERVICES[service]["command"]
    command = typer.main.get_command(build()).commands[name]
    with command.make_context(name, arguments) as context:
        return dict(context.params)


def test_services() -> None:
    assert list(SERVICES) == ["controller", "pod-0", "pod-1", "prometheus", "grafana"]


@pytest.mark.parametrize("name", SERVICES)
def test_references_exist(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("depends_on", [])) <= set(SERVICES)
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", BUILT)
def test_targets_are_stages_of_the_dockerfile(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (ROOT / build["dockerfile"]).samefile(ROOT / "deploy" / "Dockerfile")
    assert build["target"] in re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)


def test_images_have_a_version() -> None:
    pulled = [service["image"] for name, service in SERVICES.items() if name not in BUILT]
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in pulled), pulled


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_unset_secrets_are_errors_that_say_what_to_do() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / "deploy" / "example.env").read_text()
    used = re.findall(r"\$\{(\w+)([^}]*)\}", text)
    assert {name for name, _ in used} == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert all(rest == ":?is not set; copy deploy/example.env to .env" for _, rest in used)


@pytest.mark.parametrize("name", BUILT)
def test_our_containers_have_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_images_do_not_run_as_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    (base,) = [stage for stage in stages if " AS base\n" in stage]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", base, re.MULTILINE)
    finals = [stage for stage in stages if stage.startswith("base AS ")]
    assert len(finals) == 2
    assert all("\nHEALTHCHECK " in stage and "\nUSER" not in stage for stage in finals)


def test_command_lines_fit_together() -> None:
    controller = options("controller")
    assert controller["launcher"] == "none"
    grpc_port = controller["grpc"].rpartition(":")[2]
    state_dir = str(controller["state_dir"])
    for pod in ("pod-0", "pod-1"):
        worker = options(pod)
        assert worker["pod"] == pod
        assert worker["controller"] == f"controller:{grpc_port}"
        port = worker["listen"].rpartition(":")[2]
        assert worker["advertise"] == f"{pod}:{port}"
        assert f"127.0.0.1:{port}" in (ROOT / "deploy" / "check_worker.py").read_text()
        assert str(worker["state_dir"]) == state_dir
        assert SERVICES[pod]["volumes"] == [f"{pod}:{state_dir}"]
    (scrape,) = load("deploy/prometheus/prometheus.yml")["scrape_configs"]
    http_port = controller["http"].rpartition(":")[2]
    assert scrape["static_configs"][0]["targets"] == [f"controller:{http_port}"]
    assert scrape["honor_labels"] is True
    script = SERVICES["prometheus"]["entrypoint"][-1]
    assert f"> {scrape['authorization']['credentials_file']}\n" in script


def test_the_image_gets_what_it_copies() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copies for source in line.split()} - {"."}
    assert sources <= kept
    assert all((ROOT / name).exists() for name in kept)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= kept, "a package of ours would be missing from the images"


def test_dashboards_are_where_grafana_is_told_to_look() -> None:
    grafana = SERVICES["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    (provider,) = load("deploy/grafana/provisioning/dashboards/landbridge.yml")["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/job.json"
    (source,) = load("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_the_offline_file_changes_only_where_images_come_from() -> None:
    offline = load("deploy/offline/compose.yml")["services"]
    assert set(offline) == set(SERVICES)
    script = (ROOT / "deploy" / "offline" / "images.sh").read_text()
    made = set(re.findall(r"^image (\S+) ", script, re.MULTILINE))
    bases = {offline[name]["build"]["args"]["BASE_IMAGE"] for name in BUILT}
    assert bases | {offline["prometheus"]["image"]} == made
