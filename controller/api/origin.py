"""The checkpoint of another job that a specification starts from, and whether it can."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from typing import Any

from controller.api.context import ApiContext
from controller.api.conversion import normalise
from controller.api.documents import pointer_of
from controller.api.problems import SpecProblem, refused
from controller.api.spec import Spec
from controller.core.checkpoint import Origin
from controller.core.job import Job
from model.outer_config import OUTER_MODES

_SHAPING = (
    "num_layers",
    "model_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "vocab_size",
    "param_dtype",
)
"""Of the model: what parameters there are."""

_SCHEDULE = ("every", "fragments", "delay")
"""Of the outer optimizer: what decides which fragments a checkpoint has under way."""


def origin_of(spec: Spec, context: ApiContext) -> Origin | None:
    """The checkpoint that checkpoint.resume_from names; raises ApiProblem when there is none."""
    wanted = spec.checkpoint.resume_from if spec.checkpoint else None
    if wanted is None:
        return None
    job = context.loop.state.jobs.get(wanted.job) or context.store.job(wanted.job)
    saved = job.checkpoints.saved if job else ()
    steps = [found.step for found in saved]
    found = [s for s in saved if wanted.step is None or s.step == wanted.step]
    if job is None or not found:
        field, detail = "job", f"there is no job {wanted.job}"
        hint = "the id of a job; `landbridge jobs` lists them"
        if job is not None:
            field = "step" if saved else "job"
            detail = f"job {wanted.job} has no checkpoint of step {wanted.step}"
            detail = detail if saved else f"job {wanted.job} has no checkpoints"
            hint = f"one of {', '.join(map(str, steps))}" if saved else "name a job that has some"
        pointer = f"/checkpoint/resume_from/{field}"
        raise refused(SpecProblem(pointer, "no-such-checkpoint", detail, hint))
    mine, theirs = normalise(spec), json.loads(job.spec.program_request)
    problem = _state_problem(mine, theirs, job) or _exchange_problem(
        mine["exchange"], theirs["exchange"], job
    )
    if problem is not None:
        raise refused(problem)
    chosen, goes_on = found[-1], wanted.data == "continue"
    if spec.train.steps <= chosen.step:
        detail = f"{spec.train.steps} steps are none after the checkpoint of step {chosen.step}"
        hint = f"steps are counted from the beginning of job {job.id}: more than {chosen.step}"
        raise refused(SpecProblem("/train/steps", "too-few", detail, hint))
    if goes_on and spec.train.seed != job.spec.seed:
        detail = f"job {job.id} took its data in the order of seed {job.spec.seed}"
        hint = f"seed: {job.spec.seed}, or checkpoint.resume_from.data: anew"
        raise refused(SpecProblem("/train/seed", "other-order", detail, hint))
    return Origin(
        job=job.id,
        directory=job.spec.checkpoint_directory,
        step=chosen.step,
        generation=chosen.generation,
        data_position=chosen.data_position if goes_on else 0,
        losses=chosen.losses if goes_on else (),
        skipped=job.skipped if goes_on else (),
        state_sha256=chosen.state_sha256,
        tokens=job.spec.tokens_through(chosen.step),
        data_digest=job.data_digest if goes_on else None,
    )


def _state_problem(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], job: Job
) -> SpecProblem | None:
    """Parameters and optimizer state are those of the checkpoint. Constants of an optimizer may be
    others."""
    paths = [*(("model", key) for key in _SHAPING), ("train", "optimizer", "kind")]
    for path in paths:
        value, before = (functools.reduce(operator.getitem, path, of) for of in (mine, theirs))
        if value != before:
            detail = f"job {job.id} has {'.'.join(path)}: {before}, and so have its checkpoints"
            hint = f"{path[-1]}: {before}, or a job that starts anew"
            return SpecProblem(pointer_of(*path), "other-state", detail, hint)
    return None


def _exchange_problem(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], job: Job
) -> SpecProblem | None:
    """What pods hold for themselves, and what is on its way between them, too."""
    mode, before = mine["mode"], job.spec.exchange.mode
    if (mode in OUTER_MODES) != (before in OUTER_MODES):
        holds = "an outer optimizer" if before in OUTER_MODES else "no outer optimizer"
        modes = OUTER_MODES if before in OUTER_MODES else ("full", "auto")
        detail = f"job {job.id} was of mode {before}, so its checkpoints hold {holds}"
        hint = f"mode: {' or '.join(modes)}, or a job that starts anew"
        return SpecProblem("/exchange/mode", "other-state", detail, hint)
    for key in _SCHEDULE if mode in OUTER_MODES else ():
        if mine["outer"][key] != theirs["outer"][key]:
            as_before = f"{key}: {theirs['outer'][key]}"
            detail = f"job {job.id} has fragments under way that were sent with {as_before}"
            return SpecProblem(
                pointer_of("exchange", "outer", key), "other-state", detail, as_before
            )
    return None
