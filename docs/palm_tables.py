"""The planner's answers to PaLM's published figures, as a document."""

from __future__ import annotations

import dataclasses

from model import flops, planner
from model.accelerators import ACCELERATORS
from model.config import PRESETS, MeshConfig, SlotConfig
from model.memory import device_bytes
from model.pipeline import Pipeline
from model.planner import Assumptions, Job

LENGTH = 2048
V4 = ACCELERATORS["tpu-v4"]
GIB = 1 << 30

PUBLISHED_RATE = 238.3e3
"""Tokens a second at batch 2048 (section 4.1)."""

BURST_BYTES_PER_HOST = 81e12 / 8 / 1536
"""81 Tbit/s over 1,536 hosts (section 4)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One published size and batch. The paper names the mesh of 540B; the others are ours."""

    preset: str
    pods: int
    mesh: tuple[int, int]
    batches: tuple[int, ...]
    tera_flops: tuple[str, str]
    """Published TFLOP per token without and with recomputation (table 22)."""


RUNS = (
    Run("palm-8b", 1, (256, 1), (256, 512), ("0.0550", "0.0561")),
    Run("palm-62b", 1, (512, 4), (512, 1024), ("0.388", "0.392")),
    Run("palm-540b", 2, (256, 12), (512, 1024, 2048), ("3.28", "4.10")),
)

TEXT = """\
# PaLM, planned

Made by `python docs/generate.py` from `model/planner.py`, `model/memory.py` and
`model/pipeline.py`: arithmetic on a specification, without accelerators. Published figures are
those of PaLM (arXiv 2204.02311). `landbridge plan examples/palm-540b.yaml` says the same
of FLOPs and speed, with a controller or without; its memory is lower, with slots of 256 sequences
for 1,024.

## FLOPs per token, {length} tokens a sequence
{flops}

## 540B on two pods of 3,072 TPU v4, 256 x 12, 768 hosts each, batch 2048
{speed}

Weak scaling depends on what a host's link carries. The paper gives a burst of 81 Tbit/s over all
hosts, {burst:.1f} GB/s each; the published 1.95 is what half of that gives, with the whole transfer
exposed. The days are of the last batch size all along, without an interruption.

## Memory of a device, GiB of 32
{memory}

Every pod sums its share of the batch in one slot. Meshes of 8B and 62B are ours. Activations are an
estimate, held within a fifth of the compilers' plans by tests ([palm_compile.md](palm_compile.md)).

## Instead of a pipeline
{pipeline}

The same devices and batch as a pipeline, one microbatch forward and one backward in turn (1F1B).
A device holds less, since a stage has only its layers. What it costs is time: every device of the
data axis needs a sequence, so {batch:,} sequences are {most} microbatches at most with two stages,
and {bubble} of the time goes by in the bubble. Two pods as data-parallel halves lose {exposed} of a
step to the link, read every weight twice and need no schedule; to lose as little, two stages would
need {fewest} microbatches.
"""


def document() -> str:
    """The text of docs/palm.md."""
    return TEXT.format(
        length=f"{LENGTH:,}",
        flops=_flops(),
        speed=_speed(),
        burst=BURST_BYTES_PER_HOST / 1e9,
        memory=_memory(),
        pipeline=_pipeline(),
        **_pipeline_of_the_pods(),
    )


def _pipeline_of_the_pods() -> dict[str, object]:
    """What a plan says about the pods of 540B as stages."""
    batch = RUNS[-1].batches[-1]
    planned = planner.plan(_job(RUNS[-1], batch), _assumptions(0.5))
    speed, pipeline = planned.speed, planned.pipeline
    assert pipeline is not None and speed.exposed_seconds and speed.step_seconds
    return {
        "batch": batch,
        "exposed": _percent(speed.exposed_seconds / speed.step_seconds),
        "most": pipeline.most_microbatches,
        "bubble": _percent(Pipeline(pipeline.stages, pipeline.most_microbatches).bubble),
        "fewest": pipeline.microbatches_to_match,
    }


def _assumptions(share_of_burst: float | None = None) -> Assumptions:
    return Assumptions(
        peak_flops_per_second=V4.peak_flops_per_second["bfloat16"],
        tokens_per_second=PUBLISHED_RATE,
        link_bytes_per_second=share_of_burst and share_of_burst * BURST_BYTES_PER_HOST,
    )


def _job(run: Run, batch: int) -> Job:
    data, model = run.mesh
    slots = [(pod, pod + 1) for pod in range(run.pods)]
    return Job(
        model=PRESETS[run.preset],
        slot=SlotConfig(microbatch=batch // run.pods, sequence_length=LENGTH),
        mesh=MeshConfig(data=data, model=model),
        slots=slots,
        hosts_per_pod=data * model // V4.devices_per_host,
        link_dtype="bfloat16",
    )


def _flops() -> str:
    rows = []
    for run in RUNS:
        config = PRESETS[run.preset]
        model = flops.model_flops_per_token(config, LENGTH) / 1e12
        hardware = flops.hardware_flops_per_token(config, LENGTH) / 1e12
        count = f"{flops.parameter_count(config) / 1e9:.2f}B"
        without, with_ = run.tera_flops
        rows.append((run.preset, count, f"{model:.4f}", without, f"{hardware:.4f}", with_))
    headings = ("size", "parameters", "TFLOP", "published", "TFLOP, remat", "published")
    return _table(headings, rows)


def _speed() -> str:
    job = _job(RUNS[-1], 2048)
    sent = planner.link_bytes_per_host(job)
    known, half, full = (planner.plan(job, _assumptions(share)).speed for share in (None, 0.5, 1.0))
    rows = [
        ("step, at 238.3K tokens/s", f"{known.step_seconds:.1f} s", ""),
        ("MFU", _percent(known.mfu), "46.2%"),
        ("HFU", _percent(known.hfu), "57.8%"),
        (
            "sent by a host in a step, bfloat16",
            f"{sent / 1e9:.2f} GB = {sent / GIB:.2f} GiB",
            "1.3 GB",
        ),
        ("weak scaling, half of the burst", f"{half.weak_scaling:.2f}x", "1.95x"),
        ("weak scaling, the burst all along", f"{full.weak_scaling:.2f}x", ""),
        (
            "780B tokens at that rate",
            f"{planner.days_to_train(780e9, PUBLISHED_RATE):.1f} days",
            "",
        ),
    ]
    return _table(("figure", "planned", "published"), rows)


def _memory() -> str:
    rows = []
    for run in RUNS:
        for batch in run.batches:
            need = planner.plan(_job(run, batch), Assumptions()).bytes_per_device
            figures = (need.params, need.optimizer, need.gradients, need.activations, need.total)
            mesh = " x ".join(map(str, run.mesh))
            shown = [f"{figure / GIB:.2f}" for figure in figures]
            rows.append((run.preset, f"{run.pods} of {mesh}", str(batch), *shown))
    headings = ("size", "pods", "batch", "parameters", "optimizer", "gradients", "activations")
    return _table((*headings, "total"), rows)


def _pipeline() -> str:
    """540B at its largest batch on the devices of both pods: each stage has the layers of its
    share, the model axis as in the paper, and the rest of its devices for data."""
    run, batch = RUNS[-1], RUNS[-1].batches[-1]
    data, model = run.mesh
    rows = []
    for stages in (2, 4, 16):
        mesh = MeshConfig(data=run.pods * data // stages, model=model)
        most = batch // mesh.data
        for microbatches in (most // 4, most // 2, most):
            pipeline = Pipeline(stages, microbatches)
            slot = SlotConfig(microbatch=batch // microbatches, sequence_length=LENGTH)
            need = pipeline.device_bytes(device_bytes(PRESETS[run.preset], slot, mesh))
            rows.append(
                (
                    str(stages),
                    str(microbatches),
                    _percent(pipeline.bubble),
                    f"{need / GIB:.2f}",
                    str(pipeline.activations_held),
                    str(pipeline.weight_reads),
                )
            )
    headings = ("stages", "microbatches", "time in the bubble", "GiB a device", "held at once")
    return _table((*headings, "reads of every weight"), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    marks = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, marks, *rows))
