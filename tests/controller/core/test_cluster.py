from __future__ import annotations

import dataclasses

import pytest

from controller.core.cluster import Assignment, Host, Pod, PodState
from tests.controller.core.world import inventory, ref


def _host(index: int = 0, **held: object) -> Host:
    return Host(ref("pod-0", index), "l", "c", 1, 0.0, inventory=inventory(**held))


def _bare(index: int = 0) -> Host:
    return Host(ref("pod-0", index), "l", "c", 1, 0.0)


def test_host_ref_shown_to_people_names_index_and_pod() -> None:
    assert str(ref("pod-3", 1)) == "host 1 of pod-3"


@pytest.mark.parametrize(
    ("hosts", "state"),
    [
        ({}, PodState.FORMING),
        ({0: _host()}, PodState.FORMING),
        ({0: _host(), 1: _bare(1)}, PodState.FORMING),
        ({0: _host(), 1: _host(1)}, PodState.READY),
    ],
)
def test_pod_of_two_hosts_is_ready_once_all_have_taken_stock(
    hosts: dict[int, Host], state: PodState
) -> None:
    assert Pod("pod-0", 2, hosts).state is state


@pytest.mark.parametrize(
    ("hosts", "state"),
    [
        ({}, PodState.LOST),
        ({0: _host(), 1: _bare(1)}, PodState.LOST),
        ({0: _host(), 1: _host(1)}, PodState.READY),
    ],
)
def test_pod_given_up_is_lost_until_it_is_whole(hosts: dict[int, Host], state: PodState) -> None:
    assert Pod("pod-0", 2, hosts, is_given_up=True).state is state


def test_pod_with_an_assignment_is_busy_whatever_its_hosts() -> None:
    assert Pod("pod-0", 2, {}, Assignment("job-1", 1)).state is PodState.BUSY


def test_pod_sums_devices_and_peak_over_its_hosts() -> None:
    pod = Pod("pod-0", 2, {0: _host(devices=2), 1: _host(1, devices=2)})
    assert pod.num_devices == 4
    assert pod.peak_flops_per_second("float32") == 100e9


def test_peak_is_absent_when_any_host_has_none_or_nobody_is_there() -> None:
    assert (
        Pod("pod-0", 2, {0: _host(), 1: _host(1, peak=None)}).peak_flops_per_second("float32")
        is None
    )
    assert Pod("pod-0", 1, {0: _host()}).peak_flops_per_second("bfloat16") is None
    assert Pod("pod-0", 1).peak_flops_per_second("float32") is None


def test_pod_with_and_without_a_host_leaves_the_original_alone() -> None:
    empty = Pod("pod-0", 1)
    full = empty.with_host(_bare())
    assert full.hosts == {0: _bare()}
    assert full.without_host(0) == empty
    assert full.with_host(dataclasses.replace(_bare(), pid=2)).hosts[0].pid == 2
