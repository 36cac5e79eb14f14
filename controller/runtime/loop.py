"""The single writer: takes an event, asks the core, commits, executes.

One asyncio task owns the controller's state, one thread writes to the store. Everybody else posts
events and reads the immutable state; there are no locks. Decisions are committed before their
commands are executed; measurements are written and deleted jobs erased behind, in batches, off the
decision path. When one of the two cannot be written, the loop ends: no controller goes on without
keeping records. What was not written, hosts tell the next one again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controller.core import commands, events, machine, view
from controller.core.errors import ControllerError
from controller.core.job import Job
from controller.core.liveness import LivenessPolicy
from controller.core.record import MergedStep
from controller.core.turn import Outcome, State
from controller.runtime.store import JobRow, Store
from controller.runtime.writer import Writer
from protos import faults

logger = logging.getLogger(__name__)

STEP_FLUSH_SECONDS = 0.25
"""Step records reach the store at most this late; one transaction then holds 4,000 steps at
16k/s."""

ERASE_BATCH_ROWS = 1000
"""Rows of a deleted job that go in one transaction, which takes about 3 ms: the longest that a
decision waits for an erasure. A job of 60,000 steps is 60 of them."""

TICK_SECONDS = 0.25
"""Resolution of every deadline in the liveness policy; the shortest of them is 2 s."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Posted:
    event: events.Event
    posted_at: float
    done: asyncio.Future[None] | None


class Loop:
    """Owns the state. Construct, `reload`, then run `run` as one task."""

    def __init__(
        self,
        store: Store,
        execute: Callable[[commands.Command], None],
        *,
        policy: LivenessPolicy,
        may_write: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        observe_latency: Callable[[float], None] = lambda seconds: None,
        observe_steps: Callable[[str, Sequence[MergedStep]], None] = lambda job, steps: None,
        observe_job: Callable[[Job], None] = lambda job: None,
        observe_event: Callable[[events.Event], None] = lambda event: None,
    ) -> None:
        self.state = State()
        self._store = store
        self._execute = execute
        self._policy = policy
        self._clock = clock
        self._ahead_seconds = 0.0
        """Of that clock; what faults set it ahead by."""
        self._observe_latency = observe_latency
        self._observe_steps = observe_steps
        self._observe_job = observe_job
        self._observe_event = observe_event
        self._queue: asyncio.Queue[_Posted] = asyncio.Queue()
        self._writer = Writer(may_write)
        self._unwritten: list[tuple[str, dict[str, Any]]] = []
        self._erasing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._failure: Exception | None = None

    def post(self, event: events.Event) -> None:
        """Something happened. Returns at once; must be called on the loop's thread."""
        self._queue.put_nowait(_Posted(event, time.perf_counter(), None))

    async def ask(self, event: events.Event) -> None:
        """Something is wanted. Returns when it is decided and written, or when a job that is to be
        forgotten is erased; raises ControllerError, and what a store raises that cannot write."""
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Posted(event, time.perf_counter(), done))
        await done

    async def changed(self) -> None:
        """Wait until the state is another than now."""
        await self._changed.wait()

    async def reload(self) -> None:
        """Take up the jobs of an earlier life of the controller, and the pods it gave none."""
        self.post(events.PodsReloaded(await asyncio.to_thread(self._store.withheld)))
        for job, records in await asyncio.to_thread(self._store.unfinished):
            self.post(events.JobReloaded(job, records))

    async def run(self) -> None:
        """Handle events until cancelled; then write what is still unwritten. Raises what the store
        raises that cannot write, at a step record within TICK_SECONDS, and what `may_write` does.
        """
        ticker = asyncio.create_task(self._tick())
        flusher = asyncio.create_task(self._flush_steps())
        try:
            while True:
                posted = await self._queue.get()
                try:
                    if isinstance(posted.event, events.Ticked):
                        self._writer.check()
                    await self._turn(posted)
                except Exception as error:
                    self._refuse(posted, error)
                    raise
        finally:
            ticker.cancel()
            flusher.cancel()
            for erasing in self._erasing:
                erasing.cancel()
            await asyncio.gather(*self._erasing, return_exceptions=True)
            self._write_steps()
            await asyncio.to_thread(self._writer.close)
            if self._writer.failure is not None:
                logger.error("records are not in the store: %s", self._writer.failure)

    def _refuse(self, posted: _Posted | None, error: Exception) -> None:
        """Nobody waits for an answer that cannot come."""
        self._failure = error
        while posted is not None:
            if posted.done is not None and not posted.done.done():
                posted.done.set_exception(error)
            posted = None if self._queue.empty() else self._queue.get_nowait()

    async def _turn(self, posted: _Posted) -> None:
        try:
            outcome = machine.handle(self.state, posted.event, self._now(), self._policy)
        except ControllerError as error:
            if posted.done is None:
                raise
            if not posted.done.cancelled():
                posted.done.set_exception(error)
            return
        for job, steps in outcome.steps:
            self._unwritten += [(job.id, view.step_document(step, job)) for step in steps]
            self._observe_steps(job.id, steps)
        if outcome.changed_jobs:
            # Written in order: whoever sees that a job has ended finds all of its steps, and who
            # goes on from a checkpoint finds those before it.
            self._write_steps()
        if outcome.changed_jobs or outcome.entries:
            await self._commit(outcome, posted.event)
        self.state = outcome.state
        for command in outcome.commands:
            self._execute(command)
        if outcome.commands:
            self._observe_latency(time.perf_counter() - posted.posted_at)
        for job in outcome.changed_jobs:
            self._observe_job(job)
        self._observe_event(posted.event)
        if outcome.forgotten_jobs:
            self._erase_behind(outcome.forgotten_jobs, posted.done)
        elif posted.done is not None and not posted.done.cancelled():
            posted.done.set_result(None)
        self._announce()

    async def _commit(self, outcome: Outcome, event: events.Event) -> None:
        now = self._now()
        rows = [
            JobRow(job, view.job_document(job, outcome.state, now)) for job in outcome.changed_jobs
        ]
        keys: Mapping[str, tuple[str | None, str | None]] = {}
        if isinstance(event, events.JobSubmitted):
            keys = {event.job_id: (event.idempotency_key, event.body_digest)}
        for entry in outcome.entries:
            logger.info("%s", entry.message, extra={"kind": entry.kind, "job": entry.job_id})
        await self._writer.write(self._store.commit, now, rows, outcome.entries, keys)

    def _now(self) -> float:
        jump = faults.at("clock")
        if jump is not None:
            self._ahead_seconds += jump.seconds
        return self._clock() + self._ahead_seconds

    def _write_steps(self) -> None:
        if self._unwritten:
            self._writer.write_behind(self._store.append_steps, self._unwritten)
            self._unwritten = []

    def _erase_behind(self, job_ids: Sequence[str], done: asyncio.Future[None] | None) -> None:
        erasing = asyncio.create_task(self._erase(job_ids))
        self._erasing.add(erasing)
        erasing.add_done_callback(self._erasing.discard)
        erasing.add_done_callback(lambda ended: _answer(ended, done))

    async def _erase(self, job_ids: Sequence[str]) -> None:
        """The writer takes turns: what was decided during a batch is committed before the next."""
        for job_id in job_ids:
            while not await self._writer.try_to(self._store.erase_some, job_id, ERASE_BATCH_ROWS):
                pass
            logger.info("job %s was deleted", job_id)

    async def _flush_steps(self) -> None:
        while True:
            await asyncio.sleep(STEP_FLUSH_SECONDS)
            self._write_steps()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.post(events.Ticked())

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _answer(erasing: asyncio.Task[None], done: asyncio.Future[None] | None) -> None:
    """Tell who asked for an erasure how it ended; when nobody waits, the log."""
    waiting = done if done is not None and not done.cancelled() else None
    if erasing.cancelled():
        if waiting is not None:
            waiting.cancel()
        return
    error = erasing.exception()
    if error is not None and waiting is None:
        logger.error("a deleted job could not be erased; delete it again", exc_info=error)
    elif error is not None and waiting is not None:
        waiting.set_exception(error)
    elif waiting is not None:
        waiting.set_result(None)
