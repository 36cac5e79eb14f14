from __future__ import annotations

import dataclasses
import math

import pytest

from controller.core import commands, evaluation, events
from controller.core.batch import BatchPhase
from controller.core.checkpoint import Origin
from controller.core.cluster import Assignment
from controller.core.errors import CannotSave, CheckpointGone
from controller.core.job import JobState
from controller.core.spikes import SpikePolicy
from tests.controller.core.test_saving import publishes, saves, writes
from tests.controller.core.world import World, ref, two_pods

POLICY = SpikePolicy(threshold=8, window=16, rewind_steps=4, skip_steps=5, max_rewinds=2)


def watched(**fields: object) -> World:
    """Two pods that have applied sixteen calm steps of a hundred, and saved after every fourth."""
    world = two_pods()
    settings = {"steps": 100, "checkpoint_every": 4, "spikes": POLICY, **fields}
    world.start(checkpoint_directory="/shared", **settings)
    for first in range(1, 17, 4):
        applies(world, range(first, first + 4))
        saves(world, first + 3)
    return world


def applies(world: World, steps: range, loss: float = 2.0) -> None:
    for host in world.hosts():
        if world.job().state is JobState.RUNNING:
            world.apply(host, steps, loss=loss)


def gets_ready(world: World) -> None:
    for host in world.hosts():
        world.ready(host)


def test_a_spike_sends_the_job_back_and_past_the_batches_after() -> None:
    world = watched()
    old = world.assignment()
    applies(world, range(17, 18), loss=9.0)
    job = world.job()
    assert (job.state, job.generation, job.rewinds) == (JobState.STARTING, old.generation + 1, 1)
    (entry,) = world.outcome.entries
    assert entry.kind == "spike.rewound"
    told = {"step": 17, "loss": 9.0, "to_step": 12, "skipped": 20, "generation": job.generation}
    assert entry.data == told
    ((timeline, (spiked,)),) = world.outcome.steps
    assert (timeline.generation, spiked.record.step) == (old.generation, 17)
    assert "back to step 12, and past 5 batches from that of step 14 on" in entry.message
    assert {order.assignment for order in world.ordered(commands.StopHost)} == {old}
    orders = world.ordered(commands.PrepareHost)
    assert {order.assignment for order in orders} == {world.assignment()}
    assert {order.skipped for order in orders} == {((52, 72),)}
    assert {order.restore.checkpoint.step for order in orders if order.restore} == {12}
    removed = [order.checkpoint.step for order in world.ordered(commands.RemoveCheckpoint)]
    assert removed == [16]


def test_the_same_pods_go_on_from_there() -> None:
    world = watched()
    old = world.assignment()
    first, second = world.hosts()
    applies(world, range(17, 18), loss=9.0)
    for host in (first, second):
        world.release(host, old, 18)
    assert world.job().state is JobState.STARTING
    world.now += 2.0
    gets_ready(world)
    progress = world.job().progress
    assert progress is not None and progress.merged == 12
    assert world.state.jobs["job-1"].generation == old.generation + 1
    assert {grant.last_step for grant in world.ordered(commands.GrantWindow)} == {76}
    applies(world, range(13, 21))
    assert world.job().progress.merged == 20  # type: ignore[union-attr]


def test_steps_that_nobody_granted_after_a_rewind_count_for_nothing() -> None:
    world = watched()
    applies(world, range(17, 18), loss=9.0)
    before = world.state
    world.apply(ref("pod-0"), [18])
    world.happens(events.CancelRequested("job-1", "ada"))
    world.apply(ref("pod-0"), [18])
    assert not world.outcome.steps and world.job().progress == before.jobs["job-1"].progress


def test_the_losses_that_spikes_are_judged_by_are_those_of_the_checkpoint() -> None:
    world = watched()
    applies(world, range(17, 18), loss=9.0)
    gets_ready(world)
    assert world.job().losses == (2.0,) * 12
    applies(world, range(13, 14), loss=9.0)
    assert world.job().state is JobState.RUNNING


def test_a_second_spike_skips_more() -> None:
    world = watched()
    for _ in range(2):
        applies(world, range(13, 17))
        applies(world, range(17, 18), loss=9.0)
        gets_ready(world)
    assert world.job().skipped == ((52, 92),)


def test_what_is_skipped_grows_with_the_batch() -> None:
    world = watched(phases=(BatchPhase(1, 4), BatchPhase(15, 8)))
    applies(world, range(17, 18), loss=9.0)
    # Step 14 has 4 sequences, steps 15 to 18 have 8.
    assert world.job().skipped == ((52, 52 + 4 + 4 * 8),)


def test_an_old_checkpoint_does_not_move_what_is_skipped_away_from_the_spike() -> None:
    world = two_pods()
    world.start(steps=100, checkpoint_every=50, spikes=POLICY)
    for host in world.hosts():
        world.apply(host, range(1, 41), loss=2.0)
    applies(world, range(41, 42), loss=9.0)
    assert world.outcome.entries[0].data["to_step"] == 0
    assert world.job().skipped == ((37 * 4, 42 * 4),)


@pytest.mark.parametrize("ends", ["published", "given up", "not written"])
def test_a_spike_waits_for_the_checkpoint_that_it_goes_back_to(ends: str) -> None:
    world = watched()
    applies(world, range(17, 21))
    applies(world, range(21, 25))
    applies(world, range(25, 26), loss=9.0)
    job = world.job()
    assert world.noted() == ["spike.met"]
    assert (job.state, job.generation, job.reason.code) == (
        JobState.RUNNING, 1, "AwaitingCheckpoint",
    )  # fmt: skip
    assert "goes back to step 20 once that is on disk" in job.reason.message
    # What the pods were granted goes on, and is for nothing.
    applies(world, range(26, 33), loss=9.0)
    assert (world.noted(), world.ordered(commands.GrantWindow)) == ([], [])
    first, second = world.hosts()
    writes(world, first, 20)
    assert world.job().state is JobState.RUNNING
    if ends == "not written":
        writes(world, second, 20, error="disk full")
    else:
        writes(world, second, 20)
        publishes(world, 20, error="disk full" if ends == "given up" else "")
    assert world.noted()[-1] == "spike.rewound"
    expected = 20 if ends == "published" else 16
    assert world.outcome.entries[-1].data["to_step"] == expected
    assert (world.job().spike, world.job().rewinds) == (None, 1)
    # The batches are those around the spike either way: steps 22 to 26.
    assert world.job().skipped == ((84, 104),)


def test_a_later_checkpoint_that_fails_does_not_end_the_wait() -> None:
    world = watched()
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=9.0)
    first, second = world.hosts()
    writes(world, first, 20)
    writes(world, first, 24, error="disk full")
    assert (world.noted(), world.job().state) == (["checkpoint.failed"], JobState.RUNNING)
    writes(world, second, 24)
    writes(world, second, 20)
    publishes(world, 20)
    assert world.outcome.entries[-1].data["to_step"] == 20


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("is_held", [True, False])
def test_where_a_rewind_goes_does_not_depend_on_disks_and_other_jobs(
    is_late: bool, is_held: bool
) -> None:
    """Two are kept, and none of them is eight steps old; an older one that another job holds is not
    there for this one."""
    policy = SpikePolicy(threshold=8, window=16, rewind_steps=8, skip_steps=9, max_rewinds=2)
    world = watched(spikes=policy, checkpoint_keep=2)
    if is_held:
        held = dataclasses.replace(ORIGIN, job="job-1", step=12, generation=1)
        world.submit("job-2", origin=held)
    applies(world, range(17, 21))
    saves(world, 20)
    applies(world, range(21, 25))
    if not is_late:
        saves(world, 24)
    applies(world, range(25, 26), loss=9.0)
    assert world.outcome.entries[-1].data["to_step"] == 20


def test_what_is_being_published_when_a_job_goes_back_is_deleted() -> None:
    world = watched()
    applies(world, range(17, 25))
    for step in (20, 24):
        for host in world.hosts():
            writes(world, host, step)
    applies(world, range(25, 26), loss=9.0)
    publishes(world, 20)
    assert world.outcome.entries[-1].data["to_step"] == 20
    removed = [order.checkpoint for order in world.ordered(commands.RemoveCheckpoint)]
    assert commands.CheckpointId(24, 1) in removed


def test_evaluations_behind_a_spike_are_of_a_timeline_that_is_left() -> None:
    world = watched(evaluate_every=1)
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=math.nan)
    for step, loss in ((24, 2.0), (26, math.nan)):
        for host in world.hosts():
            part = evaluation.Part((loss,), num_tokens=4, num_bytes=4)
            world.happens(events.Evaluated(host, world.assignment(), step, part))
        assert world.noted() == (["job.evaluated"] if step == 24 else [])


def test_a_job_that_goes_back_saves_nothing_on_request() -> None:
    world = watched()
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=9.0)
    with pytest.raises(CannotSave, match="is going back over a spike"):
        world.happens(events.CheckpointRequested("job-1", "ada"))


def test_checkpoints_behind_a_spike_are_of_a_timeline_that_is_left() -> None:
    world = watched()
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=9.0)
    applies(world, range(26, 29))
    saves(world, 28)
    (order,) = world.ordered(commands.RemoveCheckpoint)
    assert order.checkpoint == commands.CheckpointId(28, 1)
    assert (world.noted(), world.job().state) == ([], JobState.RUNNING)


def test_a_job_that_waits_to_go_back_does_not_end() -> None:
    world = watched(steps=25)
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=9.0)
    saves(world, 25)
    assert world.job().state is JobState.RUNNING
    world.happens(events.CancelRequested("job-1", "ada"))
    assert world.job().state is JobState.CANCELLING
    saves(world, 20)
    assert world.job().state is JobState.CANCELLING


def test_a_waiting_spike_is_forgotten_with_the_generation() -> None:
    world = watched()
    applies(world, range(17, 25))
    applies(world, range(25, 26), loss=9.0)
    assert world.job().spike is not None
    job = dataclasses.replace(world.job(), state=JobState.PENDING, gang=(), progress=None)
    world = two_pods()
    world.happens(events.JobReloaded(job))
    assert world.job().spike is None


def test_spikes_beyond_the_limit_are_trained_through_unless_the_state_is_lost() -> None:
    world = watched(spikes=SpikePolicy(8, 16, 4, 5, 1))
    applies(world, range(17, 18), loss=9.0)
    gets_ready(world)
    applies(world, range(13, 17))
    applies(world, range(17, 18), loss=9.0)
    assert world.job().state is JobState.RUNNING
    assert "spike.ignored" in world.noted()
    applies(world, range(18, 19), loss=math.nan)
    assert world.job().reason.code == "NotFinite"
    assert "after 1 rewinds" in world.job().reason.message


def test_without_a_checkpoint_before_it_a_job_starts_over() -> None:
    world = two_pods()
    world.start(steps=100, checkpoint_every=50, spikes=POLICY)
    applies(world, range(1, 2), loss=math.inf)
    orders = world.ordered(commands.PrepareHost)
    assert {order.restore for order in orders} == {None}
    assert world.job().skipped == ((0, 20),)
    assert world.outcome.entries[0].data["loss"] is None


ORIGIN = Origin("job-0", "/other", 30, 4, 480, (2.0,) * 16, ((8, 16),), "ab", 120_832, "d")


def test_a_job_starts_from_the_checkpoint_of_another() -> None:
    world = two_pods()
    world.start(steps=100, checkpoint_every=50, spikes=POLICY, origin=ORIGIN)
    job = world.job()
    assert (job.skipped, job.losses, job.progress.merged) == (((8, 16),), (2.0,) * 16, 30)  # type: ignore[union-attr]
    applies(world, range(31, 32), loss=9.0)
    orders = world.ordered(commands.PrepareHost)
    place = commands.CheckpointPlace("job-0", "/other", commands.CheckpointId(30, 4), "ab")
    assert {order.restore for order in orders} == {place}
    assert {order.skipped for order in orders} == {((8, 16), (480, 500))}
    assert {order.data_start for order in orders} == {commands.DataStart(30, 480)}
    # 472 sequences of the other job, whatever its batch was, and 4 of each step since.
    assert job.spec.sequences_through(32) == 480
    assert [job.spec.tokens_through(step) for step in (30, 32)] == [120_832, 120_832 + 8 * 256]


def test_data_that_is_gone_on_with_must_be_the_same() -> None:
    world = two_pods()
    world.submit(steps=100, origin=ORIGIN)
    world.lower()
    for host in world.hosts():
        world.ready(host, digest="other")
    reason = world.job().reason
    assert reason.code == "DataChanged"
    assert "had d when job job-0 trained on it" in reason.message
    assert "or set checkpoint.resume_from.data: anew" in reason.message


def test_data_may_be_begun_at_another_jobs_checkpoint() -> None:
    world = two_pods()
    anew = dataclasses.replace(ORIGIN, data_position=0, skipped=(), data_digest=None)
    world.submit(steps=100, origin=anew)
    world.lower()
    starts = {order.data_start for order in world.ordered(commands.PrepareHost)}
    for host in world.hosts():
        world.ready(host, digest="other")
    assert world.job().state is JobState.RUNNING
    assert starts == {commands.DataStart(30, 0)}
    spec = world.job().spec
    assert (spec.sequences_through(31), spec.tokens_through(31)) == (4, 120_832 + 4 * 256)


def test_a_checkpoint_that_another_job_starts_from_is_kept_for_it() -> None:
    world = watched(checkpoint_keep=1)
    held = dataclasses.replace(ORIGIN, job="job-1", step=16, generation=1)
    world.submit("job-2", origin=held)
    applies(world, range(17, 21))
    saves(world, 20)
    assert world.ordered(commands.RemoveCheckpoint) == []
    world.happens(events.CancelRequested("job-2", "ada"))
    applies(world, range(21, 25))
    saves(world, 24)
    removed = [order.checkpoint.step for order in world.ordered(commands.RemoveCheckpoint)]
    assert removed == [16, 20]
    with pytest.raises(CheckpointGone, match="job job-1 has deleted its checkpoint of step 16"):
        world.submit("job-3", origin=held)


def test_a_job_that_goes_back_leaves_what_another_starts_from() -> None:
    world = watched()
    world.submit("job-2", origin=dataclasses.replace(ORIGIN, job="job-1", step=16, generation=1))
    applies(world, range(17, 18), loss=9.0)
    assert world.outcome.entries[-1].data["to_step"] == 12
    assert world.ordered(commands.RemoveCheckpoint) == []
    assert world.job().checkpoints.newest.step == 12  # type: ignore[union-attr]


def test_damage_of_another_jobs_checkpoint_fails_the_job() -> None:
    world = two_pods()
    world.submit(steps=100, origin=ORIGIN)
    world.lower()
    host = world.hosts()[0]
    world.happens(events.RestoreFailed(host, world.assignment(), "other bits"))
    assert world.job().reason.code == "CheckpointDamaged"


def test_rates_follow_the_batch() -> None:
    phases = (BatchPhase(1, 4), BatchPhase(3, 8))
    world = two_pods()
    world.start(steps=100, phases=phases)
    applies(world, range(1, 5))
    assert world.job().spec.tokens_through(4) == 2 * 1024 + 2 * 2048
    orders = {grant.host.pod for grant in world.ordered(commands.GrantWindow)}
    assert orders <= {"pod-0", "pod-1"}
    assert world.assignment() == Assignment("job-1", 1)
