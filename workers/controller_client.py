"""Between the wire and the host: the only file of the workers that knows control messages'
fields."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping

from protos import control_pb2 as pb
from workers.exchange.base import Traffic
from workers.exchange.conditions import LinkConditions
from workers.orders import (
    Activity,
    Applied,
    Assignment,
    BatchPhase,
    CheckpointPlace,
    CheckpointPublished,
    CheckpointWritten,
    Evaluated,
    ExchangeRule,
    Faulted,
    Held,
    Inventory,
    JobOrder,
    Member,
    Phase,
    Ready,
    Released,
    Report,
    RestoreFailed,
    Resume,
    Stacks,
    Warmed,
)

PROTOCOL_VERSION = 4

_PEAK_SOURCES = {
    "unknown": pb.PEAK_SOURCE_UNKNOWN,
    "table": pb.PEAK_SOURCE_TABLE,
    "calibrated": pb.PEAK_SOURCE_CALIBRATED,
    "emulated": pb.PEAK_SOURCE_EMULATED,
}

_PHASES = {
    Phase.FETCH: pb.PHASE_FETCH,
    Phase.DATA: pb.PHASE_DATA,
    Phase.COMPILE: pb.PHASE_COMPILE,
    Phase.COMPUTE: pb.PHASE_COMPUTE,
    Phase.EXCHANGE: pb.PHASE_EXCHANGE,
    Phase.HEAL: pb.PHASE_HEAL,
    Phase.EVALUATE: pb.PHASE_EVALUATE,
    Phase.SAVE: pb.PHASE_SAVE,
    Phase.REST: pb.PHASE_REST,
}


_DTYPES = {
    pb.EXCHANGE_DTYPE_FLOAT32: "float32",
    pb.EXCHANGE_DTYPE_BFLOAT16: "bfloat16",
    pb.EXCHANGE_DTYPE_INT8: "int8",
    pb.EXCHANGE_DTYPE_INT4: "int4",
}


def assignment_of(
    message: (
        pb.GrantWindow
        | pb.HoldJob
        | pb.StopJob
        | pb.PrepareJob
        | pb.SaveCheckpoint
        | pb.ChangeExchange
        | pb.TellAgain
        | pb.DumpStacks
    ),
) -> Assignment:
    return Assignment(message.job, message.generation)


def decode_order(message: pb.PrepareJob, host_index: int, checkpoints: pathlib.Path) -> JobOrder:
    """What to run, with the peers' hosts of this host's index. `checkpoints` is where they lie
    unless the order says."""
    return JobOrder(
        assignment=assignment_of(message),
        bundle_digest=message.bundle_digest,
        members=tuple(
            Member(m.pod, m.link_addresses[host_index], m.link_share) for m in message.members
        ),
        member_index=message.member_index,
        phases=tuple(_phase(phase) for phase in message.phases),
        seed=message.seed,
        data=json.loads(message.data_json),
        digest_every=message.digest_every_steps,
        target_steps=message.target_steps,
        checkpoint_every=message.checkpoint_every_steps,
        checkpoint_directory=directory_of(message.checkpoint_directory, checkpoints),
        skipped=ranges_of(message.skipped),
        evaluate_every=message.evaluate_every_steps,
        exchange=exchange_rule(message.exchange),
        data_start=(message.data_start.after_step, message.data_start.position),
        restore=(_place(message.restore, checkpoints) if message.HasField("restore") else None),
        resume=_resume(message.resume) if message.HasField("resume") else None,
    )


def exchange_rule(message: pb.Exchange) -> ExchangeRule:
    return ExchangeRule(
        dtype=_DTYPES[message.dtype],
        stochastic_rounding=message.stochastic_rounding,
        error_feedback=message.error_feedback,
        overlap=message.overlap,
        reproducible=message.reproducible,
    )


def directory_of(named: str, default: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(named) if named else default


def ranges_of(ranges: Iterable[pb.PositionRange]) -> tuple[tuple[int, int], ...]:
    return tuple((part.first, part.end) for part in ranges)


def _phase(phase: pb.BatchPhase) -> BatchPhase:
    slots = tuple(range(part.first, part.end) for part in phase.slots)
    return BatchPhase(phase.first_step, phase.num_slots, slots)


def _place(place: pb.CheckpointPlace, checkpoints: pathlib.Path) -> CheckpointPlace:
    directory = directory_of(place.directory, checkpoints)
    return CheckpointPlace(
        place.job, directory, place.step, place.generation, place.state_sha256.hex()
    )


def _resume(resume: pb.Resume) -> Resume:
    return Resume(
        step=resume.step,
        state_sha256=resume.state_sha256,
        lacking=frozenset(resume.lacking),
        is_save_due=resume.is_save_due,
        is_evaluation_due=resume.is_evaluation_due,
    )


def encode_report(report: Report) -> pb.HostEvent:
    match report:
        case Inventory():
            return pb.HostEvent(inventory=_inventory(report))
        case Warmed(bundle_digest):
            return pb.HostEvent(program_warmed=pb.ProgramWarmed(bundle_digest=bundle_digest))
        case Ready(assignment):
            ready = pb.ProgramReady(
                job=assignment.job,
                generation=assignment.generation,
                ready_seconds=report.ready_seconds,
                compile_seconds=report.compile_seconds,
                dataset_digest=report.dataset_digest,
                data_steps=report.data_steps,
                device_bytes=report.device_bytes,
                sources=[
                    pb.DataSource(
                        name=source.name,
                        num_documents=source.documents,
                        num_tokens=source.tokens,
                        num_sequences=source.sequences,
                        epoch_sequences=source.epoch_sequences,
                    )
                    for source in report.sources
                ],
            )
            return pb.HostEvent(program_ready=ready)
        case Applied():
            return pb.HostEvent(steps_applied=_steps_applied(report))
        case Faulted(assignment):
            fault = pb.JobFaulted(
                job=assignment.job,
                generation=assignment.generation,
                phase=_PHASES[report.phase],
                step=report.step,
                message=report.message,
                suspect_pod=report.suspect_pod,
            )
            return pb.HostEvent(job_faulted=fault)
        case Held(assignment, applied_step, state_sha256):
            held = pb.JobHeld(
                job=assignment.job,
                generation=assignment.generation,
                applied_step=applied_step,
                state_sha256=state_sha256,
            )
            return pb.HostEvent(job_held=held)
        case Released(assignment, applied_step):
            released = pb.JobReleased(
                job=assignment.job, generation=assignment.generation, applied_step=applied_step
            )
            return pb.HostEvent(job_released=released)
        case CheckpointWritten(assignment):
            written = pb.CheckpointWritten(
                job=assignment.job,
                generation=assignment.generation,
                step=report.step,
                state_sha256=report.state_sha256,
                num_bytes=report.num_bytes,
                seconds=report.seconds,
                stall_seconds=report.stall_seconds,
                data_position=report.data_position,
                error=report.error,
            )
            return pb.HostEvent(checkpoint_written=written)
        case Evaluated(assignment):
            evaluated = pb.Evaluated(
                job=assignment.job,
                generation=assignment.generation,
                step=report.step,
                losses=report.losses,
                num_tokens=report.num_tokens,
                num_bytes=report.num_bytes,
            )
            return pb.HostEvent(evaluated=evaluated)
        case CheckpointPublished(assignment, step, error):
            published = pb.CheckpointPublished(
                job=assignment.job, generation=assignment.generation, step=step, error=error
            )
            return pb.HostEvent(checkpoint_published=published)
        case RestoreFailed(assignment, message):
            failed = pb.RestoreFailed(
                job=assignment.job, generation=assignment.generation, message=message
            )
            return pb.HostEvent(restore_failed=failed)
        case Stacks(assignment, text):
            told = pb.Stacks(job=assignment.job, generation=assignment.generation, text=text)
            return pb.HostEvent(stacks=told)


def encode_held(held: Assignment | None, granted_step: int) -> pb.HeldJob | None:
    if held is None:
        return None
    return pb.HeldJob(job=held.job, generation=held.generation, granted_step=granted_step)


def encode_heartbeat(
    traffic: Mapping[str, Traffic], activity: Activity | None, now: float
) -> pb.HostEvent:
    """`now` is in monotonic seconds."""
    peers = [
        pb.LinkTraffic(
            peer_pod=pod,
            sent_bytes=sent.sent_bytes,
            sending_seconds=sent.sending_seconds,
            retries=sent.retries,
            rate_bytes_per_second=sent.rate_bytes_per_second or 0.0,
            rtt_seconds=sent.rtt_seconds or 0.0,
        )
        for pod, sent in traffic.items()
    ]
    return pb.HostEvent(
        heartbeat=pb.Heartbeat(link_traffic=peers, activity=_activity(activity, now))
    )


def _activity(activity: Activity | None, now: float) -> pb.Activity | None:
    if activity is None:
        return None
    return pb.Activity(
        job=activity.assignment.job,
        generation=activity.assignment.generation,
        phase=_PHASES[activity.phase],
        step=activity.step,
        seconds=max(0.0, now - activity.since),
    )


def encode_leaving(seconds: float) -> pb.HostEvent:
    return pb.HostEvent(host_leaving=pb.HostLeaving(seconds=seconds))


def encode_conditions(conditions: LinkConditions) -> pb.HostEvent:
    told = pb.LinkConditions(
        bandwidth_bytes_per_second=conditions.bandwidth_bytes_per_second or 0.0,
        latency_seconds=conditions.latency_seconds,
        jitter_seconds=conditions.jitter_seconds,
        stall_every_seconds=conditions.stall_every_seconds or 0.0,
        stall_seconds=conditions.stall_seconds,
        drop_probability=conditions.drop_probability,
        is_partitioned=conditions.is_partitioned,
    )
    return pb.HostEvent(link_conditions=told)


def decode_conditions(order: pb.SetLinkConditions) -> LinkConditions:
    told = order.conditions
    return LinkConditions(
        bandwidth_bytes_per_second=told.bandwidth_bytes_per_second or None,
        latency_seconds=told.latency_seconds,
        jitter_seconds=told.jitter_seconds,
        stall_every_seconds=told.stall_every_seconds or None,
        stall_seconds=told.stall_seconds,
        drop_probability=told.drop_probability,
        is_partitioned=told.is_partitioned,
    )


def _inventory(inventory: Inventory) -> pb.HostInventory:
    return pb.HostInventory(
        platform=inventory.platform,
        device_kind=inventory.device_kind,
        num_devices=inventory.num_devices,
        device_memory_bytes=inventory.device_memory_bytes,
        peak_flops_per_second=inventory.peak_flops_per_second,
        peak_source=_PEAK_SOURCES[inventory.peak_source],
        versions=inventory.versions,
    )


def _steps_applied(applied: Applied) -> pb.StepsApplied:
    records = applied.records
    return pb.StepsApplied(
        job=applied.assignment.job,
        generation=applied.assignment.generation,
        first_step=records[0].step,
        time_unix_seconds=[record.time for record in records],
        loss=_column("loss", applied),
        grad_norm=_column("grad_norm", applied) if "grad_norm" in applied.fields else (),
        learning_rate=_column("learning_rate", applied),
        seconds=[record.seconds for record in records],
        exchange_seconds=[record.exchange_seconds for record in records],
        exposed_seconds=[record.exposed_seconds for record in records],
        data_wait_seconds=[record.data_wait_seconds for record in records],
        pause_seconds=[record.pause_seconds for record in records],
        link_bytes=[record.link_bytes for record in records],
        digests=[
            pb.StateDigest(step=record.step, sha256=record.state_sha256)
            for record in records
            if record.state_sha256
        ],
        source_sequences=applied.source_sequences,
        float32_bytes=[record.float32_bytes for record in records],
        residual_norm=_residual_norms(applied),
    )


def _residual_norms(applied: Applied) -> list[float]:
    norms = [record.residual_norm for record in applied.records]
    if all(norm is None for norm in norms):
        return []
    return [math.nan if norm is None else norm for norm in norms]


def _column(field: str, applied: Applied) -> list[float]:
    """A program that has no such figure reports NaN, which readers see as null."""
    if field not in applied.fields:
        return [math.nan] * len(applied.records)
    position = applied.fields.index(field)
    return [record.values[position] for record in applied.records]
