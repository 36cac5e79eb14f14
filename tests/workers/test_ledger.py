"""What is told again to a controller that was away."""

from __future__ import annotations

from workers.ledger import MOST_RECORDS, Ledger
from workers.orders import (
    Applied,
    Assignment,
    CheckpointPublished,
    CheckpointWritten,
    Held,
    Inventory,
    Ready,
    Released,
    Report,
    StepRecord,
    Warmed,
)

JOB = Assignment("job", 1)
READY = Ready(JOB, 1.0, 0.5, "d", 100, {})
INVENTORY = Inventory("cpu", "cpu", 1, 0, {}, "unknown", {})


def applied(first: int, last: int, job: Assignment = JOB) -> Applied:
    records = [
        StepRecord(step, 0.0, [1.0], 0.1, 0, 0, 0, 0, 0, 0, None, b"")
        for step in range(first, last + 1)
    ]
    return Applied(job, ["loss"], records)


def holding(*reports: Report) -> Ledger:
    ledger = Ledger()
    ledger.begin(JOB)
    for report in reports:
        assert list(ledger.tell(report)) == [report]
    return ledger


def steps(reports) -> list[int]:
    return [r.step for report in reports if isinstance(report, Applied) for r in report.records]


def test_steps_that_are_known_are_not_told_again() -> None:
    ledger = holding(READY, applied(1, 4), applied(5, 6))
    ledger.fall_silent()
    again = ledger.again(JOB, 3)
    assert again[0] == READY and steps(again) == [4, 5, 6]
    assert ledger.again(JOB, 6) == [READY]


def test_nothing_is_told_of_the_job_before_somebody_asks() -> None:
    ledger = holding(READY, applied(1, 4))
    ledger.fall_silent()
    assert ledger.tell(applied(5, 6)) == []
    # What is of no job is told at once.
    assert ledger.tell(INVENTORY) == [INVENTORY]
    assert ledger.tell(Warmed("sha256:ab")) == [Warmed("sha256:ab")]
    assert steps(ledger.again(JOB, 4)) == [5, 6]
    assert ledger.tell(applied(7, 7)) == [applied(7, 7)]


def test_order_of_what_was_told_is_kept() -> None:
    written = CheckpointWritten(JOB, 4, b"", 1, 1.0, 0.0)
    held = Held(JOB, 4, b"")
    ledger = holding(READY, applied(1, 4), written, held)
    assert ledger.again(JOB, 0) == [READY, applied(1, 4), written, held]


def test_checkpoint_that_was_published_is_published_again_and_not_told() -> None:
    assert holding(CheckpointPublished(JOB, 4)).again(JOB, 0) == []


def test_job_that_was_let_go_is_not_held() -> None:
    ledger = holding(READY)
    assert ledger.held == JOB
    ledger.fall_silent()
    assert ledger.tell(Released(JOB, 4)) == [Released(JOB, 4)]
    assert ledger.held is None and ledger.again(JOB, 0) == []


def test_next_generation_begins_with_nothing_to_tell() -> None:
    ledger = holding(READY, applied(1, 4))
    ledger.granted(JOB, 64)
    assert ledger.granted_step == 64
    following = Assignment("job", 2)
    ledger.begin(following)
    assert (ledger.held, ledger.granted_step) == (following, 0)
    # The one before is let go a moment later.
    late = Released(JOB, 4)
    assert ledger.tell(late) == [late]
    assert ledger.held == following and ledger.again(following, 0) == []
    ledger.granted(JOB, 128)
    assert ledger.granted_step == 0


def test_who_asks_for_another_generation_hears_nothing() -> None:
    ledger = holding(READY)
    ledger.fall_silent()
    assert ledger.again(Assignment("job", 2), 0) == []
    assert ledger.tell(applied(1, 1)) == []


def test_oldest_steps_go_first() -> None:
    half = MOST_RECORDS // 2
    ledger = holding(
        READY, applied(1, half), applied(half + 1, 2 * half), applied(2 * half + 1, 2 * half + 1)
    )
    again = ledger.again(JOB, 0)
    assert again[0] == READY and steps(again)[0] == half + 1


def test_host_without_a_job_is_never_silent() -> None:
    ledger = Ledger()
    ledger.fall_silent()
    assert ledger.tell(READY) == [READY]
