"""A plan for people: what is needed, what travels, how fast it goes."""

from __future__ import annotations

from typing import Any

from landbridge import figures
from landbridge.cli import output

Document = dict[str, Any]

_STEP_TIME = "assume.mfu or assume.tokens_per_second"


def show(plan: Document) -> None:
    """Print the figures that are known; the others have a dash."""
    sections = (_program(plan), _device(plan), _link(plan), _speed(plan), _pipeline(plan))
    rows = [row for section in sections for row in section]
    output.table(("PLAN", "FIGURE", "NOTE"), rows)


def _program(plan: Document) -> list[tuple[str, str, str]]:
    per_step = figures.amount(plan["tokens_per_step"])
    return [
        ("parameters", figures.amount(plan["parameters"]), ""),
        ("tokens a step", per_step, ""),
        ("FLOP per token", figures.amount(plan["model_flops_per_token"]), "6N + 12LHQT"),
        ("  with recomputation", figures.amount(plan["hardware_flops_per_token"]), ""),
    ]


def _device(plan: Document) -> list[tuple[str, str, str]]:
    need = plan["bytes_per_device"]
    memory = plan["device_memory_bytes"]
    share = f"{figures.percent(need['total'] / memory)} of it" if memory else ""
    held = f"of {gib(memory)}, {share}" if memory else ""
    parts = ("params", "optimizer", "gradients", "activations", "residuals", "outer")
    return [
        ("memory of a device", gib(need["total"]), held),
        *((f"  {part}", gib(need[part]), "") for part in parts if need[part]),
        ("a checkpoint", figures.amount(plan["checkpoint_bytes"], "B"), "all pods together"),
    ]


def _link(plan: Document) -> list[tuple[str, str, str]]:
    sent = plan["link_bytes_per_host_per_step"]
    needs = "assume.link_bytes_per_second"
    if "link_bytes_per_second" in plan["spec"].get("assume", {}):
        # Gradients travel behind computation, of which the time is not known.
        needs = _STEP_TIME
    less = "in float32; auto may send less" if plan["spec"]["exchange"].get("allow") else ""
    return [
        ("sent by a host a step", figures.amount(sent, "B") if sent else "nothing", less),
        (
            "  exposed",
            figures.amount(plan["exposed_seconds"], "s"),
            _wanting(plan["exposed_seconds"], needs),
        ),
        ("weak scaling", _times(plan["weak_scaling"]), "against one pod with its share"),
    ]


def _speed(plan: Document) -> list[tuple[str, str, str]]:
    days = plan["days"]
    return [
        (
            "step",
            figures.amount(plan["step_seconds"], "s"),
            _wanting(plan["step_seconds"], _STEP_TIME),
        ),
        ("tokens/s", figures.amount(plan["tokens_per_second"]), ""),
        ("MFU", figures.percent(plan["mfu"]), ""),
        ("HFU", figures.percent(plan["hfu"]), "recomputation counted"),
        ("time", figures.duration(days * 86_400 if days is not None else None), "undisturbed"),
    ]


def _pipeline(plan: Document) -> list[tuple[str, str, str]]:
    """What PaLM did without, for the same pods."""
    instead = plan["pipeline"]
    if instead is None:
        return []
    fewest = instead["microbatches_to_match"]
    return [
        ("as a pipeline of the pods", f"{instead['stages']} stages", "instead of data parallelism"),
        (
            "  time in the bubble",
            figures.percent(instead["bubble"]),
            f"with {instead['microbatches']} microbatches, {instead['most_microbatches']} at most",
        ),
        (
            "  microbatches to match",
            str(fewest or figures.UNKNOWN),
            "to lose as little as the link",
        ),
        ("  memory of a device", gib(instead["device_bytes"]), "a stage has its layers only"),
    ]


def _wanting(value: float | None, field: str) -> str:
    return f"needs {field}" if value is None else ""


def gib(num_bytes: int) -> str:
    """Memory of a device, in the unit of its data sheet."""
    gib = num_bytes / (1 << 30)
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{num_bytes / (1 << 20):.1f} MiB"


def _times(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{value:.2f}x"
