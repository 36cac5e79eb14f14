"""Every message there and back. The wire's own descriptors say which messages there are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from controller.core import commands, events
from controller.core.cluster import Assignment, Traffic
from controller.core.evaluation import Part
from controller.core.exchange import ExchangeRule
from controller.core.link import LinkConditions
from controller.core.record import StepRecord
from controller.core.sources import DataSource
from controller.runtime import codec
from protos import control_pb2 as pb
from tests.controller.core.world import ref

HOST = ref("pod-1", 1, "b")
JOB = Assignment("job-1", 3)
LINK = LinkConditions(25e6, 0.005, 0.002, 30.0, 0.5, 0.25, True)

APPLIED = pb.StepsApplied(
    job="job-1",
    generation=3,
    first_step=7,
    time_unix_seconds=[1.5, 2.5],
    loss=[2.25, 2.0],
    grad_norm=[0.5, 0.25],
    learning_rate=[0.125, 0.125],
    seconds=[1.0, 2.0],
    exchange_seconds=[0.5, 0.75],
    exposed_seconds=[0.25, 0.5],
    data_wait_seconds=[0.0625, 2.0],
    pause_seconds=[0.125, 0.0],
    link_bytes=[1 << 40, 8],
    digests=[pb.StateDigest(step=8, sha256=bytes(range(32)))],
    source_sequences=[12, 4],
)


def _names(message: type[Any], oneof: str) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields}


EVENTS = {
    "inventory": pb.HostEvent(
        inventory=pb.HostInventory(
            platform="cpu",
            device_kind="AMD",
            num_devices=4,
            device_memory_bytes=1 << 40,
            peak_flops_per_second={"float32": 1e12},
            peak_source=pb.PEAK_SOURCE_TABLE,
            versions={"jax": "0.10"},
        )
    ),
    "heartbeat": pb.HostEvent(
        heartbeat=pb.Heartbeat(
            link_traffic=[
                pb.LinkTraffic(
                    peer_pod="pod-0",
                    sent_bytes=9,
                    sending_seconds=0.5,
                    retries=2,
                    rate_bytes_per_second=18.0,
                )
            ],
            activity=pb.Activity(
                job="job-1", generation=3, phase=pb.PHASE_COMPUTE, step=8, seconds=2.5
            ),
        )
    ),
    "program_ready": pb.HostEvent(
        program_ready=pb.ProgramReady(
            job="job-1",
            generation=3,
            ready_seconds=2.0,
            compile_seconds=1.0,
            dataset_digest="d",
            data_steps=100,
            sources=[
                pb.DataSource(
                    name="books",
                    num_documents=3,
                    num_tokens=90,
                    num_sequences=8,
                    epoch_sequences=12,
                )
            ],
        )
    ),
    "steps_applied": pb.HostEvent(steps_applied=APPLIED),
    "job_faulted": pb.HostEvent(
        job_faulted=pb.JobFaulted(
            job="job-1",
            generation=3,
            phase=pb.PHASE_EXCHANGE,
            step=7,
            message="no answer",
            suspect_pod="pod-0",
        )
    ),
    "program_warmed": pb.HostEvent(program_warmed=pb.ProgramWarmed(bundle_digest="sha256:ab")),
    "job_held": pb.HostEvent(
        job_held=pb.JobHeld(
            job="job-1", generation=3, applied_step=7, state_sha256=bytes(range(32))
        )
    ),
    "job_released": pb.HostEvent(
        job_released=pb.JobReleased(job="job-1", generation=3, applied_step=7)
    ),
    "checkpoint_written": pb.HostEvent(
        checkpoint_written=pb.CheckpointWritten(
            job="job-1",
            generation=3,
            step=50,
            state_sha256=bytes(range(32)),
            num_bytes=9,
            seconds=2.0,
            stall_seconds=0.5,
            data_position=800,
            error="full",
        )
    ),
    "evaluated": pb.HostEvent(
        evaluated=pb.Evaluated(
            job="job-1", generation=3, step=50, losses=[2.0, 2.5], num_tokens=64, num_bytes=200
        )
    ),
    "checkpoint_published": pb.HostEvent(
        checkpoint_published=pb.CheckpointPublished(job="job-1", generation=3, step=50, error="x")
    ),
    "restore_failed": pb.HostEvent(
        restore_failed=pb.RestoreFailed(job="job-1", generation=3, message="damaged")
    ),
    "host_leaving": pb.HostEvent(host_leaving=pb.HostLeaving(seconds=25.0)),
    "stacks": pb.HostEvent(stacks=pb.Stacks(job="job-1", generation=3, text="executor: ...")),
    "link_conditions": pb.HostEvent(
        link_conditions=pb.LinkConditions(
            bandwidth_bytes_per_second=25e6,
            latency_seconds=0.005,
            jitter_seconds=0.002,
            stall_every_seconds=30.0,
            stall_seconds=0.5,
            drop_probability=0.25,
            is_partitioned=True,
        )
    ),
}


def test_hello_becomes_an_attached_host() -> None:
    hello = pb.HostHello(
        protocol_version=codec.PROTOCOL_VERSION,
        pod="pod-1",
        host_index=1,
        num_hosts=2,
        incarnation="b",
        link_address="h:1",
        coordinator_address="h:2",
        pid=42,
        join_token="secret",
    )
    assert codec.host_of(hello) == HOST
    assert codec.decode_hello(hello) == events.HostAttached(HOST, 2, "h:1", "h:2", 42)
    hello.assembled_with = "a"
    hello.held.CopyFrom(pb.HeldJob(job="job-1", generation=3, granted_step=64))
    again = events.HostAttached(HOST, 2, "h:1", "h:2", 42, "a", JOB, 64)
    assert codec.decode_hello(hello) == again


def test_every_event_but_hello_is_decoded() -> None:
    assert _names(pb.HostEvent, "event") - {"hello"} == set(EVENTS)
    decoded = {kind: codec.decode_event(HOST, message) for kind, message in EVENTS.items()}
    assert {type(event).__name__ for event in decoded.values()} == {
        *("HostInventoried", "HostHeard", "ProgramReady", "StepsApplied", "JobFaulted"),
        *("JobReleased", "CheckpointWritten", "CheckpointPublished", "RestoreFailed"),
        *(
            "Evaluated",
            "LinkConditionsReported",
            "JobHeld",
            "HostWarmed",
            "StacksTold",
            "HostLeaving",
        ),
    }
    assert all(event.host == HOST for event in decoded.values())  # type: ignore[union-attr]


def test_inventory_is_decoded_with_what_is_unknown_absent() -> None:
    event = codec.decode_event(HOST, EVENTS["inventory"])
    assert isinstance(event, events.HostInventoried)
    assert event.inventory.device_memory_bytes == 1 << 40
    assert event.inventory.peak_flops_per_second == {"float32": 1e12}
    assert (event.inventory.peak_source, event.inventory.versions) == ("table", {"jax": "0.10"})
    bare = codec.decode_event(HOST, pb.HostEvent(inventory=pb.HostInventory(platform="cpu")))
    assert isinstance(bare, events.HostInventoried)
    assert bare.inventory.device_memory_bytes is None
    assert bare.inventory.peak_source == "unknown" and not bare.inventory.peak_flops_per_second


@pytest.mark.parametrize("source", pb.PeakSource.values())
def test_every_source_of_a_peak_has_a_word(source: pb.PeakSource) -> None:
    message = pb.HostEvent(inventory=pb.HostInventory(peak_source=source))
    event = codec.decode_event(HOST, message)
    assert isinstance(event, events.HostInventoried)
    assert event.inventory.peak_source in {"unknown", "table", "calibrated", "emulated"}


@pytest.mark.parametrize("phase", pb.Phase.values())
def test_every_phase_has_a_word(phase: pb.Phase) -> None:
    event = codec.decode_event(HOST, pb.HostEvent(job_faulted=pb.JobFaulted(phase=phase)))
    assert isinstance(event, events.JobFaulted)
    assert event.phase == pb.Phase.Name(phase).removeprefix("PHASE_").lower() or not phase


def test_heartbeat_brings_traffic_by_peer_and_what_is_done() -> None:
    event = codec.decode_event(HOST, EVENTS["heartbeat"])
    traffic, doing = {"pod-0": Traffic(9, 0.5, 2, 18.0, None)}, events.Doing(JOB, "compute", 8, 2.5)
    assert event == events.HostHeard(HOST, traffic, doing)
    idle = codec.decode_event(HOST, pb.HostEvent(heartbeat=pb.Heartbeat()))
    assert idle == events.HostHeard(HOST, {})


def test_reports_of_a_job_carry_its_generation() -> None:
    assert codec.decode_event(HOST, EVENTS["program_ready"]) == events.ProgramReady(
        HOST, JOB, 2.0, 1.0, "d", 100, (DataSource("books", 3, 90, 8, 12),)
    )
    assert codec.decode_event(HOST, EVENTS["job_faulted"]) == events.JobFaulted(
        HOST, JOB, "exchange", 7, "no answer", "pod-0"
    )
    assert codec.decode_event(HOST, EVENTS["program_warmed"]) == events.HostWarmed(
        HOST, "sha256:ab"
    )
    assert codec.decode_event(HOST, EVENTS["job_held"]) == events.JobHeld(
        HOST, JOB, 7, bytes(range(32)).hex()
    )
    assert codec.decode_event(HOST, EVENTS["job_released"]) == events.JobReleased(HOST, JOB, 7)
    assert codec.decode_event(HOST, EVENTS["checkpoint_written"]) == events.CheckpointWritten(
        HOST, JOB, 50, bytes(range(32)).hex(), 9, 2.0, 0.5, 800, "full"
    )
    assert codec.decode_event(HOST, EVENTS["checkpoint_published"]) == events.CheckpointPublished(
        HOST, JOB, 50, "x"
    )
    assert codec.decode_event(HOST, EVENTS["evaluated"]) == events.Evaluated(
        HOST, JOB, 50, Part((2.0, 2.5), 64, 200)
    )
    assert codec.decode_event(HOST, EVENTS["restore_failed"]) == events.RestoreFailed(
        HOST, JOB, "damaged"
    )
    assert codec.decode_event(HOST, EVENTS["host_leaving"]) == events.HostLeaving(HOST, 25.0)
    assert codec.decode_event(HOST, EVENTS["stacks"]) == events.StacksTold(
        HOST, JOB, "executor: ..."
    )


def test_conditions_of_a_link_go_there_and_back_and_none_is_none() -> None:
    reported = codec.decode_event(HOST, EVENTS["link_conditions"])
    assert reported == events.LinkConditionsReported(HOST, LINK)
    for conditions in (LINK, LinkConditions()):
        order = codec.encode_command(commands.SetLinkConditions(HOST, conditions), 1.0)
        answer = pb.HostEvent(link_conditions=order.set_link_conditions.conditions)
        said = events.LinkConditionsReported(HOST, conditions)
        assert codec.decode_event(HOST, answer) == said


def test_step_records_are_rows_of_the_columns() -> None:
    event = codec.decode_event(HOST, EVENTS["steps_applied"])
    digest = bytes(range(32)).hex()
    assert event == events.StepsApplied(
        HOST,
        JOB,
        (
            StepRecord(
                7, 1.5, 2.25, 0.5, 0.125, 1.0, 0.5625, 0.5, 0.25, 0.0625, 0.125, 1 << 40, ""
            ),
            StepRecord(8, 2.5, 2.0, 0.25, 0.125, 2.0, 0.0, 0.75, 0.5, 2.0, 0.0, 8, digest),
        ),
        (12, 4),
    )


def test_a_source_without_a_sequence_is_refused() -> None:
    empty = pb.ProgramReady(sources=[pb.DataSource(name="books")])
    with pytest.raises(ValueError, match="no sequence of source 'books'"):
        codec.decode_event(HOST, pb.HostEvent(program_ready=empty))


def test_columns_of_unequal_length_are_refused() -> None:
    short = pb.StepsApplied()
    short.CopyFrom(APPLIED)
    del short.loss[-1]
    with pytest.raises(ValueError, match="shorter"):
        codec.decode_event(HOST, pb.HostEvent(steps_applied=short))


def test_a_program_without_a_gradient_norm_says_none() -> None:
    without = pb.StepsApplied()
    without.CopyFrom(APPLIED)
    del without.grad_norm[:]
    event = codec.decode_event(HOST, pb.HostEvent(steps_applied=without))
    assert isinstance(event, events.StepsApplied)
    assert [record.grad_norm for record in event.records] == [None, None]


def test_report_of_no_steps_is_none() -> None:
    event = codec.decode_event(HOST, pb.HostEvent(steps_applied=pb.StepsApplied(first_step=1)))
    assert isinstance(event, events.StepsApplied) and event.records == ()


def test_loss_that_is_no_number_survives_the_wire() -> None:
    diverged = pb.StepsApplied()
    diverged.CopyFrom(APPLIED)
    diverged.loss[:] = [math.nan, math.inf]
    message = pb.HostEvent.FromString(pb.HostEvent(steps_applied=diverged).SerializeToString())
    event = codec.decode_event(HOST, message)
    assert isinstance(event, events.StepsApplied)
    assert math.isnan(event.records[0].loss) and math.isinf(event.records[1].loss)


@pytest.mark.parametrize("message", [pb.HostEvent(), pb.HostEvent(hello=pb.HostHello())])
def test_message_that_cannot_come_here_is_refused(message: pb.HostEvent) -> None:
    with pytest.raises(ValueError, match="host 1 of pod-1 sent an event of kind"):
        codec.decode_event(HOST, message)


ORDERS: dict[str, commands.Command] = {
    "assemble_pod": commands.AssembleHost(HOST, "h:2", "h:1", "a"),
    "tell_again": commands.TellAgain(HOST, JOB, 60),
    "dump_stacks": commands.DumpStacks(HOST, JOB),
    "prepare_job": commands.PrepareHost(
        host=HOST,
        assignment=JOB,
        bundle_digest="sha256:ab",
        members=(
            commands.GangAddress("pod-0", ("a:1", "a:2"), 3),
            commands.GangAddress("pod-1", ("b:1", "b:2"), 0),
        ),
        member_index=1,
        phases=(
            commands.SlotPhase(1, 4, ((0, 2), (2, 4))),
            commands.SlotPhase(101, 8, ((0, 4), (4, 8))),
        ),
        seed=5,
        data='{"sources": []}',
        skipped=((40, 80),),
        digest_every=10,
        target_steps=200,
        checkpoint_every=50,
        checkpoint_directory="/checkpoints",
        evaluate_every=25,
        exchange=ExchangeRule("streaming_diloco", "int4", "stochastic", False, False, False),
        restore=commands.CheckpointPlace("job-0", "/other", commands.CheckpointId(100, 2), "ab"),
        data_start=commands.DataStart(100, 1600),
        resume=commands.Resume(120, "ab" * 32, (1, 2), is_save_due=True, is_evaluation_due=True),
    ),
    "warm_program": commands.WarmHost(HOST, "sha256:ab"),
    "hold_job": commands.HoldHost(HOST, JOB, "pod-0 was lost"),
    "save_checkpoint": commands.SaveCheckpoint(HOST, JOB, 65),
    "publish_checkpoint": commands.PublishCheckpoint(
        HOST, JOB, "/c", 50, 2, "ab" * 32, 800, ((40, 80),)
    ),
    "remove_checkpoint": commands.RemoveCheckpoint(HOST, JOB, "/c", commands.CheckpointId(50, 2)),
    "grant_window": commands.GrantWindow(HOST, JOB, 64),
    "change_exchange": commands.ChangeExchange(
        HOST, JOB, 65, ExchangeRule("full", "int8", "stochastic", False, True, False)
    ),
    "stop_job": commands.StopHost(HOST, JOB, "cancelled"),
    "set_link_conditions": commands.SetLinkConditions(HOST, LINK),
    "dismiss": commands.DismissHost(HOST, "silent"),
}


def test_every_order_to_a_host_has_its_message() -> None:
    assert _names(pb.HostCommand, "command") == set(ORDERS)
    for kind, order in ORDERS.items():
        message = codec.encode_command(order, 1.0)
        again = pb.HostCommand.FromString(message.SerializeToString())
        assert again.WhichOneof("command") == kind and again == message


def test_orders_say_what_the_core_meant() -> None:
    encoded = {kind: codec.encode_command(order, 1.5) for kind, order in ORDERS.items()}
    assemble = encoded["assemble_pod"].assemble_pod
    assert (assemble.coordinator_address, assemble.lead_link_address) == ("h:2", "h:1")
    assert (assemble.heartbeat_interval_seconds, assemble.lead_incarnation) == (1.5, "a")
    again = encoded["tell_again"].tell_again
    assert (again.job, again.generation, again.after_step) == ("job-1", 3, 60)
    dump = encoded["dump_stacks"].dump_stacks
    assert (dump.job, dump.generation) == ("job-1", 3)
    grant = encoded["grant_window"].grant_window
    assert (grant.job, grant.generation, grant.last_step) == ("job-1", 3, 64)
    change = encoded["change_exchange"].change_exchange
    assert (change.job, change.generation, change.first_step) == ("job-1", 3, 65)
    assert (change.exchange.dtype, change.exchange.overlap) == (pb.EXCHANGE_DTYPE_INT8, True)
    assert encoded["warm_program"].warm_program.bundle_digest == "sha256:ab"
    hold = encoded["hold_job"].hold_job
    assert (hold.job, hold.generation, hold.reason) == ("job-1", 3, "pod-0 was lost")
    stop = encoded["stop_job"].stop_job
    assert (stop.job, stop.generation, stop.reason) == ("job-1", 3, "cancelled")
    assert encoded["dismiss"].dismiss.reason == "silent"


def test_order_to_prepare_fills_every_field() -> None:
    message = codec.encode_command(ORDERS["prepare_job"], 1.0).prepare_job
    assert {field.name for field, _ in message.ListFields()} == {
        field.name for field in pb.PrepareJob.DESCRIPTOR.fields
    }
    assert (message.job, message.generation, message.bundle_digest) == ("job-1", 3, "sha256:ab")
    assert (message.member_index, message.seed, message.evaluate_every_steps) == (1, 5, 25)
    assert [(p.first_step, p.num_slots) for p in message.phases] == [(1, 4), (101, 8)]
    assert [(slots.first, slots.end) for slots in message.phases[1].slots] == [(0, 4), (4, 8)]
    assert [(part.first, part.end) for part in message.skipped] == [(40, 80)]
    resume = message.resume
    assert (resume.step, resume.state_sha256, list(resume.lacking)) == (
        *(120, bytes.fromhex("ab" * 32)),
        [1, 2],
    )
    assert resume.is_save_due and resume.is_evaluation_due
    place = message.restore
    assert (place.job, place.directory, place.step, place.generation) == ("job-0", "/other", 100, 2)
    assert (message.data_json, message.digest_every_steps) == ('{"sources": []}', 10)
    assert message.target_steps == 200
    assert [member.pod for member in message.members] == ["pod-0", "pod-1"]
    assert list(message.members[1].link_addresses) == ["b:1", "b:2"]


@pytest.mark.parametrize(
    "command",
    [
        commands.LowerProgram(JOB, "{}", "cpu"),
        commands.AbandonLowering(JOB),
        commands.RestartPod("pod-0", (1,), "stuck"),
    ],
)
def test_order_to_somebody_else_is_no_message(command: commands.Command) -> None:
    with pytest.raises(ValueError, match="no order to a host"):
        codec.encode_command(command, 1.0)
