"""What can go wrong in the controller, as one tree.

    ControllerError
    |- InvalidTransition      our mistake: a state machine was asked for a move it does not have
    |- UnknownJob             the caller named a job that is not live
    |- JobIsLive              the caller wants what only a job that has ended allows
    |- CannotSave             the caller wants a checkpoint of a job that cannot make one now
    |- CheckpointGone         the caller wants to start from a checkpoint that was deleted just now
    |- UnknownPod             the caller named a pod of which no host ever came
    `- LinkNotEmulated        the caller wants to change a link that is as it is

Invalid specifications are no exceptions here: they are collected, all at once, as problems by the
API. Job failures are states with a reason, not exceptions.
"""

from __future__ import annotations


class ControllerError(Exception):
    """Base of everything the controller raises on purpose."""


class InvalidTransition(ControllerError):
    """A state machine has no row for (state, event): a bug, never a user's mistake."""

    def __init__(self, entity: str, state: str, event: str) -> None:
        super().__init__(f"{entity} is {state} and cannot handle '{event}'")
        self.entity = entity
        self.state = state
        self.event = event


class UnknownJob(ControllerError):
    """No live job has this id; a finished one may, the store knows."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"no live job has the id {job_id!r}; `landbridge jobs` lists those there are"
        )
        self.job_id = job_id


class JobIsLive(ControllerError):
    """The job has not ended, and pods may work for it."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} is {state}; cancel it first")
        self.job_id = job_id
        self.state = state


class CannotSave(ControllerError):
    """The job does not run, or has nowhere to save to."""

    def __init__(self, job_id: str, state: str, has_checkpoints: bool) -> None:
        why = f"is {state}; only a running job can be saved"
        if not has_checkpoints:
            why = "has no `checkpoint` section; submit it again with one"
        super().__init__(f"job {job_id} {why}")
        self.job_id = job_id


class CheckpointGone(ControllerError):
    """The job that wrote it has deleted it since it was looked for."""

    def __init__(self, job_id: str, step: int) -> None:
        super().__init__(
            f"job {job_id} has deleted its checkpoint of step {step}; submit again, with one of "
            f"GET /jobs/{job_id}/checkpoints"
        )


class UnknownPod(ControllerError):
    """No host of a pod of this name has attached since the controller started."""

    def __init__(self, pod: str) -> None:
        super().__init__(f"no pod is called {pod[:64]!r}; GET /api/v1/pods lists those there are")
        self.pod = pod


class LinkNotEmulated(ControllerError):
    """Not all hosts of the pod are there, emulating their link."""

    def __init__(self, pod: str) -> None:
        super().__init__(
            f"the link of {pod} is not emulated and stays as it is; start its workers, or "
            "`landbridge up`, with --link-emulator or another --link- option"
        )
        self.pod = pod
