from __future__ import annotations

import dataclasses
import math
import random

import pytest

from controller.core import events
from controller.core.evaluation import Evaluation, Evaluations, Part, merge
from controller.core.job import JobState
from tests.controller.core.test_saving import saves
from tests.controller.core.world import two_pods


def test_loss_and_bits_are_those_of_all_parts() -> None:
    parts = [Part((2.0, 4.0), 20, 40), Part((3.0,), 10, 20)]
    assert merge(5, parts) == Evaluation(5, 3.0, pytest.approx(3.0 * 30 / 60 / math.log(2)))


def test_text_without_bytes_has_no_bits_per_byte() -> None:
    assert merge(5, [Part((2.0,), 8, 0)]).bits_per_byte is None


def test_who_evaluated_what_makes_no_difference() -> None:
    losses = [random.Random(slot).uniform(0.1, 9.0) for slot in range(33)]
    alone = merge(1, [Part(tuple(losses), 33, 33)])
    dealt = [
        Part(tuple(losses[pod::4]), len(losses[pod::4]), len(losses[pod::4])) for pod in range(4)
    ]
    assert merge(1, dealt) == alone


def test_a_figure_is_there_when_every_pod_has_told() -> None:
    part = Part((2.0,), 8, 8)
    one = Evaluations().with_part(5, "a", part, ("a", "b"))
    assert one.newest is None
    both = one.with_part(5, "b", part, ("a", "b"))
    assert both.newest is not None and both.newest.step == 5 and not both.under_way
    assert both.begun_anew(4).newest is None


def test_only_the_newest_figures_are_kept() -> None:
    found = Evaluations()
    for step in range(1, 40):
        found = found.with_part(step, "a", Part((1.0,), 1, 1), ("a",))
    assert sorted(found.complete) == list(range(24, 40))


def test_an_evaluation_is_told_once_with_its_figures() -> None:
    world = two_pods()
    world.start()
    first, second = world.hosts()
    part = Part((2.0,), 8, 16)
    world.happens(events.Evaluated(first, world.assignment(), 2, part))
    assert world.noted() == []
    world.happens(events.Evaluated(second, world.assignment(), 2, part))
    (entry,) = world.outcome.entries
    assert entry.kind == "job.evaluated" and "1.4427 bits per byte" in entry.message
    assert entry.data == {"step": 2, "loss": 2.0, "bits_per_byte": pytest.approx(1 / math.log(2))}
    world.happens(events.Evaluated(second, world.assignment(), 2, part))
    assert world.noted() == []


def test_a_held_out_loss_that_is_no_number_is_told_as_none() -> None:
    world = two_pods()
    world.start()
    for host in world.hosts():
        world.happens(events.Evaluated(host, world.assignment(), 2, Part((math.nan,), 8, 0)))
    assert world.outcome.entries[0].data["loss"] is None


def test_a_job_that_ends_hears_of_no_evaluation() -> None:
    world = two_pods()
    world.start()
    host = world.hosts()[0]
    world.happens(events.CancelRequested("job-1", "me"))
    world.happens(events.Evaluated(host, world.assignment(), 2, Part((2.0,), 8, 8)))
    assert world.job().state is JobState.CANCELLING and world.job().evaluations == Evaluations()


def test_a_job_ends_after_its_last_evaluation() -> None:
    world = two_pods()
    world.start(evaluate_every=2)
    first, second = world.hosts()
    for host in (first, second):
        world.apply(host, range(1, 5))
    assert world.job().state is JobState.RUNNING
    for host in (first, second):
        world.happens(events.Evaluated(host, world.assignment(), 4, Part((2.0,), 8, 8)))
    assert world.noted() == ["job.evaluated", "job.succeeded"]
    newest = world.job().evaluations.newest
    assert newest is not None and newest.step == 4


def test_a_job_that_starts_at_its_end_waits_for_no_evaluation() -> None:
    world = two_pods()
    world.start(checkpoint_every=4, evaluate_every=4)
    for host in world.hosts():
        world.apply(host, range(1, 5))
        world.happens(events.Evaluated(host, world.assignment(), 4, Part((2.0,), 8, 8)))
    saves(world, 4)
    job = world.job()
    assert job.state is JobState.SUCCEEDED
    assert job.checkpoints.saved[0].evaluation_loss == 2.0
    again = two_pods()
    again.happens(
        events.JobReloaded(dataclasses.replace(job, state=JobState.PENDING, finished_at=None))
    )
    again.lower()
    for host in again.hosts():
        again.ready(host)
    assert again.job().state is JobState.SUCCEEDED
