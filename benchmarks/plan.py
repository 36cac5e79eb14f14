"""Plan: what POST /jobs:plan says of palm-tiny on two pods against what is measured.

Memory is held against the compiler's plan for every component of the job's bundle, with the buffers
that a worker keeps beside it. By how much a process that runs such steps grows is shown too, but
without a target: the allocator, its huge pages and the code are in it as well.

Time is planned from the speed of a slot alone, measured before and after each job, and
from the rate that the emulated link is given. Sums, update, batches, the service and waiting for
the other pod are in what is measured and in no plan, so the comparison can fail.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import jobs, table
from benchmarks.bare import BareLoop, bare_loop
from landbridge.client import Client
from landbridge.local import local_controller
from model.program import Call
from model.slot_memory import held_beside
from workers.exchange.conditions import parse_bandwidth
from workers.exchange.tree import Node, reduce_tree

PODS, SLOTS_OF_A_POD = 2, 2
LINK = "200Mbit"
WITHIN, CHECKPOINT_WITHIN = 0.2, 0.01

_WARM_UP_STEPS = 3
_RESIDENT_STEPS = 6
_TRAIN = {
    **jobs.SPEC["train"],
    "global_batch": PODS * SLOTS_OF_A_POD * jobs.SPEC["train"]["microbatch"],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A job, as it was planned and as it went."""

    plan: Mapping[str, Any]
    """The document of POST /jobs:plan."""
    steps: Sequence[Mapping[str, Any]]
    """Step records after the warm-up."""
    checkpoint_bytes: int


def run(*, quick: bool) -> table.Result:
    runs, steps = (2, 9) if quick else (7, 20)
    core = min(os.sched_getaffinity(0))
    arguments = ["--pods", str(PODS), "--devices-per-host", "1", "--link-bandwidth", LINK]
    with tempfile.TemporaryDirectory(prefix="landbridge-plan-") as name:
        state = pathlib.Path(name)
        with (
            local_controller(state_dir=state, arguments=arguments) as controller,
            Client(controller.address) as client,
        ):
            client.wait_for_pods(PODS)
            bundle = jobs.succeeded(client, _spec(_WARM_UP_STEPS))["bundle"]
            path = state / "bundles" / f"{bundle.removeprefix('sha256:')}.bundle"
            with bare_loop(path, SLOTS_OF_A_POD, state / "bare-cache", core=core) as bare:
                resident = bare.resident_bytes(_RESIDENT_STEPS)
                compiled = _compiled_bytes(bare)
                outcomes = [_outcome(client, bare, steps) for _ in range(runs)]
            links = client.links()["links"]
            lossy = _lossy_checkpoint(client)
    rows = [*_memory_rows(outcomes[0].plan["bytes_per_device"], compiled, resident)]
    rows += _job_rows(outcomes, min(link["bandwidth_bytes_per_second"] for link in links))
    rows.append(lossy)
    title = (
        f"Plan: palm-tiny on {PODS} pods of {SLOTS_OF_A_POD} slots, a link of {LINK}; "
        "ratio is planned / measured"
    )
    return table.Result("plan", title, rows)


def _spec(steps: int) -> jobs.Document:
    # The state after the last step is written, which no step waits for.
    checkpoint = {"every": steps, "keep": 1}
    placement = {"pods": PODS, "mesh": {"data": 1, "model": 1}}
    return jobs.spec(steps, train=_TRAIN, placement=placement, checkpoint=checkpoint)


def _outcome(client: Client, bare: BareLoop, steps: int) -> Outcome:
    """The speed of a shared machine drifts, so it is measured on both sides of the job."""
    before = bare.slot_seconds()
    job = jobs.succeeded(client, _spec(steps))
    after = bare.slot_seconds()
    tokens = PODS * _TRAIN["microbatch"] * _TRAIN["sequence_length"]
    # Asked of the plan, so that the peak is the plan's own, whichever pod said it.
    mfu_of_a_token = client.plan({**_spec(steps), "assume": {"tokens_per_second": 1.0}})["mfu"]
    assume = {
        "mfu": mfu_of_a_token * tokens / ((before + after) / 2),
        "link_bytes_per_second": parse_bandwidth(LINK),
    }
    return Outcome(
        client.plan({**_spec(steps), "assume": assume}),
        client.steps(job["id"], after=_WARM_UP_STEPS, limit=1000)["steps"],
        job["checkpoints"][-1]["num_bytes"],
    )


def _lossy_checkpoint(client: Client) -> table.Row:
    """A checkpoint that has what encoding lost."""
    spec = {**_spec(_WARM_UP_STEPS), "exchange": {"dtype": "int8"}}
    written = jobs.succeeded(client, spec)["checkpoints"][-1]["num_bytes"]
    planned = client.plan(spec)["checkpoint_bytes"]
    case = "checkpoint, int8 with error feedback"
    return _row(case, "MB", [planned / 1e6], [written / 1e6], CHECKPOINT_WITHIN)


def _compiled_bytes(bare: BareLoop) -> dict[str, int]:
    """Bytes while each component runs: what the compiler plans for it, and what stays beside it."""
    groups, needs, program = bare.group_bytes(), bare.component_bytes(), bare.slot()
    gradients = [name for segment in program["segments"] for name in segment["groups"]]
    gradient = sum(groups[name] for name in gradients)
    need = {name: sum(parts.values()) for name, parts in needs.items()}
    calls = [
        Call(entry["component"], entry["inputs"], entry["outputs"], entry["values"])
        for entry in program["slot"]
    ]
    held = held_beside(calls, gradients, groups)
    waiting = groups["optimizer"] + gradient * _sums_held(SLOTS_OF_A_POD)
    slot = {
        f"call {index} of a slot, {call.component}": need[call.component] + beside + waiting
        for index, (call, beside) in enumerate(zip(calls, held, strict=True))
    }
    state = groups["params"] + groups["optimizer"]
    # Two whole gradients are there while one is added to the other, whichever segment it is at.
    adding = {"accumulate": state + 2 * gradient}
    evaluate = {"evaluate": need["evaluate"] + groups["optimizer"]}
    others = {name: need[name] for name in ("init", "apply_update", "digest")}
    return slot | adding | evaluate | others


def _sums_held(num_slots: int) -> int:
    """Sums over earlier slots that are there while a slot is computed, at most."""
    held = most = 0

    def slot(node: Node) -> bool | None:
        nonlocal held, most
        if node[1] - node[0] > 1:
            return None
        most = max(most, held)
        held += 1
        return True

    def add(_left: bool, _right: bool) -> bool:
        nonlocal held
        held -= 1
        return True

    reduce_tree((0, num_slots), slot, add)
    return most


def _memory_rows(
    planned: Mapping[str, int], compiled: Mapping[str, int], resident: int
) -> list[table.Row]:
    largest = max(compiled, key=lambda name: compiled[name])
    total = [planned["total"] / 1e6]
    seen = [compiled[largest] / 1e6]
    return [
        _row(f"memory of a device, compiler's ({largest})", "MB", total, seen, WITHIN),
        _row("memory of a device, growth of a process", "MB", total, [resident / 1e6], None),
    ]


def _job_rows(outcomes: Sequence[Outcome], bandwidth: float) -> list[table.Row]:
    """`bandwidth` is what the slowest link was seen to carry, bytes per second."""
    plans = [outcome.plan for outcome in outcomes]

    def planned(field: str, scale: float) -> list[float]:
        return [plan[field] * scale for plan in plans]

    def seen(field: str) -> list[float]:
        return [1e3 * table.median([step[field] for step in each.steps]) for each in outcomes]

    sent = [step["link_bytes"] / PODS for outcome in outcomes for step in outcome.steps]
    to_send = plans[0]["link_bytes_per_host_per_step"]
    # The worst of all steps speaks: an exact number has no median.
    farthest = max(sent, key=lambda number: abs(number - to_send))
    written = [outcome.checkpoint_bytes / 1e6 for outcome in outcomes]
    alone = 1e3 * to_send / parse_bandwidth(LINK)
    return [
        _row("a step", "ms", planned("step_seconds", 1e3), seen("seconds"), WITHIN),
        _row("exposed exchange", "ms", planned("exposed_seconds", 1e3), seen("exposed_seconds"),
             None),
        _row("exchange, sending alone", "ms", [alone], [1e3 * to_send / bandwidth], None),
        _row("sent by a host in a step", "bytes", [to_send], [farthest], 0.0, runs=len(sent)),
        _row("checkpoint", "MB", planned("checkpoint_bytes", 1e-6), written, CHECKPOINT_WITHIN),
    ]  # fmt: skip


def _row(
    case: str,
    unit: str,
    planned: Sequence[float],
    measured: Sequence[float],
    within: float | None,
    *,
    runs: int | None = None,
) -> table.Row:
    """Medians; the ratio is that of the runs, each against its own plan."""
    ratio = table.median([plan / seen for plan, seen in zip(planned, measured, strict=True)])
    figures = {"planned": table.median(planned), "measured": table.median(measured), "unit": unit}
    return table.Row(
        case=case,
        ratio=ratio,
        target="" if within is None else f"within {within:.0%}" if within else "exact",
        runs=runs or len(measured),
        is_met=None if within is None else abs(ratio - 1) <= within,
        figures=figures,
    )
