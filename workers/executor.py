"""One thread owns the devices: it prepares jobs, runs granted steps without asking, and lets go.

Programs start on this thread only, so in one order at all hosts of a pod; what checkpoints copied
is written on a thread of its own. The control side puts orders in and gets reports out; nothing
here knows the wire.

A job that ends here without having failed here stands still: its state is kept, for the job's next
generation to go on with, until it is told to stop.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import queue
import threading
import time
from collections.abc import Callable

import jax

from protos import faults
from workers.checkpoint.layout import CheckpointError
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import ExchangeAborted, GradientExchange, PeerUnreachable
from workers.orders import (
    Activity,
    Assignment,
    ExchangeRule,
    Held,
    JobOrder,
    Phase,
    Released,
    Report,
    RestoreFailed,
    Warmed,
)
from workers.preparation import prepare
from workers.program import Loader, Program, load, read_bundle
from workers.run import Control, Kept, Run
from workers.training import Training

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Warm:
    bundle_digest: str
    bundle: bytes


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
        self._orders: queue.SimpleQueue[tuple[JobOrder, bytes] | _Warm | Assignment | None]
        self._orders = queue.SimpleQueue()
        """To serve a job, to compile, to drop a job that stands still, or to end."""
        self._said = threading.Condition()
        self._controls: dict[Assignment, Control] = {}
        self._program: Program | None = None
        """The last one that ran or was compiled ahead: a job's next generation needs it."""
        self._kept: Kept | None = None
        self._at_hand: Run | None = None

    def activity(self) -> Activity | None:
        """What is done for a job; None while there is none that runs or gets ready."""
        run = self._at_hand
        return run.activity() if run is not None else None

    def use_agreement(self, agreement: PodAgreement) -> None:
        """How this host agrees with the others of its pod, known once the pod has assembled."""
        self._agreement = agreement

    def has_program(self, bundle_digest: str) -> bool:
        """Whether the program that ran last, or was compiled ahead, is the one of this bundle,
        whose bytes are then not needed."""
        program = self._program
        return program is not None and program.bundle_digest == bundle_digest

    def warm(self, bundle_digest: str, bundle: bytes) -> None:
        """Compile a program that may be needed soon; Warmed follows, unless it cannot be."""
        self._orders.put(_Warm(bundle_digest, bundle))

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

    def hold(self, assignment: Assignment, reason: str) -> None:
        """Stop at the next step boundary and keep the state; Held follows, or Released where there
        is none yet."""
        self._leave(assignment, reason, keeps_state=True)

    def stop(self, assignment: Assignment, reason: str) -> None:
        """Leave the job at the next step boundary; Released follows."""
        self._leave(assignment, reason, keeps_state=False)

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
            if isinstance(item, Assignment):
                self._drop(item)
            elif isinstance(item, _Warm):
                self._compile(item)
            else:
                self._serve(*item)

    def _leave(self, assignment: Assignment, reason: str, *, keeps_state: bool) -> None:
        with self._said:
            control = self._controls.get(assignment)
            if control is None:
                return
            control.leave_reason, control.keeps_state = reason, keeps_state
            stands_still = control.stands_still
            self._said.notify_all()
        if not stands_still:
            self._agreement.request_leave(assignment.job, assignment.generation)
            self._exchange.abort(assignment.job, assignment.generation, reason)
        elif not keeps_state:
            self._orders.put(assignment)

    def _compile(self, ahead: _Warm) -> None:
        try:
            manifest, parts = read_bundle(ahead.bundle, ahead.bundle_digest)
            self._program = self._load(manifest, parts, ahead.bundle_digest)
        except Exception:
            # The job that needs it hears of it when it does.
            logger.exception("%s cannot be compiled ahead", ahead.bundle_digest)
        else:
            self._report(Warmed(ahead.bundle_digest))

    def _serve(self, order: JobOrder, bundle: bytes) -> None:
        control, kept = self._controls[order.assignment], self._taken_up(order)
        run = Run(order, bundle, control, program=self._program, kept=kept)
        self._at_hand = run
        is_intact = False
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
            is_intact = True
        except ExchangeAborted as aborted:
            logger.info("%s stopped: %s", order.assignment.job, aborted.reason)
            is_intact = True
        except PeerUnreachable as error:
            logger.warning("%s stands still: %s", order.assignment.job, error)
            self._report(run.fault(error))
            is_intact = True
        except CheckpointError as error:
            logger.error("%s cannot start: %s", order.assignment.job, error)
            self._report(RestoreFailed(order.assignment, str(error)))
        except Exception as error:
            logger.exception("%s failed while in %s", order.assignment.job, run.phase.value)
            self._report(run.fault(error))
        finally:
            self._end(run, is_intact)

    def _train(self, run: Run) -> None:
        assert run.training is not None
        is_first = True
        if run.order.resume is not None and self._may_run(run, run.applied):
            run.training.begin()
            is_first = False
            self._between_steps(run, run.training)
        while run.applied < run.target_steps and self._may_run(run, run.applied + 1):
            if is_first:
                run.training.begin()
                is_first = False
            change = run.control.changes.pop(run.applied + 1, None)
            if change is not None:
                run.training.use(change)
            run.enter(Phase.COMPUTE, run.applied + 1)
            faults.at("step")
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
                run.enter(Phase.EVALUATE)
                self._report(run.evaluator.evaluate(run.applied, training))
            if saves and run.saver is not None:
                run.enter(Phase.SAVE)
                run.saver.save(run.applied, training)

    def _may_run(self, run: Run, wanted: int) -> bool:
        """Wait until a step is granted; False when the job is to be left instead.

        A pod of several hosts leaves inside a window only by agreement of its hosts
        (Training.step), because a host that left alone would hang the others' collectives.
        """
        control = run.control
        if control.granted < wanted and control.leave_reason is None:
            self._flush(run)
            run.enter(Phase.REST)
            with self._said:
                self._said.wait_for(
                    lambda: control.granted >= wanted or control.leave_reason is not None
                )
        if control.leave_reason is None:
            return True
        return control.granted >= wanted and jax.process_count() > 1

    def _flush(self, run: Run) -> None:
        applied = run.settle()
        if applied is not None:
            self._report(applied)
        run.mark_reported(time.perf_counter())

    def _end(self, run: Run, is_intact: bool) -> None:
        """The generation is over here. The job stands still, unless it was told to stop or there is
        no state to keep."""
        assignment = run.order.assignment
        run.enter(Phase.REST)
        try:
            self._flush(run)
        except Exception:
            logger.exception("the last step records are lost with the devices")
            is_intact = False
        if run.saver is not None:
            # A job that is stopped must let go within seconds, whatever the disk does.
            run.saver.close(wait=run.applied >= run.target_steps)
        # Before the training is closed: what it still waits to receive is given up.
        self._exchange.leave(assignment.job, assignment.generation)
        kept = self._kept_of(run) if is_intact else None
        if run.training is not None:
            run.training.close()
        run.training = None
        self._agreement.forget(assignment.job, assignment.generation)
        control = run.control
        with self._said:
            if control.leave_reason is not None and not control.keeps_state:
                kept = None
            control.stands_still = kept is not None
            if kept is None:
                del self._controls[assignment]
        self._kept, self._at_hand = kept, None
        if kept is not None:
            self._report(Held(assignment, kept.step, kept.state_sha256))
        else:
            self._report(Released(assignment, run.applied))

    def _kept_of(self, run: Run) -> Kept | None:
        assignment, training = run.order.assignment, run.training
        if training is None:
            kept = run.kept
            return dataclasses.replace(kept, assignment=assignment) if kept else None
        try:
            # All hosts of a pod do this, whatever they were told: it may run on all of its devices.
            state, digest = training.kept(), training.state_sha256()
        except Exception:
            logger.exception("the state of %s is lost with the devices", assignment.job)
            return None
        return Kept(assignment, run.applied, state, digest) if state is not None else None

    def _taken_up(self, order: JobOrder) -> Kept | None:
        """What the order goes on with, if it is here. What stood still does no more."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        with self._said:
            del self._controls[kept.assignment]
        if kept.assignment.job != order.assignment.job:
            self._report(Released(kept.assignment, kept.step))
            return None
        resume = order.resume
        if resume is None or kept.step != resume.step or order.member_index in resume.lacking:
            return None
        return kept

    def _drop(self, assignment: Assignment) -> None:
        """Let go of a job that stands still, unless its next generation has taken it up."""
        kept = self._kept
        if kept is None or kept.assignment != assignment:
            return
        self._kept = None
        with self._said:
            del self._controls[assignment]
        self._report(Released(assignment, kept.step))
