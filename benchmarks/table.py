"""One benchmark's result: rows with ratios, the versions they were measured with, and how to show
them.

A performance claim is a ratio of medians from one run; absolute figures are beside it for the
reader.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

_PACKAGES = ("landbridge", "jax", "jaxlib", "grpcio", "ray", "torch")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` is subject over reference; `target` is what it should be, as text."""

    case: str
    ratio: float | None
    target: str
    runs: int
    is_met: bool | None
    figures: Mapping[str, float | str]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    name: str
    title: str
    rows: Sequence[Row]
    notes: str = ""

    def document(self) -> dict[str, Any]:
        rows = [
            {
                "case": row.case,
                **row.figures,
                "ratio": row.ratio,
                "target": row.target,
                "met": row.is_met,
                "runs": row.runs,
            }
            for row in self.rows
        ]
        return {"name": self.name, "versions": versions(), "rows": rows}


def versions() -> dict[str, str]:
    """Of everything that decides a figure; what is not installed is left out."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(result: Result, console: Console) -> None:
    """A table for people."""
    table = RichTable(title=result.title, title_justify="left", caption=result.notes or None)
    names = list(dict.fromkeys(name for row in result.rows for name in row.figures))
    for column in ("case", *names, "ratio", "target", "runs"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in result.rows:
        figures = [_shown(row.figures.get(name, "")) for name in names]
        mark = {True: " ok", False: " missed", None: ""}[row.is_met]
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        table.add_row(row.case, *figures, ratio, f"{row.target}{mark}", str(row.runs))
    console.print(table)
    console.print(", ".join(f"{name} {version}" for name, version in versions().items()))


def print_json(result: Result) -> None:
    print(json.dumps(result.document()), flush=True)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}"
