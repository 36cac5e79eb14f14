"""The lab of namespaces: what reaches what, and that nothing of it is left."""

import os
import shutil
import socket
import subprocess

import pytest

from benchmarks import namespaces

made = pytest.mark.usefixtures("namespaces_are_possible")

DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def left_of_this_process() -> list[str]:
    """Namespaces and interfaces that carry its number."""
    said = [
        subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
        for what in (("netns", "list"), ("-o", "link"))
    ]
    return [line for text in said for line in text.splitlines() if f"lb{os.getpid()}." in line]


@made
def test_namespaces_reach_each_other_themselves_and_a_server_outside() -> None:
    with namespaces.lab(2) as lab, socket.create_server((lab.control_address, 0)) as outside:
        for index, other in ((0, 1), (1, 0)):
            lab.run(
                index, "python3", "-c", DIAL, lab.control_address, str(outside.getsockname()[1])
            )
            routes = lab.run(index, "ip", "route", "get", lab.namespaces[other].link_address)
            assert "dev link" in routes
            assert "LOWER_UP" in lab.run(index, "ip", "-o", "link", "show", "lo")
            with pytest.raises(RuntimeError, match="ConnectionRefused"):
                lab.run(index, "python3", "-c", DIAL, lab.namespaces[other].link_address, "9")


@made
def test_the_rate_is_in_force_at_both_ends_and_can_be_another() -> None:
    with namespaces.lab(2, 20e6) as lab:
        for rate in ("20Mbit", "100Mbit"):
            if rate == "100Mbit":
                lab.throttle(100e6)
            for index in (0, 1):
                shown = lab.run(index, "tc", "qdisc", "show", "dev", "link")
                assert "tbf" in shown and f"rate {rate}" in shown
                hub = ["tc", "-n", lab.hub, "qdisc", "show", "dev", f"port{index}"]
                said = subprocess.run(hub, capture_output=True, text=True, check=True).stdout
                assert f"rate {rate}" in said


@made
def test_nothing_is_left_after_an_exception_and_labs_do_not_meet() -> None:
    with pytest.raises(KeyError), namespaces.lab(1) as one, namespaces.lab(2) as other:
        assert one.control_address != other.control_address
        command = other.namespaces[0].command(["sh", "-c", "echo; exec sleep 1000"])
        sleeper = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert sleeper.stdout is not None and sleeper.stdout.readline()
        assert left_of_this_process()
        raise KeyError
    assert sleeper.wait(10) == -9
    sleeper.communicate()
    assert left_of_this_process() == []


@made
def test_a_command_that_fails_is_shown_with_what_it_said() -> None:
    with namespaces.lab(1) as lab, pytest.raises(RuntimeError, match=r"ip netns exec .* No such"):
        lab.run(0, "ls", "/nowhere")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    remedy = r"ip and tc not found; install .*iproute2"
    with pytest.raises(namespaces.NoNamespaces, match=remedy), namespaces.lab(1):
        pass
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(namespaces.NoNamespaces, match="root only"), namespaces.lab(1):
        pass
