"""What the lowerer and the compiler made of a program, for people, beside what was planned."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from landbridge import figures
from landbridge.cli import output
from landbridge.cli.plan_table import gib

Document = dict[str, Any]


def show(examined: Document) -> None:
    """Print the tables of an answer of model.examine."""
    print()
    headings = ("COMPONENT", "SECONDS", "STABLEHLO", "FLOP, FORMULA", "TRACED", "XLA, LOOPS ONCE")
    rows = [_component(name, found) for name, found in examined["components"].items()]
    output.table(headings, rows)
    if "compiled" not in examined:
        return
    compiled, planned = examined["compiled"], examined["planned"]
    print(
        f"\n{', '.join(compiled['components'])} compiled for {compiled['topology']} "
        f"in {compiled['seconds']:.0f} s"
    )
    for option, value in compiled["compiler_options"].items():
        print(
            f"the compiler takes it only with LIBTPU_INIT_ARGS=--{option}={str(value).lower()}, "
            "which hosts need, too"
        )
    output.table(("OF A DEVICE", "COMPILER", "PLANNER", ""), _memory(compiled, planned))
    print()
    output.table(("IN A STEP", "BYTES", ""), _held(examined["held_in_a_step"]))
    print()
    headings = ("IN THE POD", "GROUP", "CALLS", "COMPILER", "PLANNER")
    output.table(headings, _traffic(compiled["collectives"], planned["pod_traffic"], examined))


def _component(name: str, found: Document) -> tuple[str, ...]:
    formula = found.get("flops")
    traced = found.get("matrix_flops")
    return (
        name,
        f"{found['seconds']:.2f}",
        figures.amount(found["bytes"], "B"),
        _flops(formula),
        f"{_flops(traced)} {_apart(traced, formula)}".strip(),
        _flops(found.get("xla_flops")),
    )


def _memory(compiled: Document, planned: Document) -> list[tuple[str, ...]]:
    need = planned["bytes_per_device"]
    peak = compiled["peak_bytes"]
    rows = (
        ("  arguments, params", compiled["argument_bytes"], need["params"]),
        ("  outputs, gradients", compiled["output_bytes"], need["gradients"]),
        ("  temporaries, activations", compiled["temporary_bytes"], need["activations"]),
    )
    seen = figures.UNKNOWN if peak is None else gib(peak)
    return [
        ("peak, all", seen, gib(need["total"]), _apart(need["total"], peak)),
        # Only the peak is alive at once; the parts are no sum of it.
        *((name, gib(real), gib(plan), "") for name, real, plan in rows),
    ]


def _held(held: Document) -> list[tuple[str, str, str]]:
    """Whether a device of the topology holds it all."""
    total, memory = held["total"], held["device_memory_bytes"]
    verdict = ""
    if memory is not None:
        share = figures.percent(total / memory)
        verdict = f"{'fits' if total <= memory else 'DOES NOT FIT'}: {share} of {gib(memory)}"
    return [
        ("held by a device", gib(total), verdict),
        ("  gradient step, compiled", gib(held["gradient_step"]), "heap with its gaps"),
        ("  optimizer state", gib(held["optimizer"]), ""),
        ("  gradients of other slots", gib(held["other_gradients"]), ""),
    ]


def _traffic(found: list[Document], planned: Document, examined: Document) -> list[tuple[str, ...]]:
    """Collectives of one kind over groups of one size; the mesh axes of the size are named."""
    data, model = examined["mesh"]
    expected: dict[tuple[str, int | None], int] = defaultdict(int)
    expected["all-gather", data] += planned["gathered_parameters"]
    expected["reduce-scatter", data] += planned["scattered_gradients"]
    expected["all-gather", model] += planned["gathered_activations"]
    expected["reduce-scatter", model] += planned["scattered_activations"]
    made = {(entry["kind"], entry["group"]): entry for entry in found}
    keys = sorted({*made, *(key for key, size in expected.items() if size)}, key=_kind_and_size)
    return [
        (
            kind,
            _group(group, {"data": data, "model": model}),
            str(made[kind, group]["calls"]) if (kind, group) in made else "0",
            figures.amount(made[kind, group]["bytes"] if (kind, group) in made else 0, "B"),
            figures.amount(expected.get((kind, group), 0), "B"),
        )
        for kind, group in keys
    ]


def _kind_and_size(key: tuple[str, int | None]) -> tuple[str, int]:
    return key[0], key[1] or 0


def _group(size: int | None, axes: dict[str, int]) -> str:
    if size is None:
        return "pairs"
    names = [name for name, ways in axes.items() if ways == size]
    return f"{size} ({' or '.join(names)})" if names else str(size)


def _flops(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{value:.3e}"


def _apart(value: float | None, reference: float | None) -> str:
    """How far a value is from the one it should be: +6%."""
    return f"{100 * (value / reference - 1):+.1f}%" if value is not None and reference else ""
