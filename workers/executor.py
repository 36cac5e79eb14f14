"""One thread owns the devices: it prepares jobs, runs granted steps without asking, and lets go.

Programs start on this thread only, so in one order at all hosts of a pod; what checkpoints copied
is written on a thread of its own. The control side puts orders in and gets reports out; nothing
here knows the wire.
"""

from __future__ import annotations

import logging
import pathlib
import queue
import threading
import time
from collections.abc import Callable

import jax

from workers.checkpoint.layout import CheckpointError
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import ExchangeAborted, GradientExchange
from workers.orders import (
    Assignment,
    ExchangeRule,
    JobOrder,
    Phase,
    Released,
    Report,
    RestoreFailed,
)
from workers.preparation import prepare
from workers.program import Loader, Program, load
from workers.run import Control, Run
from workers.training import Training

logger = logging.getLogger(__name__)


class Executor:
    """Runs one job at a time. All public methods may be called from any thread."""

    def __init__(
        self,
        exchange: GradientExchange,
        agreement: PodAgreement,
        report: Callable[[Report], None],
        token_folder: pathlib.Path | None = None,
        load: Loader = load,
    ) -> None:
        """`report` is called on the executor's thread and must not block. Tokens of data are kept
        in `token_folder`, or for one job only when there is none."""
        self._exchange = exchange
        self._agreement = agreement
        self._report = report
        self._token_folder = token_folder
        self._load = load
        self._orders: queue.SimpleQueue[tuple[JobOrder, bytes] | None] = queue.SimpleQueue()
        self._said = threading.Condition()
        self._controls: dict[Assignment, Control] = {}
        self._program: Program | None = None
        """The last one that ran: a job that goes back to a checkpoint needs it again."""

    def use_agreement(self, agreement: PodAgreement) -> None:
        """How this host agrees with the others of its pod, known once the pod has assembled."""
        self._agreement = agreement

    def prepare(self, order: JobOrder, bundle: bytes) -> None:
        """Get ready for a job after those before it; a Ready or Faulted follows."""
        with self._said:
            self._controls.setdefault(order.assignment, Control())
        self._orders.put((order, bundle))

    def grant(self, assignment: Assignment, last_step: int) -> None:
        """Steps up to `last_step` may run."""
        with self._said:
            control = self._controls.get(assignment)
            if control is not None:
                control.granted = max(control.granted, last_step)
                self._said.notify_all()

    def save_after(self, assignment: Assignment, step: int) -> None:
        """Write a checkpoint after this step too, which has not been granted yet."""
        with self._said:
            control = self._controls.get(assignment)
            if control is not None:
                control.save_steps.add(step)

    def change_exchange(self, assignment: Assignment, first_step: int, rule: ExchangeRule) -> None:
        """Exchange in this way from `first_step` on, which has not been granted yet."""
        with self._said:
            control = self._controls.get(assignment)
            if control is not None:
                control.changes[first_step] = rule

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
        run = Run(order, bundle, self._controls[order.assignment], program=self._program)
        try:
            ready = prepare(
                run,
                self._exchange,
                self._agreement,
                self._report,
                self._token_folder,
                self._load,
            )
            self._program = run.program
            self._report(ready)
            self._train(run)
        except ExchangeAborted as aborted:
            logger.info("%s stopped: %s", order.assignment.job, aborted.reason)
        except CheckpointError as error:
            logger.error("%s cannot start: %s", order.assignment.job, error)
            self._report(RestoreFailed(order.assignment, str(error)))
        except Exception as error:
            logger.exception("%s failed while in %s", order.assignment.job, run.phase.value)
            self._report(run.fault(error))
        finally:
            self._let_go(run)

    def _train(self, run: Run) -> None:
        run.phase = Phase.COMPUTE
        assert run.training is not None
        is_first = True
        while run.applied < run.target_steps and self._may_run(run):
            if is_first:
                run.training.begin()
                is_first = False
            change = run.control.changes.pop(run.applied + 1, None)
            if change is not None:
                run.training.use(change)
            in_flight = run.training.step(run.applied + 1)
            if in_flight is not None:
                run.applied += 1
                run.unsettled.append(in_flight)
                self._between_steps(run, run.training)
                if run.is_report_due(time.perf_counter()):
                    self._flush(run)
            if run.training.is_leaving:
                return

    def _between_steps(self, run: Run, training: Training) -> None:
        """Evaluate and save, when that is due. The steps so far are reported first: whoever hears
        of an evaluation or a checkpoint has heard of its step."""
        evaluates, saves = run.is_evaluation_due(), run.is_save_due()
        if not evaluates and not saves:
            return
        self._flush(run)
        with training.pause():
            if evaluates and run.evaluator is not None:
                self._report(run.evaluator.evaluate(run.applied, training))
            if saves and run.saver is not None:
                run.saver.save(run.applied, training)

    def _may_run(self, run: Run) -> bool:
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

    def _flush(self, run: Run) -> None:
        applied = run.settle()
        if applied is not None:
            self._report(applied)
        run.mark_reported(time.perf_counter())

    def _let_go(self, run: Run) -> None:
        try:
            self._flush(run)
        except Exception:
            logger.exception("the last step records are lost with the devices")
        if run.saver is not None:
            # A job that is stopped must let go within seconds, whatever the disk does.
            run.saver.close(wait=run.applied >= run.target_steps)
        assignment = run.order.assignment
        # Before the training is closed: what it still waits to receive is given up.
        self._exchange.leave(assignment.job, assignment.generation)
        if run.training is not None:
            run.training.close()
        run.training = None
        self._agreement.forget(assignment.job, assignment.generation)
        with self._said:
            del self._controls[assignment]
        self._report(Released(assignment, run.applied))
