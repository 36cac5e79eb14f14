from __future__ import annotations

import pytest

from controller.core.cluster import Assignment, Host, Pod
from controller.core.gang import admit
from controller.core.job import Job, JobState, Reason
from tests.controller.core.world import inventory, ref, spec


def _pod(name: str, *, hosts: int = 1, busy_with: str = "", **held: object) -> Pod:
    members = {
        index: Host(ref(name, index), "l", "c", 1, 0.0, inventory=inventory(**held))
        for index in range(hosts)
    }
    return Pod(name, hosts, members, Assignment(busy_with, 1) if busy_with else None)


def _job(job_id: str, **fields: object) -> Job:
    return Job(job_id, spec(**fields), JobState.PENDING, Reason("", ""), created_at=0.0)


FORMING = Pod("pod-9", 2, {0: Host(ref("pod-9"), "l", "c", 1, 0.0)})
LOST = Pod("pod-9", 1, is_given_up=True)
HALF_LOST = Pod("pod-9", 2, _pod("pod-9").hosts, is_given_up=True)


@pytest.mark.parametrize(
    ("wants", "pods", "got"),
    [
        ({"min_pods": 1, "max_pods": 1}, 3, ["pod-0"]),
        ({"min_pods": 1, "max_pods": 2}, 3, ["pod-0", "pod-1"]),
        ({"min_pods": 1, "max_pods": 4}, 3, ["pod-0", "pod-1", "pod-2"]),
        ({"min_pods": 3, "max_pods": 3}, 3, ["pod-0", "pod-1", "pod-2"]),
        ({"min_pods": 4, "max_pods": 4}, 3, []),
    ],
)
def test_gang_gets_as_many_pods_as_there_are_up_to_its_most_or_none(
    wants: dict[str, int], pods: int, got: list[str]
) -> None:
    (verdict,) = admit([_job("a", **wants)], [_pod(f"pod-{i}") for i in range(pods)])
    assert list(verdict.gang) == got


def test_gang_of_three_is_named_in_order() -> None:
    pods = [_pod("pod-0"), _pod("pod-1"), _pod("pod-2")]
    (verdict,) = admit([_job("a", min_pods=3, max_pods=3)], pods)
    assert verdict.gang == ("pod-0", "pod-1", "pod-2")
    assert verdict.reason == Reason(
        "Admitted", "holds 3 pods (pod-0, pod-1, pod-2); lowering the program"
    )


def test_gang_is_built_alike() -> None:
    pods = [_pod("pod-0"), _pod("pod-1", kind="gpu"), _pod("pod-2", kind="gpu")]
    (verdict,) = admit([_job("a")], pods)
    assert list(verdict.gang) == ["pod-1", "pod-2"]


@pytest.mark.parametrize(
    ("pods", "code", "message"),
    [
        ([], "DoesNotFit", "needs 2 pods of 1 device; the fleet has no pods"),
        (
            [_pod("pod-0"), _pod("pod-1", devices=2)],
            "DoesNotFit",
            "needs 2 pods of 1 device; the fleet has 1 pod of 1 device and 1 pod of 2 devices",
        ),
        (
            [_pod("pod-0"), _pod("pod-1", kind="gpu"), Pod("pod-2", 1)],
            "WaitingForPods",
            "needs 2 pods of 1 device; 1 free; pod-2 has 0 of 1 host ready",
        ),
        (
            [_pod("pod-0"), _pod("pod-1", kind="gpu")],
            "DoesNotFit",
            (
                "needs 2 pods of 1 device; "
                "the fleet has 1 pod of 1 device (cpu) and 1 pod of 1 device (gpu)"
            ),
        ),
        (
            [_pod("pod-0"), _pod("pod-1", busy_with="job-7")],
            "WaitingForPods",
            "needs 2 pods of 1 device; 1 free; pod-1 busy with job-7",
        ),
        (
            [_pod("pod-0"), FORMING],
            "WaitingForPods",
            "needs 2 pods of 1 device; 1 free; pod-9 has 0 of 2 hosts ready",
        ),
        (
            [_pod("pod-0"), LOST],
            "DoesNotFit",
            (
                "needs 2 pods of 1 device; the fleet has 1 pod of 1 device; "
                "pod-9 is lost with 0 of 1 host ready"
            ),
        ),
        (
            [_pod("pod-0"), HALF_LOST],
            "DoesNotFit",
            (
                "needs 2 pods of 1 device; the fleet has 1 pod of 1 device; "
                "pod-9 is lost with 1 of 2 hosts ready"
            ),
        ),
        (
            [LOST],
            "DoesNotFit",
            (
                "needs 2 pods of 1 device; the fleet has no pods; "
                "pod-9 is lost with 0 of 1 host ready"
            ),
        ),
        (
            [_pod("pod-0"), _pod("pod-1", busy_with="job-7"), LOST],
            "WaitingForPods",
            (
                "needs 2 pods of 1 device; 1 free; pod-1 busy with job-7; "
                "pod-9 is lost with 0 of 1 host ready"
            ),
        ),
        (
            [_pod("pod-0", devices=2), _pod("pod-1", kind="gpu"), Pod("pod-2", 1)],
            "WaitingForPods",
            "needs 2 pods of 1 device; 1 free; pod-2 has 0 of 1 host ready",
        ),
    ],
)
def test_waiting_job_is_told_why_in_numbers(pods: list[Pod], code: str, message: str) -> None:
    (verdict,) = admit([_job("a")], pods)
    assert verdict.gang == ()
    assert verdict.reason == Reason(code, message)


def test_mixed_fleet_with_a_forming_pod_is_told_by_kind_where_known() -> None:
    pods = [_pod("pod-0"), _pod("pod-1", kind="gpu"), Pod("pod-2", 1)]
    (verdict,) = admit([_job("a", devices_per_pod=8)], pods)
    assert verdict.reason.code == "DoesNotFit"
    assert verdict.reason.message == (
        "needs 2 pods of 8 devices; the fleet has 1 pod of 0 devices and 1 pod of 1 device (cpu) "
        "and 1 pod of 1 device (gpu)"
    )


def test_job_that_must_wait_holds_up_those_behind_it() -> None:
    verdicts = admit(
        [_job("a"), _job("b", min_pods=1)], [_pod("pod-0"), _pod("pod-1", hosts=1, busy_with="x")]
    )
    assert [verdict.gang for verdict in verdicts] == [(), ()]
    assert verdicts[1].reason == Reason(
        "WaitingForTurn", "needs 1 pod of 1 device; tiny (a) is ahead of it"
    )


def test_job_that_can_never_fit_holds_up_nobody() -> None:
    jobs = [_job("a", devices_per_pod=8), _job("b"), _job("c", min_pods=1, max_pods=1)]
    pods = [_pod(f"pod-{index}") for index in range(3)]
    never, first, second = admit(jobs, pods)
    assert never.reason.code == "DoesNotFit"
    assert list(first.gang) == ["pod-0", "pod-1"]
    assert list(second.gang) == ["pod-2"]


def test_job_that_would_need_a_lost_pod_holds_up_nobody() -> None:
    first, second = admit([_job("a"), _job("b", min_pods=1, max_pods=1)], [_pod("pod-0"), LOST])
    assert first.reason.code == "DoesNotFit"
    assert list(second.gang) == ["pod-0"]


def test_job_behind_an_admitted_one_sees_its_pods_busy() -> None:
    _, behind = admit([_job("a"), _job("b")], [_pod("pod-0"), _pod("pod-1")])
    assert behind.reason == Reason(
        "WaitingForPods",
        "needs 2 pods of 1 device; 0 free; pod-0 busy with a; pod-1 busy with a",
    )
