"""Getting the hosts of a gang ready: what each is told, and when all of them are."""

from __future__ import annotations

import dataclasses

from controller.core import adapting, commands, events, letting_go, saving, step
from controller.core.cluster import Assignment
from controller.core.commands import CheckpointPlace, DataStart, Resume, SlotPhase
from controller.core.job import Healing, Job, JobState, Move, Reason
from controller.core.link_shares import link_shares, rates_of
from controller.core.liveness import LivenessPolicy
from controller.core.program import slot_ranges
from controller.core.turn import Entry, Turn


def program_lowered(turn: Turn, event: events.ProgramLowered, _policy: LivenessPolicy) -> None:
    job = turn.current_job(event.assignment)
    if job is None or job.state is not JobState.ADMITTED:
        return
    reason = Reason("Compiling", "hosts fetch, compile and initialise the program")
    job = dataclasses.replace(job.moved(Move.LOWERED, reason), program=event.program)
    turn.put_job(job, Entry("job.lowered", f"program {event.program.digest}", job.id))
    order(turn, job)


def order(turn: Turn, job: Job) -> None:
    """Tell every host of the gang what to get ready for in this generation."""
    assert job.program is not None
    assignment = Assignment(job.id, job.generation)
    shares = link_shares(rates_of(job.gang, turn.pods))
    members = tuple(
        commands.GangAddress(
            pod, tuple(host.link_address for _, host in sorted(turn.pods[pod].hosts.items())), share
        )
        for pod, share in zip(job.gang, shares, strict=True)
    )
    phases = tuple(
        SlotPhase(phase.first_step, phase.num_slots, slot_ranges(phase.num_slots, len(members)))
        for phase in job.spec.phases
    )
    for index, pod in enumerate(job.gang):
        for _, host in sorted(turn.pods[pod].hosts.items()):
            taken = dataclasses.replace(
                host, holds=assignment, standing=None, dataset_digest=None, warming=None, warm=None
            )
            turn.put_host(taken)
            turn.order(
                commands.PrepareHost(
                    host=host.ref,
                    assignment=assignment,
                    bundle_digest=job.program.digest,
                    members=members,
                    member_index=index,
                    phases=phases,
                    seed=job.spec.seed,
                    data=job.spec.data,
                    data_start=_data_start(job),
                    skipped=job.skipped,
                    digest_every=job.spec.digest_every,
                    target_steps=job.spec.steps,
                    checkpoint_every=job.spec.checkpoint_every,
                    checkpoint_directory=job.spec.checkpoint_directory,
                    evaluate_every=job.spec.evaluate_every,
                    exchange=job.exchange,
                    restore=None if job.healing else _place(job),
                    resume=_resume(job),
                )
            )


def program_ready(turn: Turn, event: events.ProgramReady, _policy: LivenessPolicy) -> None:
    job = turn.job_held(event.host, event.assignment)
    if job is None or not _is_preparing(job):
        return
    host = turn.pods[event.host.pod].hosts[event.host.index]
    turn.put_host(dataclasses.replace(host, dataset_digest=event.dataset_digest))
    digests = {
        str(host.ref): host.dataset_digest
        for pod in job.gang
        for host in turn.pods[pod].hosts.values()
    }
    if None in digests.values():
        return
    if len(set(digests.values())) > 1:
        seen = ", ".join(f"{ref} {digest}" for ref, digest in sorted(digests.items()))
        message = f"hosts hold different data: {seen}; give all of them the same files"
        letting_go.fail(turn, job, Reason("DataDiffers", message))
    elif job.data_digest not in (None, event.dataset_digest):
        letting_go.fail(turn, job, Reason("DataChanged", _changed(job, event.dataset_digest)))
    else:
        job = dataclasses.replace(
            job,
            data_digest=event.dataset_digest,
            sources=event.sources,
            # All others waited for the one that is ready last.
            account=dataclasses.replace(job.account, compile_seconds=event.compile_seconds),
        )
        if job.healing is None:
            _start(turn, job, _target_steps(turn, job, event.data_steps))
        else:
            _go_on(turn, job, job.healing)


def _is_preparing(job: Job) -> bool:
    if job.healing is not None:
        return job.healing.begun is not None
    return job.state is JobState.STARTING


def _changed(job: Job, found: str) -> str:
    origin = job.spec.origin
    if origin is not None and origin.data_digest == job.data_digest:
        when = f"when job {origin.job} trained on it"
        remedy = "or set checkpoint.resume_from.data: anew to begin with this data"
    else:
        when, remedy = "when the job began", "or submit the job anew"
    return (
        f"the data (tokens, tokenizer, sequence length, weights, held-out text) has digest {found} "
        f"and had {job.data_digest} {when}; put it back as it was, {remedy}"
    )


def _target_steps(turn: Turn, job: Job, data_steps: int) -> int:
    """A job ends at the last full batch of its data, however many steps it wants; 0 data steps are
    those of a program without data."""
    wanted = job.spec.steps
    if not data_steps or data_steps >= wanted:
        return wanted
    message = (
        f"the data lasts for {data_steps} of the {wanted} steps asked for and the job ends there; "
        "add data or raise data.epochs for more"
    )
    turn.note(Entry("job.data_is_short", message, job.id, data={"step": data_steps}))
    return data_steps


def _start(turn: Turn, job: Job, target_steps: int) -> None:
    place = _place(job)
    after = place.checkpoint.step if place else 0
    progress = step.begin(target_steps, job.gang, after, job.totals)
    start = f"goes on after step {after}" if after else "starts"
    message = f"all hosts are ready; training {start}"
    data = {"step": after, "attempt": job.attempt, "is_rewound": job.rewound_at is not None}
    job = _running(turn, dataclasses.replace(job, progress=progress, rewound_at=None))
    turn.put_job(job, Entry("job.started", message, job.id, data=data))
    if progress.is_complete:
        saving.finish(turn, job)
    else:
        extend_window(turn, job)


def _go_on(turn: Turn, job: Job, healing: Healing) -> None:
    """All members hold the state of the last merged step."""
    assert job.progress is not None
    after, seconds = job.progress.merged, max(0.0, turn.now - healing.since)
    resume, progress = _resume(job), job.progress
    job = _running(turn, dataclasses.replace(job, healing=None))
    pods = ", ".join(job.gang)
    message = f"{pods} go on after step {after}, {seconds:.1f} s after: {healing.cause.message}"
    data = {
        "step": after,
        "generation": job.generation,
        "seconds": seconds,
        "code": healing.cause.code,
    }
    turn.put_job(job, Entry("job.recovered", message, job.id, data=data))
    assignment = Assignment(job.id, job.generation)
    for wanted in sorted(s for s in job.checkpoints.requested if s > after):
        for host in turn.holders(assignment):
            turn.order(commands.SaveCheckpoint(host.ref, assignment, wanted))
    if not progress.is_complete:
        extend_window(turn, job)
    elif resume is not None and (resume.is_save_due or resume.is_evaluation_due):
        # What is due after the last step waits for leave to begin.
        for host in turn.holders(assignment):
            turn.order(commands.GrantWindow(host.ref, assignment, after))
    else:
        saving.finish(turn, job)


def _running(turn: Turn, job: Job) -> Job:
    """The job in a generation whose hosts are ready."""
    assert job.progress is not None
    # Pods that are free may stand in for one of its own now.
    turn.availability_changed = True
    peaks = [turn.pods[pod].peak_flops_per_second(job.spec.compute_dtype) for pod in job.gang]
    known = [peak for peak in peaks if peak is not None]
    reason = Reason("Training", f"{len(job.gang)} pods in lockstep")
    if len(job.gang) == 1:
        reason = Reason("Training", "one pod")
    return dataclasses.replace(
        adapting.begin(turn, job, job.progress.merged).moved(Move.READY, reason),
        started_at=turn.now if job.started_at is None else job.started_at,
        peak_flops_per_second=sum(known) if len(known) == len(peaks) else None,
        peak_source=turn.pods[job.gang[0]].inventories[0].peak_source,
    )


def extend_window(turn: Turn, job: Job) -> None:
    """Grant more steps once half of the granted ones are used."""
    assert job.progress is not None
    # A change of the exchange waits for the end of what is granted.
    least = step.WINDOW_STEPS if job.spec.choice is None else step.SHORT_WINDOW_STEPS
    longer = step.extend(job.progress, least)
    if longer is None:
        return
    turn.measure(dataclasses.replace(job, progress=longer), ())
    assignment = Assignment(job.id, job.generation)
    for host in turn.holders(assignment):
        turn.order(commands.GrantWindow(host.ref, assignment, longer.granted))


def _data_start(job: Job) -> DataStart:
    origin = job.spec.origin
    return DataStart(origin.step, origin.data_position) if origin else DataStart(0, 0)


def _resume(job: Job) -> Resume | None:
    """What a generation goes on with whose members hold state."""
    begun = job.healing.begun if job.healing else None
    if begun is None or job.progress is None:
        return None
    after, every = job.progress.merged, job.spec.evaluate_every
    is_last = after == job.target_steps
    evaluates = bool(every) and (is_last or after % every == 0)
    return Resume(
        step=after,
        state_sha256=begun.state_sha256,
        lacking=begun.lacking,
        is_save_due=saving.is_due(job, after) and job.checkpoints.at(after) is None and after > 0,
        is_evaluation_due=evaluates and after > 0 and after not in job.evaluations.complete,
    )


def _place(job: Job) -> CheckpointPlace | None:
    """What a generation starts from; None is the seed."""
    newest, origin = job.checkpoints.newest, job.spec.origin
    if newest is not None:
        directory = job.spec.checkpoint_directory
        return CheckpointPlace(job.id, directory, newest.id, newest.state_sha256)
    if origin is not None:
        return CheckpointPlace(origin.job, origin.directory, origin.id, origin.state_sha256)
    return None
