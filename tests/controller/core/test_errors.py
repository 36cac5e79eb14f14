from __future__ import annotations

from controller.core.errors import (
    ControllerError,
    InvalidTransition,
    JobIsLive,
    LinkNotEmulated,
    UnknownJob,
    UnknownPod,
)


def test_invalid_transition_tells_entity_state_and_event() -> None:
    error = InvalidTransition("job j", "RUNNING", "admit")
    assert isinstance(error, ControllerError)
    assert (error.entity, error.state, error.event) == ("job j", "RUNNING", "admit")
    assert str(error) == "job j is RUNNING and cannot handle 'admit'"


def test_unknown_job_names_the_id_and_the_remedy() -> None:
    error = UnknownJob("job-9")
    assert error.job_id == "job-9"
    assert "'job-9'" in str(error) and "landbridge jobs" in str(error)


def test_live_job_names_its_state_and_the_remedy() -> None:
    error = JobIsLive("job-9", "RUNNING")
    assert (error.job_id, error.state) == ("job-9", "RUNNING")
    assert str(error) == "job job-9 is RUNNING; cancel it first"


def test_unknown_pod_and_a_link_that_stays_as_it_is_name_the_pod_and_the_remedy() -> None:
    assert "'pod-9'" in str(UnknownPod("pod-9")) and "/pods" in str(UnknownPod("pod-9"))
    error = LinkNotEmulated("pod-0")
    assert error.pod == "pod-0" and "--link-emulator" in str(error)
