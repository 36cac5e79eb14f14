"""Shows on stderr how a job gets on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from landbridge import figures

Document = dict[str, Any]

_LINES = 10
"""Progress lines over a whole job, where there is no terminal to redraw."""


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Callable[[Document], None]]:
    """A function to call with the job whenever it changed."""
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("waiting", total=None, figures="")

        def show(job: Document) -> None:
            started = job["started_at"] is not None
            progress.update(
                task,
                description=f"{job['name']} {job['state'].lower()}",
                total=job["target_steps"] if started else None,
                completed=job["step"],
                figures=_figures(job) if started else job["reason"]["message"],
            )

        yield show


class _Lines:
    """A line when the state or its reason changes, and for every tenth of the steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: tuple[str, str, int] | None = None

    def show(self, job: Document) -> None:
        tenth = _LINES * job["step"] // job["target_steps"]
        news = (job["state"], job["reason"]["message"], tenth)
        if news == self._told:
            return
        self._told = news
        running = job["started_at"] is not None and job["step"] > 0
        detail = _figures(job) if running else job["reason"]["message"]
        line = f"{job['name']} {job['state'].lower()}: {detail}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _figures(job: Document) -> str:
    return "  ".join(
        (
            f"step {job['step']}/{job['target_steps']}",
            f"loss {figures.fixed(job['loss'])}",
            f"{figures.amount(job['tokens_per_second'])} tokens/s",
            f"MFU {figures.percent(job['mfu'])}",
            f"{figures.duration(job['eta_seconds'])} left",
        )
    )
