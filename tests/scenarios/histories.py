"""Named histories: what happens, and when. What is decided about it is in goldens/."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controller.core import events
from controller.core.batch import BatchPhase
from controller.core.cluster import HostRef, Traffic
from controller.core.spikes import SpikePolicy
from tests.controller.core.linked_pods import MBIT, LinkedPods
from tests.controller.core.world import PROGRAM, World, attached, inventory, record, ref


def two_pods_train_to_the_end(world: World) -> None:
    _two_pods(world)
    world.start(steps=100)
    for last in (32, 64, 96, 100):
        world.now += 5.0
        for host in world.hosts():
            if "job-1" in world.state.jobs:
                world.apply(host, range(last - 31 if last < 100 else 97, last + 1), digest="d" * 64)
    _let_go(world, applied_step=100)


def a_slow_link_is_met_with_fewer_bits(world: World) -> None:
    """1 Gbit/s, 100 and 10 Mbit/s, and back."""
    pods = LinkedPods(world)
    for rate in (1000, 100, 10, 1000):
        pods.run(40, rate * MBIT)


def jobs_wait_in_order_of_submission(world: World) -> None:
    _two_pods(world)
    world.start("job-1", min_pods=1, max_pods=1)
    world.submit("job-2", min_pods=2)
    world.submit("job-3", min_pods=1, max_pods=1)
    world.submit("job-4", devices_per_pod=8)
    world.now += 1.0
    world.apply(world.hosts("job-1")[0], range(1, 5))
    _let_go(world, applied_step=4)
    world.happens(events.CancelRequested("job-2", "ada"))


def jobs_share_a_fleet_on_disjoint_pods(world: World) -> None:
    for name in ("pod-0", "pod-1", "pod-2"):
        world.pod_joins(name)
    world.start("job-1", min_pods=2, max_pods=2)
    world.start("job-2", min_pods=1, max_pods=2)
    world.apply(world.hosts("job-2")[0], range(1, 5), job_id="job-2")
    _let_go(world, applied_step=4, pods=("pod-2",))
    world.submit("job-3", min_pods=1, max_pods=3)


def three_pods_take_uneven_slots(world: World) -> None:
    for name in ("pod-0", "pod-1", "pod-2"):
        world.pod_joins(name)
    world.submit(min_pods=1, max_pods=3, phases=(BatchPhase(1, 8),))
    world.lower()


def a_killed_worker_fails_the_job_and_the_next_runs(world: World) -> None:
    _two_pods(world)
    world.start()
    world.submit("job-2")
    world.apply(ref("pod-0"), (1, 2))
    world.now += 1.0
    world.happens(events.HostDetached(ref("pod-1"), "host 0 of pod-1 closed its connection"))
    _let_go(world, applied_step=2)
    world.now += 1.0
    world.pod_joins("pod-1", incarnation="b")


def a_lost_pod_is_waited_for_and_healed(world: World) -> None:
    """The survivor is a step ahead of the lost pod; another one is lost while it is healed."""
    _two_pods(world)
    world.start(on_pod_loss="wait", steps=100)
    world.apply(ref("pod-0"), (1, 2, 3))
    world.apply(ref("pod-1"), (1, 2))
    world.now += 1.0
    world.loses("pod-1")
    world.hold(ref("pod-0"), 3)
    world.now += 2.0
    world.pod_joins("pod-1", incarnation="b")
    world.now += 1.0
    world.loses("pod-1", incarnation="b")
    world.hold(ref("pod-0"), 3)
    world.now += 2.0
    world.pod_joins("pod-1", incarnation="c")
    for host in world.hosts():
        world.ready(host)
    for host in world.hosts():
        world.apply(host, (4, 5))


def a_gang_goes_on_with_fewer_pods_and_grows_back(world: World) -> None:
    for name in ("pod-0", "pod-1", "pod-2"):
        world.pod_joins(name)
    world.start(min_pods=3, max_pods=3, on_pod_loss="shrink", steps=100)
    for host in world.hosts():
        world.apply(host, (1, 2, 3))
    world.loses("pod-1")
    for pod in ("pod-0", "pod-2"):
        world.hold(ref(pod), 3)
    for host in world.hosts():
        world.ready(host)
    for host in world.hosts():
        world.apply(host, (4, 5))
    world.now += 8.0
    (back,) = world.pod_joins("pod-1", incarnation="b")
    world.now += 4.0
    world.happens(events.HostWarmed(back, PROGRAM.digest))
    for pod in ("pod-0", "pod-2"):
        world.hold(ref(pod), 5)
    for host in world.hosts():
        world.ready(host)


def a_gang_that_is_lost_as_a_whole_goes_back_to_its_checkpoint(world: World) -> None:
    _two_pods(world)
    world.start(on_pod_loss="wait", steps=100, checkpoint_every=2)
    for host in world.hosts():
        world.apply(host, (1, 2, 3))
    _save(world, 2)
    world.loses("pod-0")
    world.loses("pod-1")
    for pod in ("pod-0", "pod-1"):
        world.pod_joins(pod, incarnation="b")
    world.lower()
    for host in world.hosts():
        world.ready(host)


def a_lost_peer_explains_a_broken_link(world: World) -> None:
    """The survivor reports first; the peer's own end follows and names the cause."""
    _two_pods(world)
    world.start()
    _link_fault(world, ref("pod-0"), "pod-1")
    world.release(ref("pod-0"), world.assignment())
    world.now += 0.5
    world.happens(events.HostDetached(ref("pod-1"), "host 0 of pod-1 closed its connection"))
    world.passes(3.0)


def a_broken_link_between_living_pods_fails_the_job(world: World) -> None:
    _two_pods(world)
    world.start()
    _link_fault(world, ref("pod-0"), "pod-1")
    world.now += 0.1
    _link_fault(world, ref("pod-1"), "pod-0")
    world.passes(3.0)
    _let_go(world)


def a_cancel_during_a_suspicion_is_a_cancel(world: World) -> None:
    _two_pods(world)
    world.start()
    _link_fault(world, ref("pod-0"), "pod-1")
    world.happens(events.CancelRequested("job-1", "ada"))
    world.release(ref("pod-0"), world.assignment())
    world.passes(2.5)
    _let_go(world)


def a_job_is_cancelled_in_every_state(world: World) -> None:
    for job in ("waiting", "lowering", "starting", "running"):
        if job == "lowering":
            _two_pods(world)
        world.submit(job)
        if job in ("starting", "running"):
            world.lower(job)
        if job == "running":
            for host in world.hosts(job):
                world.ready(host, job)
        world.happens(events.CancelRequested(job, "ada"))
        if job == "running":
            world.happens(events.CancelRequested(job, "grace"))
        _let_go(world)


def a_stuck_pod_is_restarted(world: World) -> None:
    _two_pods(world)
    world.start()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.release(ref("pod-0"), world.assignment())
    world.passes(4.0)
    world.pod_joins("pod-1", incarnation="b")


def a_silent_host_is_lost(world: World) -> None:
    _two_pods(world)
    world.start()
    for _ in range(17):
        world.now += 1.0
        world.happens(events.HostHeard(ref("pod-0"), {}))
        world.happens(events.Ticked())


def a_pod_that_never_returns_holds_up_nobody(world: World) -> None:
    """It is used again when it returns after all."""
    _two_pods(world)
    world.happens(events.HostDetached(ref("pod-1"), "host 0 of pod-1 closed its connection"))
    world.submit("job-1")
    world.submit("job-2", min_pods=1, max_pods=1)
    world.passes(122.0)
    world.happens(events.CancelRequested("job-2", "ada"))
    world.pod_joins("pod-1", incarnation="b")


def an_absent_controller_blames_nobody(world: World) -> None:
    _two_pods(world)
    world.start()
    world.passes(1.0)
    world.now += 60.0
    world.happens(events.Ticked())
    world.passes(2.0)


def a_pod_of_two_hosts_is_lost_as_a_whole(world: World) -> None:
    world.pod_joins("pod-0", hosts=2)
    world.pod_joins("pod-1", hosts=2)
    world.start(devices_per_pod=2)
    world.happens(events.HostDetached(ref("pod-1", 1), "host 1 of pod-1 closed its connection"))
    for index in (0, 1):
        world.happens(events.HostDetached(ref("pod-1", 0), "host 0 of pod-1 closed its connection"))
        world.happens(attached(ref("pod-1", index, "b"), 2))
    for index in (0, 1):
        world.happens(events.HostInventoried(ref("pod-1", index, "b"), inventory()))
    _let_go(world)


def pods_that_hold_other_bits_fail_the_job(world: World) -> None:
    _two_pods(world)
    world.start()
    world.apply(ref("pod-0"), (1, 2), digest="a" * 64)
    world.apply(ref("pod-1"), (1, 2), digest="b" * 64)
    _let_go(world, applied_step=2)


def data_that_is_short_ends_a_job_and_data_that_differs_fails_it(world: World) -> None:
    _two_pods(world)
    world.submit("short", steps=20)
    world.lower("short")
    for host in world.hosts("short"):
        world.ready(host, "short", data_steps=15)
    for host in world.hosts("short"):
        world.apply(host, range(1, 16), "short")
    _let_go(world, applied_step=15)
    world.submit("differs")
    world.lower("differs")
    world.ready(ref("pod-0"), "differs", digest="one")
    world.ready(ref("pod-1"), "differs", digest="two")


def a_spike_is_met_by_going_back_and_skipping_ahead(world: World) -> None:
    """What the hosts still report of the old generation changes nothing."""
    _two_pods(world)
    policy = SpikePolicy(threshold=8, window=16, rewind_steps=5, skip_steps=10, max_rewinds=1)
    world.start(steps=40, spikes=policy, checkpoint_every=10, checkpoint_directory="/shared")
    for first in (1, 11):
        for host in world.hosts():
            world.apply(host, range(first, first + 10), loss=2.0)
        _save(world, first + 9)
    old = world.assignment()
    first, second = world.hosts()
    world.apply(first, range(21, 25), loss=9.0)
    world.apply(second, range(21, 23), loss=9.0)
    world.happens(events.StepsApplied(second, old, (record(24),)))
    world.release(first, old, 24)
    world.now += 1.0
    for host in world.hosts():
        world.ready(host)
    for host in world.hosts():
        world.apply(host, range(11, 41), loss=2.0)
    _save(world, 40)


def a_slow_link_is_named_until_it_keeps_up_again(world: World) -> None:
    """The job goes on all the while."""
    _two_pods(world)
    world.start(steps=100)
    slow, fast = Traffic(10, 1.0, 0, 0.4e6, 0.05), Traffic(20, 1.1, 0, 40e6, 0.001)
    _train(world, range(1, 5), exposed_seconds=0.01, link_bytes=4_000_000)
    world.happens(events.HostHeard(ref("pod-0"), {"pod-1": slow}))
    _train(world, range(5, 12), seconds=5.0, exposed_seconds=4.5, link_bytes=4_000_000)
    world.happens(events.HostHeard(ref("pod-0"), {"pod-1": fast}))
    _train(world, range(12, 26), exposed_seconds=0.01, link_bytes=4_000_000)


def _train(world: World, steps: range, *, seconds: float = 0.5, **fields: object) -> None:
    for number in steps:
        world.now += seconds
        for host in world.hosts():
            world.apply(host, (number,), time=world.now, seconds=seconds, **fields)


def _save(world: World, step: int) -> None:
    hosts = world.hosts()
    for host in hosts:
        written = events.CheckpointWritten(
            host, world.assignment(), step, "ab" * 32, 10, 1.0, 0.1, 4 * step, ""
        )
        world.happens(written)
    world.happens(events.CheckpointPublished(hosts[0], world.assignment(), step, ""))


def a_new_process_takes_the_place_of_the_old(world: World) -> None:
    """Reports of the old one, which is still connected, change nothing."""
    _two_pods(world)
    world.start()
    assignment = world.assignment()
    world.pod_joins("pod-1", incarnation="b")
    old = ref("pod-1", incarnation="a")
    world.happens(events.HostInventoried(old, inventory(devices=8)))
    world.happens(events.JobFaulted(old, assignment, "compute", 1, "late", ""))
    world.release(old, assignment)
    world.happens(events.HostDetached(old, "host 0 of pod-1 closed its connection"))


def a_restarted_controller_takes_up_its_jobs(world: World) -> None:
    """Hosts that still talk about the generation of old have no say in it."""
    _two_pods(world)
    world.start("running")
    world.submit("waiting")
    earlier = world.assignment("running")
    world.now += 10.0
    world.restart(list(world.state.jobs.values()))
    world.pod_joins("pod-0")
    world.happens(events.JobFaulted(ref("pod-0"), earlier, "exchange", 7, "peer left", "pod-1"))
    world.happens(events.JobFaulted(ref("pod-0"), earlier, "compute", 7, "broken", ""))
    world.release(ref("pod-0"), earlier)
    world.pod_joins("pod-1")


def a_controller_restarted_during_a_cancel_finishes_it(world: World) -> None:
    _two_pods(world)
    world.start()
    world.happens(events.CancelRequested("job-1", "ada"))
    world.now += 10.0
    world.restart(list(world.state.jobs.values()))


def a_program_that_cannot_be_lowered_fails_the_job(world: World) -> None:
    _two_pods(world)
    world.submit()
    assignment = world.assignment()
    world.happens(events.LoweringFailed(assignment, "/model/num_layers: must be at least 1"))
    world.happens(events.LoweringFailed(assignment, "late"))


def a_host_that_leaves_unasked_fails_the_job(world: World) -> None:
    _two_pods(world)
    world.start()
    world.release(ref("pod-1"), world.assignment(), applied_step=1)
    world.passes(3.0)
    _let_go(world, applied_step=1)


def a_pod_forms_with_another_number_of_hosts(world: World) -> None:
    world.submit(min_pods=1, max_pods=1)
    world.happens(attached(ref("pod-0", 0), 2))
    world.happens(attached(ref("pod-0", 0, "b"), 1))
    world.happens(events.HostDetached(ref("pod-0", 0), "host 0 of pod-0 closed its connection"))
    world.happens(attached(ref("pod-0", 0, "b"), 1))
    world.happens(events.HostInventoried(ref("pod-0", 0, "b"), inventory()))


def _two_pods(world: World) -> None:
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")


def _link_fault(world: World, host: HostRef, peer: str) -> None:
    assignment = world.assignment()
    world.happens(
        events.JobFaulted(host, assignment, "exchange", 3, f"{peer} is unreachable", peer)
    )


def _let_go(
    world: World, applied_step: int = 0, pods: tuple[str, ...] = ("pod-0", "pod-1")
) -> None:
    """Every host of the pods that is expected to let go does so."""
    for pod in [world.state.pods[name] for name in pods if name in world.state.pods]:
        if pod.assignment is not None and pod.releasing_since is not None:
            for host in [host for host in pod.hosts.values() if host.holds]:
                world.release(host.ref, pod.assignment, applied_step)


HISTORIES: Mapping[str, Callable[[World], None]] = {
    history.__name__: history
    for history in (
        two_pods_train_to_the_end,
        a_slow_link_is_met_with_fewer_bits,
        jobs_wait_in_order_of_submission,
        jobs_share_a_fleet_on_disjoint_pods,
        three_pods_take_uneven_slots,
        a_killed_worker_fails_the_job_and_the_next_runs,
        a_lost_pod_is_waited_for_and_healed,
        a_gang_goes_on_with_fewer_pods_and_grows_back,
        a_gang_that_is_lost_as_a_whole_goes_back_to_its_checkpoint,
        a_lost_peer_explains_a_broken_link,
        a_broken_link_between_living_pods_fails_the_job,
        a_cancel_during_a_suspicion_is_a_cancel,
        a_job_is_cancelled_in_every_state,
        a_stuck_pod_is_restarted,
        a_silent_host_is_lost,
        a_pod_that_never_returns_holds_up_nobody,
        an_absent_controller_blames_nobody,
        a_pod_of_two_hosts_is_lost_as_a_whole,
        pods_that_hold_other_bits_fail_the_job,
        data_that_is_short_ends_a_job_and_data_that_differs_fails_it,
        a_spike_is_met_by_going_back_and_skipping_ahead,
        a_slow_link_is_named_until_it_keeps_up_again,
        a_new_process_takes_the_place_of_the_old,
        a_restarted_controller_takes_up_its_jobs,
        a_controller_restarted_during_a_cancel_finishes_it,
        a_program_that_cannot_be_lowered_fails_the_job,
        a_host_that_leaves_unasked_fails_the_job,
        a_pod_forms_with_another_number_of_hosts,
    )
}
