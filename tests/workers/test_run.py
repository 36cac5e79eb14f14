"""When steps are reported: early enough for the next grant, and slow ones one by one."""

import pytest

from workers.exchange.base import ExchangeAborted, PeerUnreachable
from workers.orders import Assignment, BatchPhase, JobOrder, Member, Phase
from workers.run import REPORT_SECONDS, Control, Run

ALONE = (BatchPhase(1, 1, (range(1),)),)
ORDER = JobOrder(
    Assignment("job", 1), "sha256:0", (Member("pod-0", ""),), 0, ALONE, 0, {}, 0, 10_000
)


@pytest.fixture
def run() -> Run:
    return Run(ORDER, b"", Control())


def report_steps(run: Run, last_step: int, now: float = 0.0) -> list[int]:
    """Steps of an endless loop in no time after which a report was due; nothing more is granted."""
    reported = []
    while run.applied < min(last_step, run.control.granted):
        run.applied += 1
        if run.is_report_due(now):
            run.mark_reported(now)
            reported.append(run.applied)
    return reported


def test_report_with_128_steps_granted_ahead_is_due_every_64_steps(run):
    run.control.granted = 128
    reported = []
    while run.applied < 1000:
        reported += report_steps(run, run.applied + 1)
        run.control.granted = run.reported + 128
    assert reported == list(range(64, 1001, 64))


@pytest.mark.parametrize("late_by", [1, 10, 63])
def test_report_when_a_grant_comes_late_is_due_at_the_same_step(run, late_by):
    run.control.granted = 128
    assert report_steps(run, 64 + late_by) == [64]
    run.control.granted = 64 + 128
    assert report_steps(run, 192) == [128]


def test_report_is_due_once_per_grant(run):
    run.control.granted = 128
    assert report_steps(run, 128) == [64]


def test_report_of_slow_steps_is_due_one_by_one_by_time(run):
    run.control.granted = 128
    reported = []
    for step in range(1, 6):
        reported += report_steps(run, step, now=step * 1.5 * REPORT_SECONDS)
    assert reported == [1, 2, 3, 4, 5]


def test_report_of_quick_steps_is_not_due_by_time_before_the_last_is_old(run):
    run.control.granted = 1000
    run.mark_reported(5.0)
    assert report_steps(run, 10, now=5.0 + 0.9 * REPORT_SECONDS) == []
    assert report_steps(run, 20, now=5.0 + 1.1 * REPORT_SECONDS) == [11]


def test_settle_without_applied_steps_reports_nothing(run):
    assert run.settle() is None


def test_fault_of_a_peer_names_the_pod_and_the_exchange(run):
    fault = run.fault(PeerUnreachable(1, "pod-1", "gone"))
    assert (fault.phase, fault.suspect_pod, fault.step) == (Phase.EXCHANGE, "pod-1", 0)


def test_fault_of_its_own_names_what_was_being_done_in_a_few_lines(run):
    run.enter(Phase.COMPILE)
    fault = run.fault(RuntimeError("\n".join(f"line {n}" for n in range(100))))
    assert (fault.phase, fault.suspect_pod) == (Phase.COMPILE, "")
    assert fault.message.splitlines()[-1] == "line 7"
    assert run.fault(ExchangeAborted("x")).phase is Phase.EXCHANGE
