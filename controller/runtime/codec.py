"""Between the wire and the core: the only file of the controller that knows control messages'
fields."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.core import commands, events
from controller.core.batch import Range
from controller.core.cluster import Assignment, HostRef, Inventory, Traffic
from controller.core.evaluation import Part
from controller.core.exchange import ExchangeRule
from controller.core.link import LinkConditions
from controller.core.record import StepRecord
from controller.core.sources import DataSource
from protos import control_pb2 as pb

PROTOCOL_VERSION = 4

_PEAK_SOURCES = {
    pb.PEAK_SOURCE_UNSPECIFIED: "unknown",
    pb.PEAK_SOURCE_UNKNOWN: "unknown",
    pb.PEAK_SOURCE_TABLE: "table",
    pb.PEAK_SOURCE_CALIBRATED: "calibrated",
    pb.PEAK_SOURCE_EMULATED: "emulated",
}

_DTYPES = {
    "float32": pb.EXCHANGE_DTYPE_FLOAT32,
    "bfloat16": pb.EXCHANGE_DTYPE_BFLOAT16,
    "int8": pb.EXCHANGE_DTYPE_INT8,
    "int4": pb.EXCHANGE_DTYPE_INT4,
}

_PHASES = {
    pb.PHASE_UNSPECIFIED: "compute",
    pb.PHASE_FETCH: "fetch",
    pb.PHASE_DATA: "data",
    pb.PHASE_COMPILE: "compile",
    pb.PHASE_COMPUTE: "compute",
    pb.PHASE_EXCHANGE: "exchange",
    pb.PHASE_HEAL: "heal",
    pb.PHASE_EVALUATE: "evaluate",
    pb.PHASE_SAVE: "save",
    pb.PHASE_REST: "rest",
}


def host_of(hello: pb.HostHello) -> HostRef:
    return HostRef(hello.pod, hello.host_index, hello.incarnation)


def decode_hello(hello: pb.HostHello) -> events.HostAttached:
    return events.HostAttached(
        host_of(hello),
        hello.num_hosts,
        hello.link_address,
        hello.coordinator_address,
        hello.pid,
        hello.assembled_with,
        Assignment(hello.held.job, hello.held.generation) if hello.HasField("held") else None,
        hello.held.granted_step,
    )


def decode_event(host: HostRef, message: pb.HostEvent) -> events.Event:
    """What a host reported; ValueError when the message is empty or of an unknown kind."""
    match message.WhichOneof("event"):
        case "inventory":
            return events.HostInventoried(host, _inventory(message.inventory))
        case "heartbeat":
            beat = message.heartbeat
            doing = _doing(beat.activity) if beat.HasField("activity") else None
            return events.HostHeard(host, _traffic(beat), doing)
        case "host_leaving":
            return events.HostLeaving(host, message.host_leaving.seconds)
        case "program_warmed":
            return events.HostWarmed(host, message.program_warmed.bundle_digest)
        case "program_ready":
            ready = message.program_ready
            return events.ProgramReady(
                host,
                Assignment(ready.job, ready.generation),
                ready.ready_seconds,
                ready.compile_seconds,
                ready.dataset_digest,
                ready.data_steps,
                tuple(_source(source) for source in ready.sources),
            )
        case "steps_applied":
            applied = message.steps_applied
            assignment = Assignment(applied.job, applied.generation)
            seen = tuple(applied.source_sequences)
            return events.StepsApplied(host, assignment, _records(applied), seen)
        case "job_faulted":
            fault = message.job_faulted
            return events.JobFaulted(
                host,
                Assignment(fault.job, fault.generation),
                _PHASES[fault.phase],
                fault.step,
                fault.message,
                fault.suspect_pod,
            )
        case "job_held":
            held = message.job_held
            assignment = Assignment(held.job, held.generation)
            return events.JobHeld(host, assignment, held.applied_step, held.state_sha256.hex())
        case "job_released":
            released = message.job_released
            assignment = Assignment(released.job, released.generation)
            return events.JobReleased(host, assignment, released.applied_step)
        case "checkpoint_written":
            written = message.checkpoint_written
            return events.CheckpointWritten(
                host,
                Assignment(written.job, written.generation),
                written.step,
                written.state_sha256.hex(),
                written.num_bytes,
                written.seconds,
                written.stall_seconds,
                written.data_position,
                written.error,
            )
        case "checkpoint_published":
            published = message.checkpoint_published
            assignment = Assignment(published.job, published.generation)
            return events.CheckpointPublished(host, assignment, published.step, published.error)
        case "evaluated":
            found = message.evaluated
            assignment = Assignment(found.job, found.generation)
            part = Part(tuple(found.losses), found.num_tokens, found.num_bytes)
            return events.Evaluated(host, assignment, found.step, part)
        case "restore_failed":
            failed = message.restore_failed
            assignment = Assignment(failed.job, failed.generation)
            return events.RestoreFailed(host, assignment, failed.message)
        case "stacks":
            told = message.stacks
            return events.StacksTold(host, Assignment(told.job, told.generation), told.text)
        case "link_conditions":
            conditions = _link_conditions(message.link_conditions)
            return events.LinkConditionsReported(host, conditions)
        case other:
            raise ValueError(f"{host} sent an event of kind {other!r}, which cannot come here")


def encode_command(command: commands.Command, heartbeat_interval_seconds: float) -> pb.HostCommand:
    """An order as its host hears it."""
    match command:
        case commands.AssembleHost():
            assemble = pb.AssemblePod(
                coordinator_address=command.coordinator_address,
                lead_link_address=command.lead_link_address,
                heartbeat_interval_seconds=heartbeat_interval_seconds,
                lead_incarnation=command.lead_incarnation,
            )
            return pb.HostCommand(assemble_pod=assemble)
        case commands.TellAgain(_, assignment, after_step):
            again = pb.TellAgain(
                job=assignment.job, generation=assignment.generation, after_step=after_step
            )
            return pb.HostCommand(tell_again=again)
        case commands.WarmHost(_, bundle_digest):
            return pb.HostCommand(warm_program=pb.WarmProgram(bundle_digest=bundle_digest))
        case commands.PrepareHost():
            return pb.HostCommand(prepare_job=_prepare(command))
        case commands.GrantWindow(_, assignment, last_step):
            grant = pb.GrantWindow(
                job=assignment.job, generation=assignment.generation, last_step=last_step
            )
            return pb.HostCommand(grant_window=grant)
        case commands.ChangeExchange(_, assignment, first_step, rule):
            another = pb.ChangeExchange(
                job=assignment.job,
                generation=assignment.generation,
                first_step=first_step,
                exchange=_exchange(rule),
            )
            return pb.HostCommand(change_exchange=another)
        case commands.HoldHost(_, assignment, reason):
            hold = pb.HoldJob(job=assignment.job, generation=assignment.generation, reason=reason)
            return pb.HostCommand(hold_job=hold)
        case commands.StopHost(_, assignment, reason):
            stop = pb.StopJob(job=assignment.job, generation=assignment.generation, reason=reason)
            return pb.HostCommand(stop_job=stop)
        case commands.DumpStacks(_, assignment):
            dump = pb.DumpStacks(job=assignment.job, generation=assignment.generation)
            return pb.HostCommand(dump_stacks=dump)
        case commands.SaveCheckpoint(_, assignment, step):
            save = pb.SaveCheckpoint(
                job=assignment.job, generation=assignment.generation, step=step
            )
            return pb.HostCommand(save_checkpoint=save)
        case commands.PublishCheckpoint():
            return pb.HostCommand(publish_checkpoint=_publish(command))
        case commands.RemoveCheckpoint():
            remove = pb.RemoveCheckpoint(
                job=command.assignment.job,
                directory=command.directory,
                step=command.checkpoint.step,
                generation=command.checkpoint.generation,
            )
            return pb.HostCommand(remove_checkpoint=remove)
        case commands.SetLinkConditions(_, conditions):
            change = pb.SetLinkConditions(conditions=_encode_link(conditions))
            return pb.HostCommand(set_link_conditions=change)
        case commands.DismissHost(_, reason):
            return pb.HostCommand(dismiss=pb.Dismiss(reason=reason))
        case _:
            raise ValueError(f"{command} is no order to a host")


def _prepare(command: commands.PrepareHost) -> pb.PrepareJob:
    members = [
        pb.GangMember(
            pod=member.pod, link_addresses=member.link_addresses, link_share=member.link_share
        )
        for member in command.members
    ]
    return pb.PrepareJob(
        job=command.assignment.job,
        generation=command.assignment.generation,
        bundle_digest=command.bundle_digest,
        members=members,
        member_index=command.member_index,
        phases=[_phase(phase) for phase in command.phases],
        seed=command.seed,
        data_json=command.data,
        digest_every_steps=command.digest_every,
        target_steps=command.target_steps,
        checkpoint_every_steps=command.checkpoint_every,
        checkpoint_directory=command.checkpoint_directory,
        restore=_place(command.restore) if command.restore else None,
        resume=_resume(command.resume) if command.resume else None,
        skipped=_ranges(command.skipped),
        evaluate_every_steps=command.evaluate_every,
        exchange=_exchange(command.exchange),
        data_start=pb.DataStart(
            after_step=command.data_start.after_step, position=command.data_start.position
        ),
    )


def _exchange(rule: ExchangeRule) -> pb.Exchange:
    return pb.Exchange(
        dtype=_DTYPES[rule.dtype],
        stochastic_rounding=rule.rounding == "stochastic",
        error_feedback=rule.error_feedback,
        overlap=rule.overlap,
        reproducible=rule.reproducible,
    )


def _resume(resume: commands.Resume) -> pb.Resume:
    return pb.Resume(
        step=resume.step,
        state_sha256=bytes.fromhex(resume.state_sha256),
        lacking=resume.lacking,
        is_save_due=resume.is_save_due,
        is_evaluation_due=resume.is_evaluation_due,
    )


def _phase(phase: commands.SlotPhase) -> pb.BatchPhase:
    slots = [pb.SlotRange(first=first, end=end) for first, end in phase.ranges]
    return pb.BatchPhase(first_step=phase.first_step, num_slots=phase.num_slots, slots=slots)


def _place(place: commands.CheckpointPlace) -> pb.CheckpointPlace:
    return pb.CheckpointPlace(
        job=place.job,
        directory=place.directory,
        step=place.checkpoint.step,
        generation=place.checkpoint.generation,
        state_sha256=bytes.fromhex(place.state_sha256),
    )


def _ranges(ranges: Sequence[Range]) -> list[pb.PositionRange]:
    return [pb.PositionRange(first=first, end=end) for first, end in ranges]


def _publish(command: commands.PublishCheckpoint) -> pb.PublishCheckpoint:
    return pb.PublishCheckpoint(
        job=command.assignment.job,
        generation=command.assignment.generation,
        directory=command.directory,
        step=command.step,
        num_members=command.num_members,
        state_sha256=bytes.fromhex(command.state_sha256),
        data_position=command.data_position,
        skipped=_ranges(command.skipped),
    )


def _encode_link(conditions: LinkConditions) -> pb.LinkConditions:
    return pb.LinkConditions(
        bandwidth_bytes_per_second=conditions.bandwidth_bytes_per_second or 0.0,
        latency_seconds=conditions.latency_seconds,
        jitter_seconds=conditions.jitter_seconds,
        stall_every_seconds=conditions.stall_every_seconds or 0.0,
        stall_seconds=conditions.stall_seconds,
        drop_probability=conditions.drop_probability,
        is_partitioned=conditions.is_partitioned,
    )


def _link_conditions(conditions: pb.LinkConditions) -> LinkConditions:
    return LinkConditions(
        bandwidth_bytes_per_second=conditions.bandwidth_bytes_per_second or None,
        latency_seconds=conditions.latency_seconds,
        jitter_seconds=conditions.jitter_seconds,
        stall_every_seconds=conditions.stall_every_seconds or None,
        stall_seconds=conditions.stall_seconds,
        drop_probability=conditions.drop_probability,
        is_partitioned=conditions.is_partitioned,
    )


def _inventory(inventory: pb.HostInventory) -> Inventory:
    return Inventory(
        platform=inventory.platform,
        device_kind=inventory.device_kind,
        num_devices=inventory.num_devices,
        device_memory_bytes=inventory.device_memory_bytes or None,
        peak_flops_per_second=dict(inventory.peak_flops_per_second),
        peak_source=_PEAK_SOURCES[inventory.peak_source],
        versions=dict(inventory.versions),
    )


def _traffic(heartbeat: pb.Heartbeat) -> dict[str, Traffic]:
    return {
        peer.peer_pod: Traffic(
            peer.sent_bytes,
            peer.sending_seconds,
            peer.retries,
            peer.rate_bytes_per_second or None,
            peer.rtt_seconds or None,
        )
        for peer in heartbeat.link_traffic
    }


def _doing(activity: pb.Activity) -> events.Doing:
    return events.Doing(
        Assignment(activity.job, activity.generation),
        _PHASES[activity.phase],
        activity.step,
        activity.seconds,
    )


def _source(source: pb.DataSource) -> DataSource:
    if not source.epoch_sequences:
        raise ValueError(f"an epoch has no sequence of source {source.name!r}")
    return DataSource(
        source.name,
        source.num_documents,
        source.num_tokens,
        source.num_sequences,
        source.epoch_sequences,
    )


def _records(applied: pb.StepsApplied) -> tuple[StepRecord, ...]:
    """Rows from columns; ValueError when the columns are not equally long."""
    digests = {digest.step: digest.sha256.hex() for digest in applied.digests}
    columns = zip(
        applied.time_unix_seconds,
        applied.loss,
        applied.grad_norm or [None] * len(applied.loss),
        applied.learning_rate,
        applied.seconds,
        applied.exchange_seconds,
        applied.exposed_seconds,
        applied.data_wait_seconds,
        applied.pause_seconds,
        applied.link_bytes,
        applied.float32_bytes or [0] * len(applied.loss),
        applied.residual_norm or [math.nan] * len(applied.loss),
        strict=True,
    )
    return tuple(
        StepRecord(
            step,
            time,
            loss,
            grad_norm,
            learning_rate,
            seconds,
            max(0.0, seconds - exposed - data_wait - pause),
            exchange,
            exposed,
            data_wait,
            pause,
            link_bytes,
            digests.get(step, ""),
            float32_bytes,
            None if math.isnan(residual_norm) else residual_norm,
        )
        for step, (
            time,
            loss,
            grad_norm,
            learning_rate,
            seconds,
            exchange,
            exposed,
            data_wait,
            pause,
            link_bytes,
            float32_bytes,
            residual_norm,
        ) in enumerate(columns, applied.first_step)
    )
