"""One thread owns the devices: it prepares jobs, runs granted steps without asking, and lets go.

Everything that touches jax happens on this thread, so programs start in one order at all hosts of a
pod. The control side puts orders in and gets reports out; nothing here knows the wire.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable

import jax

from workers.data.batches import epoch_steps
from workers.data.dataset import TokenDataset, open_dataset
from workers.data.errors import DataError
from workers.data.prefetch import Prefetcher
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import (
    ExchangeAborted,
    ExchangeError,
    GradientExchange,
    Membership,
    PeerUnreachable,
)
from workers.orders import (
    Applied,
    Assignment,
    Faulted,
    JobOrder,
    Member,
    Phase,
    Ready,
    Released,
    Report,
)
from workers.program import Program, load, read_bundle
from workers.training import StepInFlight, Training

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.1
"""Steps are reported once the last report is this old, so slow ones one by one; and when half of
what was granted is used, so that the controller can grant more before the rest is."""

_MESSAGE_LINES = 8
_MESSAGE_CHARS = 2000


@dataclasses.dataclass(slots=True)
class _Control:
    """What the control side has said about one assignment."""

    granted: int = 0
    stop_reason: str | None = None


class Executor:
    """Runs one job at a time. All public methods may be called from any thread."""

    def __init__(
        self,
        exchange: GradientExchange,
        agreement: PodAgreement,
        report: Callable[[Report], None],
    ) -> None:
        """`report` is called on the executor's thread and must not block."""
        self._exchange = exchange
        self._agreement = agreement
        self._report = report
        self._orders: queue.SimpleQueue[tuple[JobOrder, bytes] | None] = queue.SimpleQueue()
        self._said = threading.Condition()
        self._controls: dict[Assignment, _Control] = {}

    def use_agreement(self, agreement: PodAgreement) -> None:
        """How this host agrees with the others of its pod, known once the pod has assembled."""
        self._agreement = agreement

    def prepare(self, order: JobOrder, bundle: bytes) -> None:
        """Get ready for a job after those before it; a Ready or Faulted follows."""
        self._exchange.join(
            Membership(
                order.assignment.job,
                order.assignment.generation,
                order.member_index,
                {i: m.link_address for i, m in self._peers(order)},
                {i: m.pod for i, m in self._peers(order)},
            )
        )
        with self._said:
            self._controls.setdefault(order.assignment, _Control())
        self._orders.put((order, bundle))

    def grant(self, assignment: Assignment, last_step: int) -> None:
        """Steps up to `last_step` may run."""
        with self._said:
            control = self._controls.get(assignment)
            if control is not None:
                control.granted = max(control.granted, last_step)
                self._said.notify_all()

    def stop(self, assignment: Assignment, reason: str) -> None:
        """Leave the job at the next step boundary; Released follows."""
        with self._said:
            control = self._controls.get(assignment)
            if control is None:
                return
            control.stop_reason = reason
            self._said.notify_all()
        self._agreement.request_leave(assignment.job, assignment.generation)
        self._exchange.abort(assignment.job, assignment.generation, reason)

    def stop_all(self, reason: str) -> None:
        """Leave every job."""
        with self._said:
            assignments = list(self._controls)
        for assignment in assignments:
            self.stop(assignment, reason)

    def close(self) -> None:
        """`run` returns once the job at hand has been left."""
        self.stop_all("the worker is stopping")
        self._orders.put(None)

    def run(self) -> None:
        """The executor's thread; returns after close."""
        while (item := self._orders.get()) is not None:
            self._serve(*item)

    def _serve(self, order: JobOrder, bundle: bytes) -> None:
        run = _Run(order, bundle, self._controls[order.assignment])
        try:
            self._prepare(run)
            self._train(run)
        except ExchangeAborted as aborted:
            logger.info("%s stopped: %s", order.assignment.job, aborted.reason)
        except Exception as error:
            logger.exception("%s failed while in %s", order.assignment.job, run.phase.value)
            self._report(_fault(run, error))
        finally:
            self._let_go(run)

    def _prepare(self, run: _Run) -> None:
        start = time.perf_counter()
        order = run.order
        run.phase = Phase.FETCH
        manifest, parts = read_bundle(run.bundle, order.bundle_digest)
        with concurrent.futures.ThreadPoolExecutor(1, "open-data") as opener:
            batch = manifest["groups"].get("batch")
            opened = (
                opener.submit(open_dataset, order.data, batch[0]["shape"][1]) if batch else None
            )
            run.phase = Phase.COMPILE
            compile_start = time.perf_counter()
            program = load(manifest, parts)
            compile_seconds = time.perf_counter() - compile_start
            run.phase = Phase.DATA
            dataset = opened.result() if opened else None
        run.phase = Phase.COMPILE
        run.fields = program.record_fields
        batches = _prefetcher(order, program, dataset)
        try:
            run.training = Training(order, program, batches, self._exchange, self._agreement)
        except BaseException:
            if batches is not None:
                batches.close()
            raise
        steps = 0
        if dataset is not None:
            per_epoch = epoch_steps(dataset.num_sequences, order.num_slots * program.microbatch)
            steps = per_epoch * order.epochs
        self._report(
            Ready(
                assignment=order.assignment,
                ready_seconds=time.perf_counter() - start,
                compile_seconds=compile_seconds,
                dataset_digest=dataset.digest if dataset else "none",
                data_steps=steps,
                device_bytes=_device_bytes(program),
            )
        )

    def _train(self, run: _Run) -> None:
        run.phase = Phase.COMPUTE
        assert run.training is not None
        while run.applied < run.order.target_steps and self._may_run(run):
            if run.applied == 0:
                run.training.begin()
            in_flight = run.training.step(run.applied + 1)
            if in_flight is not None:
                run.applied += 1
                run.unsettled.append(in_flight)
                if run.is_report_due(time.perf_counter()):
                    self._flush(run)
            if run.training.is_leaving:
                return

    def _may_run(self, run: _Run) -> bool:
        """Wait until the next step is granted; False when the job is to be left instead.

        A pod of several hosts leaves inside a window only by agreement of its hosts
        (Training.step), because a host that left alone would hang the others' collectives.
        """
        control, wanted = run.control, run.applied + 1
        if control.granted < wanted and control.stop_reason is None:
            self._flush(run)
            with self._said:
                self._said.wait_for(
                    lambda: control.granted >= wanted or control.stop_reason is not None
                )
        if control.stop_reason is None:
            return True
        return control.granted >= wanted and jax.process_count() > 1

    def _flush(self, run: _Run) -> None:
        if run.unsettled:
            records = [step.settle() for step in run.unsettled]
            self._report(Applied(run.order.assignment, run.fields, records))
            run.unsettled = []
        run.reported = run.applied
        run.reported_at = time.perf_counter()

    def _let_go(self, run: _Run) -> None:
        try:
            self._flush(run)
        except Exception:
            logger.exception("the last step records are lost with the devices")
        if run.training is not None:
            run.training.close()
        run.training = None
        assignment = run.order.assignment
        self._exchange.leave(assignment.job, assignment.generation)
        self._agreement.forget(assignment.job, assignment.generation)
        with self._said:
            del self._controls[assignment]
        self._report(Released(assignment, run.applied))

    @staticmethod
    def _peers(order: JobOrder) -> list[tuple[int, Member]]:
        return [(i, m) for i, m in enumerate(order.members) if i != order.member_index]


@dataclasses.dataclass(slots=True)
class _Run:
    """One job on its way through the executor."""

    order: JobOrder
    bundle: bytes
    control: _Control
    phase: Phase = Phase.FETCH
    training: Training | None = None
    fields: list[str] = dataclasses.field(default_factory=list)
    applied: int = 0
    unsettled: list[StepInFlight] = dataclasses.field(default_factory=list)
    reported: int = 0
    reported_at: float = 0.0
    answered: int = 0
    """The grant that the last report at half of one was about."""

    def is_report_due(self, now: float) -> bool:
        granted = self.control.granted
        if granted != self.answered and 2 * self.applied >= self.reported + granted:
            self.answered = granted
            return True
        return now - self.reported_at > REPORT_SECONDS


def _prefetcher(
    order: JobOrder, program: Program, dataset: TokenDataset | None
) -> Prefetcher | None:
    if dataset is None:
        return None
    return Prefetcher(
        dataset,
        seed=order.seed,
        global_batch=order.num_slots * program.microbatch,
        microbatch=program.microbatch,
        slots=range(order.me.first_slot, order.me.end_slot),
        first_step=1,
        last_step=order.target_steps,
    )


def _device_bytes(program: Program) -> dict[str, int]:
    """The largest need of any component: they run one after the other."""
    needs = [component.device_bytes for component in program.components.values()]
    return {use: max(need.get(use, 0) for need in needs) for use in ("arguments", "temporaries")}


def _fault(run: _Run, error: Exception) -> Faulted:
    suspect = error.pod if isinstance(error, PeerUnreachable) else ""
    phase = run.phase
    if isinstance(error, ExchangeError):
        phase = Phase.EXCHANGE
    elif isinstance(error, DataError):
        phase = Phase.DATA
    step = run.applied + 1 if run.training is not None else 0
    return Faulted(run.order.assignment, phase, step, _message(error), suspect)


def _message(error: Exception) -> str:
    """The error in a few lines: compilers write pages."""
    text = "".join(traceback.format_exception_only(error)).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:_MESSAGE_LINES])[:_MESSAGE_CHARS]
