from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import pathlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from controller.core import commands, events, goodput
from controller.core.account import Phase
from controller.core.cluster import Assignment
from controller.core.errors import InvalidTransition, JobIsLive, UnknownJob
from controller.core.evaluation import Part
from controller.core.job import Job, JobState, Reason
from controller.core.liveness import LivenessPolicy
from controller.core.record import MergedStep
from controller.core.sources import DataSource
from controller.core.spikes import SpikePolicy
from controller.runtime.loop import Loop
from controller.runtime.store import Store
from tests.controller.core.world import PROGRAM, attached, inventory, record, ref, spec


@dataclasses.dataclass
class Observed:
    """What a loop told the outside."""

    commands: list[commands.Command] = dataclasses.field(default_factory=list)
    stored_states: list[str] = dataclasses.field(default_factory=list)
    """State of job-1 in the store at each command."""
    latencies: list[float] = dataclasses.field(default_factory=list)
    steps: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    jobs: list[tuple[str, JobState]] = dataclasses.field(default_factory=list)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'loop.db'}")
    opened.migrate()
    yield opened
    opened.close()


def _loop(store: Store, observed: Observed, **changed: Any) -> Loop:
    def execute(command: commands.Command) -> None:
        document = store.job_document("job-1")
        observed.commands.append(command)
        observed.stored_states.append(document["state"] if document else "nothing")

    def steps_seen(job_id: str, steps: Sequence[MergedStep]) -> None:
        observed.steps += [(job_id, step.record.step) for step in steps]

    def job_seen(job: Job) -> None:
        observed.jobs.append((job.id, job.state))

    return Loop(
        store,
        execute,
        **{
            "policy": LivenessPolicy(silence_grace=3600.0),
            "clock": Clock(),
            "observe_latency": observed.latencies.append,
            "observe_steps": steps_seen,
            "observe_job": job_seen,
            **changed,
        },
    )


@contextlib.asynccontextmanager
async def running(loop: Loop) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(loop.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _pod(loop: Loop, name: str = "pod-0") -> None:
    await loop.ask(attached(ref(name)))
    await loop.ask(events.HostInventoried(ref(name), inventory()))


async def _start(loop: Loop, steps: int = 4) -> None:
    await _pod(loop)
    await loop.ask(events.JobSubmitted("job-1", spec(min_pods=1, max_pods=1, steps=steps)))
    assignment = Assignment("job-1", 1)
    await loop.ask(events.ProgramLowered(assignment, PROGRAM))
    await loop.ask(events.ProgramReady(ref("pod-0"), assignment, 1.0, 0.5, "d", 1000))


def _applied(*steps: int) -> events.StepsApplied:
    records = tuple(record(step) for step in steps)
    return events.StepsApplied(ref("pod-0"), Assignment("job-1", 1), records)


async def test_decision_is_stored_before_its_commands_are_executed(store: Store) -> None:
    observed = Observed()
    loop = _loop(store, observed)
    async with running(loop):
        await _start(loop)
    kinds = [type(command).__name__ for command in observed.commands]
    assert kinds == ["AssembleHost", "LowerProgram", "PrepareHost", "GrantWindow"]
    assert observed.stored_states == ["nothing", "ADMITTED", "STARTING", "RUNNING"]
    assert len(observed.latencies) == 4 and min(observed.latencies) > 0


async def test_ask_returns_when_the_answer_can_be_read(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop):
        await loop.ask(events.JobSubmitted("job-1", spec(), "key-1", "digest-1"))
        assert loop.state.jobs["job-1"].state is JobState.PENDING
        assert store.by_idempotency_key("key-1") == ("job-1", "digest-1")
        assert [event["kind"] for event in store.events(0, 9)] == ["job.submitted", "job.waiting"]


async def test_request_that_fails_raises_to_the_asker_and_changes_nothing(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop) as task:
        await _pod(loop)
        before, journal = loop.state, store.last_event_seq()
        with pytest.raises(UnknownJob):
            await loop.ask(events.CancelRequested("never", "ada"))
        assert loop.state is before and store.last_event_seq() == journal
        assert not task.done()


async def test_asker_that_went_away_stops_nobody(store: Store) -> None:
    loop = _loop(store, Observed())
    gone = [
        asyncio.create_task(loop.ask(event))
        for event in (
            events.JobSubmitted("job-1", spec()),
            events.CancelRequested("never", "ada"),
        )
    ]
    await asyncio.wait(gone, timeout=0)
    for asker in gone:
        asker.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    async with running(loop) as task:
        await _pod(loop)
        assert not task.done() and "job-1" in loop.state.jobs


async def test_mistake_of_ours_ends_the_loop(store: Store) -> None:
    loop = _loop(store, Observed())
    ended = Job("job-1", spec(), JobState.SUCCEEDED, Reason("Completed", "done"), created_at=0.0)
    loop.post(events.JobReloaded(ended))
    async with running(loop) as task:
        with pytest.raises(InvalidTransition):
            await task


async def test_store_that_fails_ends_the_loop_before_any_command(store: Store) -> None:
    observed = Observed()
    loop = _loop(store, observed)
    async with running(loop) as task:
        await loop.ask(events.JobSubmitted("job-0", spec(), "key"))
        await _pod(loop)
        observed.commands.clear()
        before = loop.state
        loop.post(events.JobSubmitted("job-1", spec(min_pods=1, max_pods=1), "key"))
        with pytest.raises(Exception, match="UNIQUE"):
            await task
        assert loop.state is before and observed.commands == []


async def test_readers_wait_for_a_change(store: Store) -> None:
    loop = _loop(store, Observed())
    reader = asyncio.create_task(loop.changed())
    async with running(loop):
        await loop.ask(attached(ref("pod-0")))
        await asyncio.wait_for(reader, 5)
        assert "pod-0" in loop.state.pods


async def test_time_passes_by_itself(store: Store) -> None:
    clock = Clock()
    loop = _loop(store, Observed(), clock=clock, policy=LivenessPolicy(silence_grace=2.0))
    async with running(loop):
        await _pod(loop)
        clock.now += 3.0
        async with asyncio.timeout(5):
            while loop.state.pods["pod-0"].hosts:
                await loop.changed()


async def test_steps_of_a_job_that_ended_are_all_there(store: Store) -> None:
    observed = Observed()
    loop = _loop(store, observed)
    async with running(loop):
        await _start(loop)
        await loop.ask(_applied(1, 2))
        await loop.ask(_applied(3, 4))
        assert [document["step"] for document in store.steps("job-1", 0, 9)] == [1, 2, 3, 4]
        document = store.job_document("job-1")
        assert document is not None and document["state"] == "SUCCEEDED"
    assert observed.steps == [("job-1", step) for step in (1, 2, 3, 4)]
    assert observed.jobs[-1] == ("job-1", JobState.SUCCEEDED)


async def test_steps_reach_the_store_while_the_job_runs(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop):
        await _start(loop)
        await loop.ask(_applied(1))
        async with asyncio.timeout(5):
            while not store.steps("job-1", 0, 9):
                await loop.changed()


async def test_steps_are_in_the_store_before_what_was_decided_after_them(store: Store) -> None:
    """Who goes on from a checkpoint of step 1 asks for no step before."""
    loop = _loop(store, Observed())
    async with running(loop):
        await _start(loop)
        await loop.ask(_applied(1))
        part = Part((2.0,), num_tokens=256, num_bytes=256)
        await loop.ask(events.Evaluated(ref("pod-0"), Assignment("job-1", 1), 1, part))
        assert [document["step"] for document in store.steps("job-1", 0, 9)] == [1]


async def test_steps_not_yet_written_are_written_at_the_stop(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop):
        await _start(loop)
        await loop.ask(_applied(1, 2))
    assert [document["step"] for document in store.steps("job-1", 0, 9)] == [1, 2]


class _Full(Store):
    """Takes decisions, and has no room for measurements the first time."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refusals = 0

    def append_steps(self, documents: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self.refusals += 1
        if self.refusals == 1:
            raise OSError("no space left")
        super().append_steps(documents)


@pytest.fixture
async def full(tmp_path: pathlib.Path) -> AsyncIterator[_Full]:
    opened = _Full(f"sqlite:///{tmp_path / 'full.db'}")
    opened.migrate()
    yield opened
    opened.close()


async def test_steps_that_cannot_be_written_end_the_loop(full: _Full) -> None:
    loop = _loop(full, Observed())
    async with running(loop) as task:
        await _start(loop)
        await loop.ask(_applied(1, 2))
        async with asyncio.timeout(5):
            with pytest.raises(OSError, match="no space left"):
                await task


async def test_nothing_is_written_after_steps_that_were_not(full: _Full) -> None:
    """There would be room for it: the job would end with a hole in its curve."""
    loop = _loop(full, Observed())
    async with running(loop):
        await _start(loop)
        journal = full.last_event_seq()
        await loop.ask(_applied(1, 2))
        with pytest.raises(OSError, match="no space left"):
            await loop.ask(_applied(3, 4))
    assert full.refusals == 1
    assert full.steps("job-1", 0, 9) == [] and full.last_event_seq() == journal
    document = full.job_document("job-1")
    assert document is not None and document["state"] == "RUNNING"


async def test_whoever_asks_a_loop_that_the_store_has_ended_is_told(full: _Full) -> None:
    loop = _loop(full, Observed())
    async with running(loop) as task:
        await _start(loop)
        # All of it before the loop has its turn.
        asked = [
            asyncio.create_task(loop.ask(event))
            for event in (_applied(1), _applied(2, 3, 4), events.JobSubmitted("job-2", spec()))
        ]
        _, ended, later = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(OSError):
            await task
        assert str(ended) == str(later) == "no space left"
        with pytest.raises(OSError, match="no space left"):
            await loop.ask(events.CancelRequested("job-1", "ada"))


async def test_loop_that_may_not_write_any_more_ends_and_writes_nothing(store: Store) -> None:
    lost: list[str] = []

    def may_write() -> None:
        if lost:
            raise RuntimeError(lost[0])

    loop = _loop(store, Observed(), may_write=may_write)
    async with running(loop) as task:
        await _start(loop)
        await loop.ask(_applied(1))
        lost.append("another controller runs")
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="another controller runs"):
                await task
    document = store.job_document("job-1")
    assert document is not None and document["state"] == "RUNNING"
    assert [document["step"] for document in store.steps("job-1", 0, 9)] in ([], [1])


class _Erasing(Store):
    """Erases until something was committed meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.began = threading.Event()
        self.committed = threading.Event()
        self.threads: set[str] = set()

    def commit(self, *args: Any) -> None:
        super().commit(*args)
        self.committed.set()
        self.threads.add(threading.current_thread().name)

    def erase_some(self, job_id: str, most: int) -> bool:
        self.began.set()
        self.threads.add(threading.current_thread().name)
        return self.committed.is_set() and super().erase_some(job_id, most)


class _Broken(_Erasing):
    """Cannot erase."""

    def erase_some(self, job_id: str, most: int) -> bool:
        raise OSError("disk on fire")


@pytest.fixture
async def erasing(
    tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> AsyncIterator[_Erasing]:
    opened = getattr(request, "param", _Erasing)(f"sqlite:///{tmp_path / 'loop.db'}")
    opened.migrate()
    yield opened
    opened.close()


async def test_decision_goes_before_the_next_batch_of_a_deletion(erasing: _Erasing) -> None:
    loop = _loop(erasing, Observed())
    async with running(loop):
        deleted = asyncio.create_task(loop.ask(events.DeleteRequested("job-0")))
        await asyncio.to_thread(erasing.began.wait, 5)
        async with asyncio.timeout(5):
            await loop.ask(events.JobSubmitted("job-1", spec()))
            await deleted
    assert erasing.threads == {"store-writer_0"}


async def test_deleted_job_is_gone_when_ask_returns(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop):
        await _start(loop)
        await loop.ask(_applied(1, 2, 3, 4))
        await loop.ask(events.DeleteRequested("job-1"))
        assert store.job_document("job-1") is None
        assert store.steps("job-1", 0, 9) == store.events(0, 9, "job-1") == []


async def test_delete_of_a_live_job_raises_to_the_asker_and_erases_nothing(store: Store) -> None:
    loop = _loop(store, Observed())
    async with running(loop):
        await _start(loop)
        with pytest.raises(JobIsLive):
            await loop.ask(events.DeleteRequested("job-1"))
        assert store.job_document("job-1") is not None


@pytest.mark.parametrize("erasing", [_Broken], indirect=True)
async def test_job_that_cannot_be_erased_is_an_error_to_the_asker_alone(erasing: _Erasing) -> None:
    loop = _loop(erasing, Observed())
    async with running(loop) as task:
        with pytest.raises(OSError, match="disk on fire"):
            await loop.ask(events.DeleteRequested("job-0"))
        await loop.ask(events.JobSubmitted("job-1", spec()))
        assert not task.done()


@pytest.mark.parametrize("erasing", [_Broken], indirect=True)
async def test_job_that_cannot_be_erased_is_logged_when_nobody_waits(
    erasing: _Erasing, caplog: pytest.LogCaptureFixture
) -> None:
    loop = _loop(erasing, Observed())
    loop.post(events.DeleteRequested("job-0"))
    async with running(loop):
        async with asyncio.timeout(5):
            while "could not be erased; delete it again" not in caplog.text:
                await loop.changed()


async def test_deletion_under_way_does_not_keep_the_loop_from_stopping(erasing: _Erasing) -> None:
    loop = _loop(erasing, Observed())
    async with asyncio.timeout(5):
        async with running(loop):
            deleted = asyncio.create_task(loop.ask(events.DeleteRequested("job-0")))
            await asyncio.to_thread(erasing.began.wait, 5)
        with pytest.raises(asyncio.CancelledError):
            await deleted


async def test_reload_takes_up_what_an_earlier_controller_left(store: Store) -> None:
    first = _loop(store, Observed())
    async with running(first):
        await _start(first)
        await first.ask(events.JobSubmitted("job-2", spec(min_pods=1, max_pods=1)))
        await first.ask(events.JobSubmitted("job-3", spec(min_pods=1, max_pods=1)))
        await first.ask(events.CancelRequested("job-3", "ada"))
    observed = Observed()
    second = _loop(store, observed)
    await second.reload()
    async with running(second):
        await _pod(second)
        assert second.state.jobs["job-1"].state is JobState.ADMITTED
        assert second.state.jobs["job-1"].generation == 2
        assert second.state.jobs["job-1"].attempt == 2
        assert second.state.jobs["job-2"].state is JobState.PENDING
        assert set(second.state.jobs) == {"job-1", "job-2"}


async def test_reload_finishes_a_cancel(store: Store) -> None:
    first = _loop(store, Observed())
    async with running(first):
        await _start(first)
        await first.ask(_applied(1, 2))
        await first.ask(events.CancelRequested("job-1", "ada"))
        assert first.state.jobs["job-1"].state is JobState.CANCELLING
        assert [step["step"] for step in store.steps("job-1", 0, 9)] == [1, 2]
        at_cancel = store.job_document("job-1")
    second = _loop(store, Observed())
    await second.reload()
    async with running(second):
        await _pod(second)
        assert second.state.jobs == {}
    document = store.job_document("job-1")
    assert document is not None and at_cancel is not None
    assert (document["state"], document["reason"]["message"]) == ("CANCELLED", "cancelled by ada")
    assert (document["step"], document["tokens"], document["loss"]) == (2, 2048, 2.5)
    for field in (
        *("step", "target_steps", "tokens", "loss", "loss_is_finite", "admitted_at", "started_at"),
        *("link_bytes", "exposed_seconds", "time_seconds", "goodput"),
    ):
        assert document[field] == at_cancel[field], field


async def test_reload_finishes_a_cancel_of_a_job_that_never_stepped(store: Store) -> None:
    first = _loop(store, Observed())
    async with running(first):
        await _start(first)
        await first.ask(events.CancelRequested("job-1", "ada"))
    second = _loop(store, Observed())
    await second.reload()
    async with running(second):
        await _pod(second)
    document = store.job_document("job-1")
    assert document is not None and document["state"] == "CANCELLED"
    assert (document["step"], document["loss"]) == (0, None)
    assert document["started_at"] == 1000.0


async def test_reload_finishes_a_cancel_without_steps_of_an_earlier_attempt(store: Store) -> None:
    """The job came to step 2 before it started over, and to step 1 since."""
    first = _loop(store, Observed())
    async with running(first):
        await _start(first)
        await first.ask(_applied(1, 2))
    second = _loop(store, Observed())
    await second.reload()
    again = Assignment("job-1", 2)
    async with running(second):
        await _pod(second)
        await second.ask(events.ProgramLowered(again, PROGRAM))
        sources = (DataSource("books", 2, 900, 3, 3), DataSource("news", 1, 300, 1, 1))
        ready = events.ProgramReady(ref("pod-0"), again, 1.0, 0.5, "d", 1000, sources)
        await second.ask(ready)
        one = (record(1, learning_rate=math.nan),)
        await second.ask(events.StepsApplied(ref("pod-0"), again, one, (3, 1)))
        await second.ask(events.CancelRequested("job-1", "ada"))
    third = _loop(store, Observed())
    await third.reload()
    async with running(third):
        await _pod(third)
    document = store.job_document("job-1")
    assert document is not None and document["state"] == "CANCELLED"
    assert (document["step"], document["loss"], document["loss_is_finite"]) == (1, 5.0, True)
    seen = {source["name"]: source["seen_tokens"] for source in document["data"]["sources"]}
    assert seen == {"books": 3 * 256, "news": 256}


async def _comes_back(loop: Loop, generation: int = 1) -> None:
    held = Assignment("job-1", generation)
    await loop.ask(attached(ref("pod-0"), assembled_with="a", held=held, granted=60))
    await loop.ask(events.HostInventoried(ref("pod-0"), inventory()))


async def test_reload_goes_on_with_a_job_whose_host_still_runs_it(store: Store) -> None:
    first = _loop(store, Observed())
    async with running(first):
        await _start(first, steps=100)
        await first.ask(_applied(1, 2, 3))
        before = first.state.jobs["job-1"]
    observed = Observed()
    second = _loop(store, observed)
    await second.reload()
    async with running(second):
        await _comes_back(second)
        job = second.state.jobs["job-1"]
        assert (job.state, job.generation, job.attempt) == (JobState.RUNNING, 1, 1)
        assert [c for c in observed.commands if isinstance(c, commands.TellAgain)] == [
            commands.TellAgain(ref("pod-0"), Assignment("job-1", 1), 3)
        ]
        assert (job.program, job.gang) == (before.program, before.gang)
        assert job.progress is not None and before.progress is not None
        assert (job.progress.merged, job.progress.granted) == (3, 60)
        assert job.progress.totals == before.progress.totals
        assert job.peak_flops_per_second == before.peak_flops_per_second
        await second.ask(_applied(3, 4, 5))
    assert [step["step"] for step in store.steps("job-1", 0, 9)] == [1, 2, 3, 4, 5]
    kinds = [event["kind"] for event in store.events(0, 99, "job-1")]
    assert kinds[-2:] == ["job.awaited", "job.taken_over"]


async def test_reload_takes_no_step_for_the_jobs_that_a_rewind_has_left(store: Store) -> None:
    policy = SpikePolicy(threshold=8, window=16, rewind_steps=5, skip_steps=10, max_rewinds=9)
    first = _loop(store, Observed())
    async with running(first):
        await _pod(first)
        saving = {"spikes": policy, "checkpoint_every": 100}
        await first.ask(
            events.JobSubmitted("job-1", spec(min_pods=1, max_pods=1, steps=100, **saving))
        )
        assignment = Assignment("job-1", 1)
        await first.ask(events.ProgramLowered(assignment, PROGRAM))
        await first.ask(events.ProgramReady(ref("pod-0"), assignment, 1.0, 0.5, "d", 1000))
        records = [record(step, loss=2.0) for step in range(1, 21)] + [record(21, loss=99.0)]
        await first.ask(events.StepsApplied(ref("pod-0"), assignment, tuple(records)))
        again = Assignment("job-1", 2)
        assert first.state.jobs["job-1"].generation == 2
        await first.ask(events.ProgramReady(ref("pod-0"), again, 1.0, 0.5, "d", 1000))
        one = (record(1, loss=2.0), record(2, loss=2.0))
        await first.ask(events.StepsApplied(ref("pod-0"), again, one))
        before = first.state.jobs["job-1"]
    second = _loop(store, Observed())
    await second.reload()
    async with running(second):
        await _comes_back(second, generation=2)
        job = second.state.jobs["job-1"]
        assert job.progress is not None and before.progress is not None
        assert job.progress.merged == 2
        assert job.progress.totals == before.progress.totals
        assert (job.skipped, job.losses) == (before.skipped, before.losses)


async def test_reload_knows_who_stands_still(store: Store) -> None:
    first = _loop(store, Observed())
    async with running(first):
        for pod in ("pod-0", "pod-1"):
            await _pod(first, pod)
        waits = {"on_pod_loss": "wait", "steps": 100}
        await first.ask(events.JobSubmitted("job-1", spec(**waits)))
        assignment = Assignment("job-1", 1)
        await first.ask(events.ProgramLowered(assignment, PROGRAM))
        for pod in ("pod-0", "pod-1"):
            ready = events.ProgramReady(ref(pod), assignment, 1.0, 0.5, "d", 1000)
            await first.ask(ready)
        await first.ask(_applied(1, 2, 3))
        await first.ask(events.HostDetached(ref("pod-1"), "gone"))
        await first.ask(events.JobHeld(ref("pod-0"), assignment, 3, "d" * 64))
        await _pod(first, "pod-1")
        before = first.state.jobs["job-1"]
        assert before.healing is not None and before.healing.begun is not None
    second = _loop(store, Observed())
    await second.reload()
    async with running(second):
        await second.ask(attached(ref("pod-2")))
        job = second.state.jobs["job-1"]
        assert (job.state, job.generation) == (JobState.RECOVERING, 2)
        assert (job.healing, job.setbacks) == (before.healing, before.setbacks)
        assert job.progress is not None and job.progress.merged == 3


async def test_reload_counts_time_on_where_it_was(store: Store) -> None:
    """Over a checkpoint, the loss of its only pod, and a controller that is gone for a minute."""
    now = [1000.0]
    first = _loop(store, Observed(), clock=lambda: now[0])
    host, assignment = ref("pod-0"), Assignment("job-1", 1)
    async with running(first):
        await _pod(first)
        saves = {"checkpoint_every": 4, "on_pod_loss": "wait", "steps": 100}
        await first.ask(events.JobSubmitted("job-1", spec(min_pods=1, max_pods=1, **saves)))
        await first.ask(events.ProgramLowered(assignment, PROGRAM))
        now[0] += 2.0
        await first.ask(events.ProgramReady(host, assignment, 1.0, 0.5, "d", 1000))
        now[0] += 3.0
        await first.ask(_applied(1, 2, 3, 4, 5, 6))
        saved = (host, assignment, 4, "ab" * 32)
        await first.ask(events.CheckpointWritten(*saved, 10, 1.0, 0.1, 16, ""))
        await first.ask(events.CheckpointPublished(host, assignment, 4, ""))
        await first.ask(events.HostDetached(host, "gone"))
        before = first.state.jobs["job-1"]
        assert before.state is JobState.PENDING
    now[0] += 60.0
    second = _loop(store, Observed(), clock=lambda: now[0])
    await second.reload()
    async with running(second):
        await second.ask(attached(ref("pod-9"), num_hosts=2))
        job = second.state.jobs["job-1"]
        assert (job.account.booked, job.account.phase) == (before.account.booked, Phase.RECOVERY)
        assert goodput.time_seconds(job, now[0]) == goodput.time_seconds(before, now[0])
        await _pod(second)
        spent = goodput.time_seconds(second.state.jobs["job-1"], now[0])
        assert (spent["startup"], spent["compile"], spent["recovery"]) == (1.5, 0.5, 60.0)
        assert (spent["productive"], spent["rework"]) == (pytest.approx(1.8), pytest.approx(1.0))
        assert sum(spent.values()) == pytest.approx(65.0)
        await second.ask(events.CancelRequested("job-1", "ada"))
        await second.ask(events.JobReleased(host, Assignment("job-1", 2), 0))
        assert not second.state.jobs
    now[0] += 10.0
    third = _loop(store, Observed(), clock=lambda: now[0])
    async with running(third):
        ended = store.job("job-1")
        assert ended is not None and ended.state is JobState.CANCELLED
        await third.ask(events.RetryRequested(ended, "ada"))
        job = third.state.jobs["job-1"]
        spent = {**spent, "suspended": 10.0}
        assert goodput.time_seconds(job, now[0]) == pytest.approx(spent)
        assert job.account.recoveries == {"PodLost": 1} and job.totals.furthest == 6


async def test_reload_counts_steps_that_were_run_again(store: Store) -> None:
    first = _loop(store, Observed())
    host, again = ref("pod-0"), Assignment("job-1", 2)
    async with running(first):
        await _pod(first)
        waits = {"on_pod_loss": "wait", "steps": 100}
        await first.ask(events.JobSubmitted("job-1", spec(min_pods=1, max_pods=1, **waits)))
        await first.ask(events.ProgramLowered(Assignment("job-1", 1), PROGRAM))
        await first.ask(events.ProgramReady(host, Assignment("job-1", 1), 1.0, 0.5, "d", 1000))
        await first.ask(_applied(1, 2, 3, 4))
        await first.ask(events.HostDetached(host, "gone"))
        await _pod(first)
        await first.ask(events.ProgramLowered(again, PROGRAM))
        await first.ask(events.ProgramReady(host, again, 1.0, 0.5, "d", 1000))
        records = tuple(record(step) for step in (1, 2, 3))
        await first.ask(events.StepsApplied(host, again, records))
        before = first.state.jobs["job-1"]
        assert before.totals.rerun_steps == 3
    second = _loop(store, Observed())
    await second.reload()
    async with running(second):
        await _comes_back(second, generation=2)
        assert second.state.jobs["job-1"].totals == before.totals
        records = tuple(record(step) for step in (4, 5))
        await second.ask(events.StepsApplied(host, again, records))
        assert second.state.jobs["job-1"].totals.rerun_steps == 4
