from __future__ import annotations

import math

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment
from controller.core.errors import JobIsLive, UnknownJob
from controller.core.job import JobState, Reason
from controller.core.link_shares import WHOLE
from tests.controller.core.world import PROGRAM, World, record, ref, spec, two_pods


def test_job_submitted_to_a_free_fleet_is_admitted_and_lowered() -> None:
    world = two_pods()
    world.happens(events.JobSubmitted("job-1", spec(program_request='{"model": {}}')))
    assert world.job().state is JobState.ADMITTED
    assert world.job().generation == 1 and world.job().admitted_at == world.now
    assert world.outcome.commands == (
        commands.LowerProgram(Assignment("job-1", 1), '{"model": {}}', "cpu"),
    )
    assert world.noted() == ["job.submitted", "job.admitted"]


def test_job_submitted_without_pods_waits_with_a_reason() -> None:
    world = World()
    world.submit()
    assert world.job().state is JobState.PENDING
    assert world.job().reason == Reason(
        "DoesNotFit", "needs 2 pods of 1 device; the fleet has no pods"
    )
    assert world.noted() == ["job.submitted", "job.waiting"]


def test_reason_that_stays_the_same_is_not_noted_again() -> None:
    world = World()
    world.submit()
    world.submit("job-2")
    assert [entry.job_id for entry in world.outcome.entries] == ["job-2", "job-2"]


def test_jobs_of_one_moment_wait_in_order_of_their_ids() -> None:
    world = World()
    world.submit("b")
    world.submit("a")
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    assert world.job("a").state is JobState.ADMITTED
    assert world.job("b").state is JobState.PENDING


def test_program_lowered_is_prepared_on_every_host_with_its_place() -> None:
    world = World()
    world.pod_joins("pod-0", hosts=2)
    world.pod_joins("pod-1", hosts=2)
    world.submit(devices_per_pod=2, seed=7, data='{"sources": []}', digest_every=3)
    world.lower()
    prepared = world.ordered(commands.PrepareHost)
    assert [(order.host, order.member_index) for order in prepared] == [
        (ref("pod-0", 0), 0),
        (ref("pod-0", 1), 0),
        (ref("pod-1", 0), 1),
        (ref("pod-1", 1), 1),
    ]
    assert {order.members for order in prepared} == {
        (
            commands.GangAddress("pod-0", ("pod-0:0", "pod-0:1"), WHOLE // 2),
            commands.GangAddress("pod-1", ("pod-1:0", "pod-1:1"), WHOLE // 2),
        )
    }
    order = prepared[0]
    assert order.phases == (commands.SlotPhase(1, 4, ((0, 2), (2, 4))),)
    assert (order.seed, order.data, order.digest_every) == (7, '{"sources": []}', 3)
    assert (order.target_steps, order.bundle_digest) == (4, PROGRAM.digest)
    assert world.job().program == PROGRAM


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_program_of_another_generation_or_time_is_dropped(generation: int) -> None:
    world = two_pods()
    world.submit()
    if generation == 1:
        world.lower()
    before = world.state
    assignment = Assignment("job-1", generation)
    assert not world.happens(events.ProgramLowered(assignment, PROGRAM)).commands
    assert not world.happens(events.LoweringFailed(assignment, "late")).commands
    assert world.state == before


def test_lowering_that_fails_ends_the_job_and_frees_its_pods() -> None:
    world = two_pods()
    world.submit()
    world.happens(events.LoweringFailed(world.assignment(), "heads do not divide"))
    assert world.job().state is JobState.FAILED
    assert world.job().reason == Reason("LoweringFailed", "heads do not divide")
    assert world.job().finished_at == world.now
    assert all(pod.assignment is None for pod in world.state.pods.values())


def test_training_starts_when_the_last_host_is_ready() -> None:
    world = two_pods()
    world.submit(steps=1000)
    world.lower()
    world.ready(ref("pod-0"))
    assert world.job().state is JobState.STARTING and not world.outcome.commands
    world.ready(ref("pod-1"))
    assert world.job().state is JobState.RUNNING
    assert world.job().reason == Reason("Training", "2 pods in lockstep")
    assert [(g.host.pod, g.last_step) for g in world.ordered(commands.GrantWindow)] == [
        ("pod-0", 64),
        ("pod-1", 64),
    ]


def test_training_on_one_pod_speaks_of_no_lockstep() -> None:
    world = two_pods()
    world.start(min_pods=1, max_pods=1)
    assert world.job().reason == Reason("Training", "one pod")


@pytest.mark.parametrize(("peak", "whole"), [(50e9, 100e9), (None, None)])
def test_peak_of_the_gang_is_known_when_that_of_every_pod_is(
    peak: float | None, whole: float | None
) -> None:
    world = World()
    world.pod_joins("pod-0")
    world.pod_joins("pod-1", peak=peak)
    world.start()
    assert world.job().peak_flops_per_second == whole


def test_readiness_of_strangers_and_of_old_does_not_start_a_job() -> None:
    world = two_pods()
    world.pod_joins("pod-2")
    world.submit()
    world.ready(ref("pod-0"))
    world.lower()
    for stranger in (ref("pod-2"), ref("pod-0", incarnation="b"), ref("pod-9")):
        world.ready(stranger)
    assert world.job().state is JobState.STARTING
    assert all(
        h.dataset_digest is None for p in world.state.pods.values() for h in p.hosts.values()
    )


def test_host_that_let_go_keeps_the_job_from_starting() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    world.ready(ref("pod-0"))
    world.release(ref("pod-0"), world.assignment())
    world.ready(ref("pod-1"))
    assert world.job().state is JobState.STARTING


@pytest.mark.parametrize("data_steps", [0, 4, 5])
def test_data_that_lasts_or_is_not_used_starts_the_job(data_steps: int) -> None:
    world = two_pods()
    world.submit(steps=4)
    world.lower()
    for host in world.hosts():
        world.ready(host, data_steps=data_steps)
    assert world.job().state is JobState.RUNNING


def test_a_job_ends_at_the_last_full_batch_of_its_data_and_says_so() -> None:
    world = two_pods()
    world.submit(steps=4)
    world.lower()
    for host in world.hosts():
        world.ready(host, data_steps=3)
    (short, _) = world.outcome.entries
    assert (short.kind, short.data) == ("job.data_is_short", {"step": 3})
    assert "3 of the 4 steps" in short.message
    assert {grant.last_step for grant in world.ordered(commands.GrantWindow)} == {3}
    for host in world.hosts():
        world.apply(host, [1, 2, 3])
    assert world.job().state is JobState.SUCCEEDED
    assert world.job().reason.message == "3 of 4 steps applied; the data ended"


def test_data_that_changed_since_the_job_began_fails_it() -> None:
    world = two_pods()
    world.start()
    world.restart([world.job()])
    world.pod_joins("pod-0", incarnation="b")
    world.pod_joins("pod-1", incarnation="b")
    world.lower()
    for host in world.hosts():
        world.ready(host, digest="other")
    assert world.job().reason.code == "DataChanged"
    assert "has digest other and had d" in world.job().reason.message


def test_data_that_differs_fails_the_job_and_names_who_holds_what() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    world.ready(ref("pod-1"), digest="two")
    world.ready(ref("pod-0"), digest="one")
    assert world.job().reason == Reason(
        "DataDiffers",
        "hosts hold different data: host 0 of pod-0 one, host 0 of pod-1 two; "
        "give all of them the same files",
    )


def test_window_grows_with_the_slowest_pod() -> None:
    world = two_pods()
    world.start(steps=1000)
    world.apply(ref("pod-0"), range(1, 65))
    assert not world.ordered(commands.GrantWindow)
    world.apply(ref("pod-1"), range(1, 32))
    assert not world.ordered(commands.GrantWindow)
    world.apply(ref("pod-1"), range(32, 40))
    assert {grant.last_step for grant in world.ordered(commands.GrantWindow)} == {39 + 64}


def test_job_succeeds_when_the_last_pod_has_applied_the_last_step() -> None:
    world = two_pods()
    world.start(steps=4)
    assignment = world.assignment()
    world.apply(ref("pod-0"), range(1, 5))
    world.hold(ref("pod-0"), 4)
    assert world.job().state is JobState.RUNNING and world.job().suspicion is None
    world.now += 1.0
    world.apply(ref("pod-1"), range(1, 5))
    assert world.job().state is JobState.SUCCEEDED
    assert world.job().reason == Reason("Completed", "all 4 steps applied")
    assert world.job().finished_at == world.now
    # They keep the state until nobody can need it any more.
    assert [order.host.pod for order in world.ordered(commands.StopHost)] == ["pod-0", "pod-1"]
    for pod in ("pod-0", "pod-1"):
        world.release(ref(pod), assignment, applied_step=4)
        assert world.state.pods[pod].assignment is None


def test_a_loss_that_is_no_number_ends_a_job_without_a_policy() -> None:
    world = two_pods()
    world.start(steps=4)
    for host in world.hosts():
        world.apply(host, [1], loss=math.nan)
    assert world.job().reason.code == "NotFinite"
    assert "step 1: the loss is nan; without train.spikes" in world.job().reason.message


def test_divergence_fails_the_job_and_keeps_the_steps() -> None:
    world = two_pods()
    world.start()
    world.apply(ref("pod-0"), [1], digest="a" * 64)
    world.apply(ref("pod-1"), [1], digest="b" * 64)
    assert world.job().reason == Reason(
        "Diverged", f"after step 1 pods hold other bits: pod-0 {'a' * 12}, pod-1 {'b' * 12}"
    )
    ((job, steps),) = world.outcome.steps
    assert job.id == "job-1" and steps[0].digests == {"pod-0": "a" * 64, "pod-1": "b" * 64}


def test_steps_applied_while_cancelling_still_count() -> None:
    world = two_pods()
    world.start()
    world.happens(events.CancelRequested("job-1", "ada"))
    for host in world.hosts():
        world.apply(host, [1, 2, 3, 4])
    assert world.job().state is JobState.CANCELLING
    progress = world.job().progress
    assert progress is not None and progress.merged == 4


@pytest.mark.parametrize(
    "stranger", [ref("pod-2"), ref("pod-0", incarnation="b"), ref("pod-9"), ref("pod-0", 1)]
)
def test_steps_reported_by_a_stranger_are_dropped(stranger: object) -> None:
    world = two_pods()
    world.pod_joins("pod-2")
    world.start()
    before = world.state
    world.apply(stranger, [1])  # type: ignore[arg-type]
    assert world.state == before and not world.outcome.steps


def test_steps_reported_late_or_for_another_generation_are_dropped() -> None:
    world = two_pods()
    world.start()
    assignment = world.assignment()
    late = events.StepsApplied(ref("pod-0"), Assignment("job-1", 7), (record(1),))
    assert not world.happens(late).steps
    world.happens(events.HostDetached(ref("pod-1"), "gone"))
    assert not world.happens(events.StepsApplied(ref("pod-0"), assignment, (record(1),))).steps


def test_steps_before_the_job_has_started_are_dropped() -> None:
    world = two_pods()
    world.submit()
    world.lower()
    world.apply(ref("pod-0"), [1])
    assert not world.outcome.steps and world.job().state is JobState.STARTING


@pytest.mark.parametrize("job_id", ["never", "ended"])
def test_cancel_of_a_job_that_is_not_live_is_refused(job_id: str) -> None:
    world = World()
    world.submit("ended")
    world.happens(events.CancelRequested("ended", "ada"))
    with pytest.raises(UnknownJob):
        world.happens(events.CancelRequested(job_id, "ada"))


def test_cancel_of_a_waiting_job_ends_it_at_once_and_lets_the_next_in() -> None:
    world = two_pods()
    world.start("running", min_pods=1, max_pods=1)
    world.submit("big")
    world.submit("small", min_pods=1, max_pods=1)
    world.happens(events.CancelRequested("big", "ada"))
    assert world.job("big").reason == Reason("Cancelled", "cancelled by ada")
    assert world.job("small").state is JobState.ADMITTED


def test_cancel_while_lowering_abandons_it() -> None:
    world = two_pods()
    world.submit()
    assignment = world.assignment()
    world.happens(events.CancelRequested("job-1", "ada"))
    assert world.job().state is JobState.CANCELLED and world.job().finished_at == world.now
    assert world.outcome.commands == (commands.AbandonLowering(assignment),)


@pytest.mark.parametrize("running", [False, True])
def test_cancel_of_prepared_hosts_waits_for_all_to_let_go(running: bool) -> None:
    world = two_pods()
    world.submit()
    world.lower()
    if running:
        for host in world.hosts():
            world.ready(host)
    assignment = world.assignment()
    world.happens(events.CancelRequested("job-1", "ada"))
    assert len(world.ordered(commands.StopHost)) == 2
    assert not world.happens(events.CancelRequested("job-1", "grace")).entries
    world.release(ref("pod-1"), assignment)
    assert world.job().state is JobState.CANCELLING
    world.release(ref("pod-0"), assignment)
    assert world.job().state is JobState.CANCELLED
    assert world.job().reason.message == "cancelled by ada"


def test_job_reloaded_before_any_host_had_heard_of_it_starts_over() -> None:
    world = two_pods()
    world.submit()
    world.restart([world.job()])
    job = world.job()
    assert job.state is JobState.PENDING and job.attempt == 2
    assert world.noted() == ["job.requeued", "job.waiting"]
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    assert world.job().generation == 2


def test_job_reloaded_while_waiting_keeps_its_attempt_and_place() -> None:
    world = World()
    world.submit("first")
    world.now += 1.0
    world.submit("second")
    world.restart([world.job("second"), world.job("first")])
    world.pod_joins("pod-0")
    world.pod_joins("pod-1")
    assert world.job("first").state is JobState.ADMITTED and world.job("first").attempt == 1
    assert world.job("second").state is JobState.PENDING


def test_job_reloaded_while_cancelling_is_cancelled() -> None:
    world = two_pods()
    world.start()
    for host in world.hosts():
        world.apply(host, (1, 2))
    world.happens(events.CancelRequested("job-1", "ada"))
    world.now += 5.0
    before = world.job()
    world.restart([before])
    assert world.job().state is JobState.CANCELLED
    assert before.progress is not None and before.progress.merged == 2
    assert world.job().progress == before.progress
    assert world.job().started_at == before.started_at
    assert world.job().reason.message == "cancelled by ada"
    assert world.job().attempt == 1 and world.job().finished_at == world.now


def test_delete_of_a_job_that_is_not_live_forgets_it_and_changes_nothing() -> None:
    world = two_pods()
    before = world.state
    outcome = world.happens(events.DeleteRequested("job-1"))
    assert outcome.forgotten_jobs == ("job-1",)
    assert world.state == before
    assert not (outcome.commands or outcome.entries or outcome.changed_jobs)


@pytest.mark.parametrize("state", [JobState.ADMITTED, JobState.CANCELLING])
def test_delete_of_a_live_job_is_refused(state: JobState) -> None:
    world = two_pods()
    world.submit()
    if state is JobState.CANCELLING:
        world.lower()
        world.happens(events.CancelRequested("job-1", "ada"))
    with pytest.raises(JobIsLive, match=f"job-1 is {state}; cancel it first"):
        world.happens(events.DeleteRequested("job-1"))
