from __future__ import annotations

import dataclasses

import pytest

from controller.core import commands, events
from controller.core.checkpoint import Checkpoints, Part, Saved, complete, superfluous
from controller.core.cluster import Assignment, HostRef
from controller.core.errors import CannotSave, JobIsLive
from controller.core.job import JobState
from controller.core.totals import durations
from tests.controller.core.world import World, record, two_pods

SHA = "ab" * 32


def saving(**fields: object) -> World:
    """A running job of four steps that saves every two."""
    world = two_pods()
    world.start(checkpoint_every=2, checkpoint_keep=2, checkpoint_directory="/shared", **fields)
    return world


def writes(world: World, host: HostRef, step: int, *, sha: str = SHA, error: str = "") -> None:
    world.happens(
        events.CheckpointWritten(
            host, world.assignment(), step, sha, 0 if error else 10, 1.0, 0.1, 4 * step, error
        )
    )


def publishes(world: World, step: int, error: str = "") -> None:
    host = world.hosts()[0]
    world.happens(events.CheckpointPublished(host, world.assignment(), step, error))


def saves(world: World, step: int) -> None:
    for host in world.hosts():
        writes(world, host, step)
    publishes(world, step)


def applies(world: World, *steps: int) -> None:
    for host in world.hosts():
        world.apply(host, steps)


def at(step: int) -> commands.CheckpointPlace:
    return commands.CheckpointPlace("job-1", "/shared", commands.CheckpointId(step, 1), SHA)


def steps_on_disk(world: World) -> list[int]:
    return [saved.step for saved in world.job().checkpoints.saved]


def test_hosts_are_told_where_and_when_to_save() -> None:
    world = two_pods()
    world.submit(checkpoint_every=2, checkpoint_directory="/shared")
    world.lower()
    for order in world.ordered(commands.PrepareHost):
        told = (order.checkpoint_every, order.checkpoint_directory, order.restore)
        assert told == (2, "/shared", None)


def test_the_last_share_makes_the_first_lead_publish() -> None:
    world = saving()
    first, second = world.hosts()
    applies(world, 1, 2)
    writes(world, second, 2)
    assert world.ordered(commands.PublishCheckpoint) == []
    writes(world, first, 2)
    (order,) = world.ordered(commands.PublishCheckpoint)
    assert (order.host, order.step, order.num_members) == (first, 2, 2)
    assert (order.directory, order.state_sha256) == ("/shared", SHA)
    assert steps_on_disk(world) == []
    publishes(world, 2)
    assert world.noted() == ["checkpoint.published"]
    (saved,) = world.job().checkpoints.saved
    timeline = durations([record(1), record(2)])
    assert saved == Saved(2, 1, SHA, 20, world.now, 8, timeline=timeline)


def test_a_job_ends_after_its_last_checkpoint() -> None:
    world = saving()
    applies(world, 1, 2)
    saves(world, 2)
    applies(world, 3, 4)
    assert world.job().state is JobState.RUNNING
    for host in world.hosts():
        writes(world, host, 4)
        world.release(host, world.assignment(), 4)
    publishes(world, 4)
    assert world.job().state is JobState.SUCCEEDED
    assert steps_on_disk(world) == [2, 4]


@pytest.mark.parametrize("by", ["a share", "the publication"])
def test_what_cannot_be_written_is_told_and_holds_up_nothing(by: str) -> None:
    world = saving()
    applies(world, 1, 2, 3, 4)
    first, second = world.hosts()
    writes(world, first, 4)
    if by == "a share":
        writes(world, second, 4, error="disk full")
    else:
        writes(world, second, 4)
        publishes(world, 4, error="disk full")
    assert world.noted() == ["checkpoint.failed", "job.succeeded"]
    assert "disk full" in world.outcome.entries[0].message
    assert steps_on_disk(world) == []


def test_a_share_of_a_checkpoint_that_was_given_up_is_ignored() -> None:
    world = saving()
    first, second = world.hosts()
    applies(world, 1, 2)
    writes(world, first, 2, error="disk full")
    before = world.state
    writes(world, second, 2)
    assert world.state.jobs == before.jobs
    assert world.noted() == []


def test_shares_of_other_bits_fail_the_job() -> None:
    world = saving()
    first, second = world.hosts()
    applies(world, 1, 2)
    writes(world, first, 2)
    writes(world, second, 2, sha="cd" * 32)
    assert world.job().state is JobState.FAILED
    assert world.job().reason.code == "Diverged"


def test_only_the_newest_are_kept() -> None:
    world = saving(steps=8)
    for step in (2, 4, 6):
        applies(world, step - 1, step)
        saves(world, step)
    (order,) = world.ordered(commands.RemoveCheckpoint)
    assert order.checkpoint == commands.CheckpointId(2, 1)
    assert steps_on_disk(world) == [4, 6]


def test_a_publication_that_is_told_twice_removes_nothing() -> None:
    world = saving(steps=8)
    applies(world, 1, 2)
    saves(world, 2)
    publishes(world, 2)
    assert world.ordered(commands.RemoveCheckpoint) == []
    assert steps_on_disk(world) == [2]


def test_words_that_do_not_concern_the_job_change_nothing() -> None:
    world = saving()
    first, second = world.hosts()
    applies(world, 1, 2)
    publishes(world, 2)
    assert world.noted() == []
    writes(world, first, 2)
    writes(world, second, 2)
    world.happens(events.CheckpointPublished(second, world.assignment(), 2, ""))
    assert steps_on_disk(world) == []
    world.happens(events.RestoreFailed(first, world.assignment(), "damaged"))
    assert world.job().state is JobState.RUNNING
    world.happens(events.CancelRequested("job-1", "me"))
    before = world.job().checkpoints
    writes(world, first, 4)
    publishes(world, 2)
    assert world.job().checkpoints == before


def test_a_person_can_have_the_next_step_saved() -> None:
    world = saving(steps=1000)
    world.happens(events.CheckpointRequested("job-1", "me"))
    assert world.noted() == ["checkpoint.requested"]
    orders = world.ordered(commands.SaveCheckpoint)
    assert [(order.host, order.step) for order in orders] == [(host, 65) for host in world.hosts()]


def test_no_step_beyond_the_last_is_saved() -> None:
    world = saving()
    world.happens(events.CheckpointRequested("job-1", "me"))
    assert {order.step for order in world.ordered(commands.SaveCheckpoint)} == {4}


@pytest.mark.parametrize(("every", "what"), [(0, "section"), (2, "STARTING")])
def test_what_cannot_be_saved_says_why(every: int, what: str) -> None:
    world = two_pods()
    if every:
        world.submit(checkpoint_every=every)
        world.lower()
    else:
        world.start()
    with pytest.raises(CannotSave, match=what):
        world.happens(events.CheckpointRequested("job-1", "me"))


def test_a_failed_job_is_retried_from_its_newest_checkpoint() -> None:
    world = saving()
    applies(world, 1, 2)
    saves(world, 2)
    host = world.hosts()[0]
    world.happens(events.JobFaulted(host, world.assignment(), "data", 3, "no such file", ""))
    failed = world.job()
    assert failed.state is JobState.FAILED
    for pod in ("pod-0", "pod-1"):
        world.release(world.state.pods[pod].hosts[0].ref, Assignment("job-1", 1), 2)
    world.happens(events.RetryRequested(dataclasses.replace(failed, finished_at=None), "me"))
    assert world.noted() == ["job.retried", "job.admitted"]
    assert (world.job().attempt, world.job().generation) == (2, 2)
    with pytest.raises(JobIsLive):
        world.happens(events.RetryRequested(failed, "me"))
    world.lower()
    restores = {order.restore for order in world.ordered(commands.PrepareHost)}
    assert restores == {at(2)}


def restarted(*steps: int, generation: int = 1) -> World:
    """A controller that was restarted finds a job with checkpoints, and admits it again."""
    world = saving()
    saved = tuple(Saved(step, generation, SHA, 20, 0.0, 4 * step) for step in steps)
    job = dataclasses.replace(
        world.job(), state=JobState.PENDING, checkpoints=Checkpoints(saved), progress=None, gang=()
    )
    world = two_pods()
    world.happens(events.JobReloaded(job))
    world.lower()
    return world


def test_a_job_goes_on_after_its_newest_checkpoint() -> None:
    world = restarted(1, 2)
    orders = world.ordered(commands.PrepareHost)
    assert [order.restore for order in orders] == [at(2)] * 2
    for host in world.hosts():
        world.ready(host)
    progress = world.job().progress
    assert progress is not None
    assert progress.merged == 2
    assert "goes on after step 2" in world.outcome.entries[-1].message
    assert [grant.last_step for grant in world.ordered(commands.GrantWindow)] == [4, 4]
    applies(world, 3, 4)
    saves(world, 4)
    assert world.job().state is JobState.SUCCEEDED
    assert [saved.generation for saved in world.job().checkpoints.saved] == [1, 2]


def test_a_job_whose_last_checkpoint_is_there_ends_at_once() -> None:
    world = restarted(2, 4)
    for host in world.hosts():
        world.ready(host)
    assert world.job().state is JobState.SUCCEEDED
    assert world.ordered(commands.GrantWindow) == []


@pytest.mark.parametrize("steps", [(1, 2), (2,)])
def test_a_damaged_checkpoint_is_passed_over(steps: tuple[int, ...]) -> None:
    world = restarted(*steps)
    first, second = world.hosts()
    old = world.assignment()
    world.happens(events.RestoreFailed(first, old, "other bits"))
    assert world.noted()[0] == "checkpoint.damaged"
    assert world.job().state is JobState.PENDING
    assert world.job().reason.code == "WaitingForPods"
    assert len(world.ordered(commands.StopHost)) == 2
    world.happens(events.RestoreFailed(second, old, "other bits"))
    assert world.noted() == []
    for host in (first, second):
        world.release(host, old)
    assert world.job().state is JobState.ADMITTED
    world.lower()
    expected = at(1) if len(steps) > 1 else None
    assert [order.restore for order in world.ordered(commands.PrepareHost)] == [expected] * 2


def test_parts_are_complete_when_every_pod_has_one() -> None:
    part = Part(SHA, 1, 8)
    checkpoints = Checkpoints().with_part(2, "a", part).with_part(4, "a", part)
    assert complete(checkpoints, 2, ["a", "b"]) is None
    assert complete(checkpoints.with_part(2, "b", part), 2, ["b", "a"]) == [part, part]
    saved = Saved(2, 1, SHA, 2, 0.0, 8)
    published = checkpoints.published(saved)
    assert (published.newest, published.concluded, list(published.under_way)) == (saved, 2, [4])
    assert published.begun_anew() == Checkpoints((saved,))
    assert superfluous(published, 1, 0, False) == []
    assert superfluous(published, 0, 0, False) == [saved]
    assert published.discarded([saved]).newest is None
