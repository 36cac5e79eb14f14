from __future__ import annotations

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment, Pod, PodState, Traffic
from controller.core.job import JobState
from controller.core.membership import _may_be_anothers
from tests.controller.core.world import World, attached, inventory, pid, ref, two_pods


def _running(pods: int = 2, hosts: int = 1) -> World:
    world = World()
    for index in range(pods):
        world.pod_joins(f"pod-{index}", hosts)
    world.start(devices_per_pod=hosts)
    return world


def test_pod_of_one_host_is_assembled_when_it_attaches() -> None:
    world = World()
    world.happens(attached(ref("pod-0")))
    assert world.outcome.commands == (commands.AssembleHost(ref("pod-0"), "", "pod-0:0", "a"),)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_pod_of_two_hosts_is_assembled_by_its_lead_when_complete(order: tuple[int, int]) -> None:
    world = World()
    world.happens(attached(ref("pod-0", order[0]), 2))
    assert not world.outcome.commands
    world.happens(attached(ref("pod-0", order[1]), 2))
    assert world.outcome.commands == (
        commands.AssembleHost(ref("pod-0", 0), "pod-0:90", "pod-0:0", "a"),
        commands.AssembleHost(ref("pod-0", 1), "pod-0:90", "pod-0:0", "a"),
    )


def test_pod_is_ready_when_its_last_host_has_taken_stock() -> None:
    world = World()
    for index in (0, 1):
        world.happens(attached(ref("pod-0", index), 2))
    world.happens(events.HostInventoried(ref("pod-0", 1), inventory()))
    assert world.state.pods["pod-0"].state is PodState.FORMING
    world.happens(events.HostInventoried(ref("pod-0", 0), inventory()))
    assert world.state.pods["pod-0"].state is PodState.READY
    assert world.outcome.entries[0].message == "pod-0 is ready: 2 x cpu"


def test_reason_to_wait_follows_the_pods_as_they_form_and_go() -> None:
    world = World()
    world.submit(min_pods=1, devices_per_pod=2)
    told = [world.job().reason.message]
    for event in (
        attached(ref("pod-0", 0), 2),
        attached(ref("pod-0", 1), 2),
        events.HostInventoried(ref("pod-0", 1), inventory()),
        events.HostDetached(ref("pod-0", 0), "gone"),
    ):
        world.happens(event)
        told.append(world.job().reason.message.partition("; ")[2])
    assert told == [
        "needs 1 pod of 2 devices; the fleet has no pods",
        "0 free; pod-0 has 0 of 2 hosts ready",
        "0 free; pod-0 has 0 of 2 hosts ready",
        "0 free; pod-0 has 1 of 2 hosts ready",
        "0 free; pod-0 has 0 of 2 hosts ready",
    ]


def test_host_that_disagrees_on_the_size_of_its_pod_is_dismissed() -> None:
    world = World()
    world.happens(attached(ref("pod-0", 0), 2))
    world.happens(attached(ref("pod-0", 1, "b"), 3))
    (order,) = world.ordered(commands.DismissHost)
    assert order.host == ref("pod-0", 1, "b")
    assert order.reason == "pod-0 has 2 hosts, this one says 3"
    assert list(world.state.pods["pod-0"].hosts) == [0]


def test_empty_pod_may_form_anew_with_another_size() -> None:
    world = World()
    world.pod_joins("pod-0")
    world.happens(events.HostDetached(ref("pod-0"), "gone"))
    world.pod_joins("pod-0", hosts=2, incarnation="b")
    assert world.state.pods["pod-0"].num_hosts == 2
    assert world.state.pods["pod-0"].state is PodState.READY


def test_new_process_takes_the_place_of_the_old_which_is_dismissed() -> None:
    world = _running()
    new = ref("pod-1", incarnation="b")
    world.happens(attached(new))
    assert world.job().reason.message == (
        f"host 0 of pod-1 (pid {pid(ref('pod-1'))}) was lost at step 0: "
        "host 0 of pod-1 dialled again"
    )
    assert ref("pod-1") in [order.host for order in world.ordered(commands.DismissHost)]
    assert world.state.pods["pod-1"].hosts[0].ref == new
    assert world.state.pods["pod-1"].assignment is None


def test_same_process_that_dials_again_lost_its_job_and_is_not_dismissed() -> None:
    world = _running()
    world.happens(attached(ref("pod-1")))
    assert world.job().reason.code == "PodLost"
    assert not world.ordered(commands.DismissHost)
    host = world.state.pods["pod-1"].hosts[0]
    assert host.holds is None and host.inventory is None


def test_old_process_changes_nothing() -> None:
    world = World()
    world.pod_joins("pod-0", incarnation="b")
    before = world.state
    old = ref("pod-0", incarnation="a")
    for event in (
        events.HostInventoried(old, inventory(devices=8)),
        events.HostHeard(old, {"pod-1": Traffic(1, 1.0, 1)}),
        events.HostDetached(old, "late"),
    ):
        world.happens(event)
    assert world.state == before


def test_host_heard_brings_its_traffic() -> None:
    world = two_pods()
    world.now += 5.0
    world.happens(events.HostHeard(ref("pod-0"), {"pod-1": Traffic(7, 0.5, 1)}))
    host = world.state.pods["pod-0"].hosts[0]
    assert host.last_heard == world.now and host.traffic == {"pod-1": Traffic(7, 0.5, 1)}


@pytest.mark.parametrize("state", [JobState.ADMITTED, JobState.STARTING, JobState.RUNNING])
def test_pod_lost_fails_the_job_in_any_state_and_frees_the_rest(state: JobState) -> None:
    world = two_pods()
    world.submit()
    if state is not JobState.ADMITTED:
        world.lower()
    if state is JobState.RUNNING:
        for host in world.hosts():
            world.ready(host)
    assignment = world.assignment()
    assert world.job().state is state
    world.happens(events.HostDetached(ref("pod-1"), "host 0 of pod-1 closed its connection"))
    assert world.job().state is JobState.FAILED and world.job().reason.code == "PodLost"
    assert "host 0 of pod-1 (pid 207) was lost" in world.job().reason.message
    assert world.state.pods["pod-1"].assignment is None
    if state is JobState.ADMITTED:
        assert world.ordered(commands.AbandonLowering)
    else:
        assert [order.host for order in world.ordered(commands.StopHost)] == [ref("pod-0")]
        world.release(ref("pod-0"), assignment)
    assert world.state.pods["pod-0"].state is PodState.READY


def test_pod_lost_while_cancelling_counts_as_having_let_go() -> None:
    world = _running()
    assignment = world.assignment()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    assert world.job().state is JobState.CANCELLING
    world.release(ref("pod-0"), assignment)
    assert world.job().state is JobState.CANCELLED


def test_pod_of_two_hosts_is_restarted_as_a_whole_with_the_lost_process() -> None:
    world = _running(hosts=2)
    world.happens(events.HostDetached(ref("pod-1", 1), "gone"))
    assert world.job().reason.code == "PodLost"
    assert [order.host for order in world.ordered(commands.DismissHost)] == [ref("pod-1", 0)]
    (restart,) = world.ordered(commands.RestartPod)
    assert restart.pod == "pod-1"
    assert restart.pids == (pid(ref("pod-1", 0)), pid(ref("pod-1", 1)))
    assert world.state.pods["pod-1"].hosts == {}
    assert world.state.pods["pod-1"].assignment is None
    assert world.state.pods["pod-0"].assignment is not None


def test_forming_pod_that_loses_its_only_host_restarts_nobody() -> None:
    world = World()
    world.happens(attached(ref("pod-0", 0), 2))
    world.happens(events.HostDetached(ref("pod-0", 0), "gone"))
    assert not world.outcome.commands


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("fetch", "BundleUnavailable"),
        ("data", "DataError"),
        ("compile", "CompileFailed"),
        ("compute", "ComputeFailed"),
        ("exchange", "LinkDown"),
    ],
)
def test_fault_without_a_suspect_fails_the_job_with_its_phase(phase: str, code: str) -> None:
    world = _running()
    fault = events.JobFaulted(ref("pod-1"), world.assignment(), phase, 3, "it broke", "")
    world.happens(fault)
    assert world.job().reason.code == code
    assert world.job().reason.message == "host 0 of pod-1 at step 3: it broke"


def test_fault_before_the_first_step_names_no_step() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    fault = events.JobFaulted(ref("pod-1"), world.assignment(), "compile", 0, "it broke", "")
    world.happens(fault)
    assert world.job().reason.message == "host 0 of pod-1: it broke"


def _suspect(world: World, host: str, peer: str) -> None:
    fault = events.JobFaulted(ref(host), world.assignment(), "exchange", 3, "no answer", peer)
    world.happens(fault)


def test_link_fault_waits_for_the_peer_to_explain_it() -> None:
    world = _running()
    _suspect(world, "pod-0", "pod-1")
    assert world.job().state is JobState.RUNNING and world.noted() == ["job.suspected"]
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    assert world.job().reason.code == "PodLost" and "pod-1" in world.job().reason.message


def test_link_fault_after_the_peer_was_lost_changes_nothing() -> None:
    world = _running()
    assignment = world.assignment()
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    before = world.state
    world.happens(events.JobFaulted(ref("pod-0"), assignment, "exchange", 3, "none", "pod-1"))
    assert world.state == before and not world.outcome.changed_jobs


def test_link_fault_that_nobody_explains_fails_the_job_after_the_grace() -> None:
    world = _running()
    _suspect(world, "pod-0", "pod-1")
    world.passes(1.0)
    _suspect(world, "pod-1", "pod-0")
    world.passes(1.0)
    assert world.state.jobs
    world.passes(0.1)
    assert world.job().reason.code == "LinkDown"
    assert world.job().reason.message == "host 0 of pod-0 at step 3: no answer"


def test_fault_with_a_cause_overrules_a_suspicion() -> None:
    world = _running()
    _suspect(world, "pod-0", "pod-1")
    fault = events.JobFaulted(ref("pod-1"), world.assignment(), "compute", 3, "out of memory", "")
    world.happens(fault)
    assert world.job().reason.code == "ComputeFailed"


def test_faults_while_cancelling_do_not_count() -> None:
    world = _running()
    _suspect(world, "pod-0", "pod-1")
    world.happens(events.CancelRequested("job-1", "ada"))
    assert world.job().suspicion is None
    _suspect(world, "pod-0", "pod-1")
    world.passes(2.5)
    assert world.job().state is JobState.CANCELLING


def test_host_that_leaves_early_is_suspected_and_then_blamed() -> None:
    world = _running()
    world.release(ref("pod-1"), world.assignment(), applied_step=2)
    assert world.job().state is JobState.RUNNING and world.noted() == ["job.left_early"]
    world.release(ref("pod-0"), world.assignment(), applied_step=2)
    assert world.noted() == []
    world.passes(2.5)
    assert world.job().reason.code == "LeftEarly"
    assert world.job().reason.message == "host 0 of pod-1 left after 2 of 4 steps"
    assert all(pod.assignment is None for pod in world.state.pods.values())


def test_release_by_strangers_frees_nobody() -> None:
    world = _running()
    assignment = world.assignment()
    world.happens(events.CancelRequested("job-1", "ada"))
    before = world.state
    for stranger in (ref("pod-0", incarnation="b"), ref("pod-9"), ref("pod-0", 1)):
        world.release(stranger, assignment)
    world.release(ref("pod-0"), type(assignment)("job-2", 1))
    assert world.state == before


def test_pod_of_two_hosts_is_free_when_both_have_let_go() -> None:
    world = _running(hosts=2)
    assignment = world.assignment()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.release(ref("pod-0", 0), assignment)
    assert world.state.pods["pod-0"].assignment == assignment
    world.release(ref("pod-0", 1), assignment)
    assert world.state.pods["pod-0"].assignment is None


def test_pod_that_does_not_let_go_is_restarted_and_the_cancel_ends() -> None:
    world = _running()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.release(ref("pod-0"), world.assignment())
    world.passes(3.0)
    assert world.job().state is JobState.CANCELLING
    world.passes(0.25)
    (restart,) = world.ordered(commands.RestartPod)
    assert (restart.pod, restart.pids) == ("pod-1", (pid(ref("pod-1")),))
    assert [order.host for order in world.ordered(commands.DismissHost)] == [ref("pod-1")]
    assert world.job().state is JobState.CANCELLED


@pytest.mark.parametrize("hosts", [1, 2])
def test_silent_host_costs_the_job_and_its_pod_is_restarted_once(hosts: int) -> None:
    world = _running(hosts=hosts)
    for _ in range(16):
        world.now += 1.0
        for index in range(hosts):
            world.happens(events.HostHeard(ref("pod-0", index), {}))
        world.happens(events.Ticked())
    assert world.job().reason.message == (
        "host 0 of pod-1 (pid 207) was lost at step 0: "
        "host 0 of pod-1 was silent for 16 s, 15 s are allowed"
    )
    (restart,) = world.ordered(commands.RestartPod)
    assert restart.pids == tuple(pid(ref("pod-1", index)) for index in range(hosts))
    assert world.state.pods["pod-1"].hosts == {}


def test_idle_silent_host_is_lost_without_a_job() -> None:
    world = World()
    world.pod_joins("pod-0")
    world.passes(16.0, heard=False)
    assert world.state.pods["pod-0"].state is PodState.FORMING
    assert world.ordered(commands.RestartPod)


def test_absence_of_the_controller_is_nobodys_silence() -> None:
    world = _running()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.passes(1.0)
    world.now += 60.0
    world.happens(events.Ticked())
    assert world.noted() == ["controller.absent"] and not world.outcome.commands
    world.passes(2.5)
    assert world.job().state is JobState.CANCELLING
    world.passes(1.0)
    assert world.job().state is JobState.CANCELLED


def _pod_1_goes() -> World:
    """Of two pods one is lost; job-1 waits for both, job-2 behind it for one."""
    world = two_pods()
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    world.submit("job-1")
    world.submit("job-2", min_pods=1, max_pods=1)
    return world


def test_pod_that_does_not_come_back_is_lost_and_holds_up_nobody() -> None:
    world = _pod_1_goes()
    world.passes(120.0)
    assert world.state.pods["pod-1"].state is PodState.FORMING
    assert world.job("job-1").reason.code == "WaitingForPods"
    assert world.job("job-2").reason.code == "WaitingForTurn"
    world.passes(0.25)
    assert world.state.pods["pod-1"].state is PodState.LOST
    assert world.noted()[0] == "pod.lost"
    assert world.job("job-1").reason.code == "DoesNotFit"
    assert world.job("job-1").reason.message.endswith("pod-1 is lost with 0 of 1 host ready")
    assert world.job("job-2").state is JobState.ADMITTED
    world.passes(1.0)
    assert "pod.lost" not in world.noted()


def test_lost_pod_that_comes_back_is_used_as_usual() -> None:
    world = _pod_1_goes()
    world.happens(events.CancelRequested("job-2", "ada"))
    world.passes(121.0)
    assert world.state.pods["pod-1"].state is PodState.LOST
    world.happens(attached(ref("pod-1", incarnation="b")))
    assert world.state.pods["pod-1"].state is PodState.FORMING
    assert world.job("job-1").reason.code == "WaitingForPods"
    world.happens(events.HostInventoried(ref("pod-1", incarnation="b"), inventory()))
    assert list(world.job("job-1").gang) == ["pod-0", "pod-1"]


def test_every_host_that_comes_or_takes_stock_gives_a_pod_more_time() -> None:
    world = World()
    for event in (
        attached(ref("pod-0", 0), 2),
        attached(ref("pod-0", 1), 2),
        events.HostInventoried(ref("pod-0", 0), inventory()),
    ):
        world.happens(event)
        world.passes(119.0)
        assert world.state.pods["pod-0"].state is PodState.FORMING
    world.passes(2.0)
    assert world.state.pods["pod-0"].state is PodState.LOST


def test_host_that_goes_is_no_sign_that_its_lost_pod_comes() -> None:
    world = World()
    world.happens(attached(ref("pod-0", 0), 2))
    world.passes(121.0)
    world.happens(events.HostDetached(ref("pod-0", 0), "gone"))
    assert world.state.pods["pod-0"].state is PodState.LOST


def test_pod_that_was_busy_for_long_gets_its_time_from_its_end() -> None:
    world = _running()
    world.passes(500.0)
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    world.passes(119.0)
    assert world.state.pods["pod-1"].state is PodState.FORMING


def test_pod_that_is_restarted_gets_its_time_from_the_restart() -> None:
    world = _running()
    world.passes(500.0)
    world.happens(events.CancelRequested("job-1", "ada"))
    world.passes(4.0)
    assert world.state.pods["pod-1"].hosts == {}
    world.passes(119.0)
    assert world.state.pods["pod-1"].state is PodState.FORMING


def test_absence_of_the_controller_counts_for_no_pod() -> None:
    world = _pod_1_goes()
    world.passes(100.0)
    world.now += 60.0
    world.happens(events.Ticked())
    world.passes(119.0)
    assert world.state.pods["pod-1"].state is PodState.FORMING


@pytest.mark.parametrize(
    ("hosts", "phase", "suspect", "may_be"),
    [
        (1, "compute", "", False),
        (1, "exchange", "", False),
        (1, "exchange", "pod-1", True),
        (1, "compile", "pod-1", True),
        (2, "compute", "", True),
        (2, "exchange", "", True),
        (2, "exchange", "pod-1", True),
        (2, "fetch", "", False),
        (2, "data", "", False),
        (2, "compile", "", False),
        (2, "compile", "pod-1", True),
    ],
)
def test_fault_may_be_anothers_when_it_names_a_peer_or_breaks_in_lockstep_with_neighbours(
    hosts: int, phase: str, suspect: str, may_be: bool
) -> None:
    fault = events.JobFaulted(ref("pod-0"), Assignment("job-1", 1), phase, 3, "it broke", suspect)
    assert _may_be_anothers(Pod("pod-0", hosts), fault) is may_be


def test_fault_in_lockstep_waits_for_the_neighbour_whose_end_caused_it() -> None:
    world = _running(hosts=2)
    fault = events.JobFaulted(ref("pod-1", 0), world.assignment(), "compute", 3, "aborted", "")
    world.happens(fault)
    assert world.job().state is JobState.RUNNING and world.noted() == ["job.suspected"]
    world.happens(events.HostDetached(ref("pod-1", 1), "gone"))
    assert world.job().reason.code == "PodLost"
    assert world.job().reason.message.startswith("host 1 of pod-1")


def test_pods_of_another_job_are_not_expected_to_let_go() -> None:
    world = two_pods()
    world.start("job-1", min_pods=1, max_pods=1)
    world.start("job-2", min_pods=1, max_pods=1)
    world.happens(events.CancelRequested("job-2", "ada"))
    assert world.state.pods["pod-0"].releasing_since is None
    assert world.state.pods["pod-1"].releasing_since == world.now
