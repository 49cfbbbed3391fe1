"""``watch``: a live view of running jobs."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import click

from spoolkit.admin import lookup, redaction
from spoolkit.admin import stats as statistics
from spoolkit.admin.as_json import brief
from spoolkit.admin.stats import Statistics
from spoolkit.admin.words import duration
from spoolkit.cli.format import HEADERS, console, print_lines, summary, table
from spoolkit.cli.group import command, print_json
from spoolkit.job import FINISHED, State, Status
from spoolkit.system import clock

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_RECENT = 5
"""Finished jobs that are shown."""

MAX_EXAMINED = 1000
"""Files and records that one refresh reads at most: it happens every second."""

MAX_NAMES = 10_000
"""File names of waiting jobs, and of dead ones, that one refresh reads at most."""


@command("watch")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two refreshes.",
)
@click.option("--times", type=click.IntRange(min=1), help="How many refreshes; without it, until Ctrl-C.")
def watch(interval: float, times: int | None, as_json: bool) -> None:
    """Watch jobs run, with their progress.

    With --json, each refresh prints one document on one line.
    """
    refreshes = itertools.count() if times is None else range(times)
    if as_json or not (out := console()).is_terminal:
        for number in refreshes:
            time.sleep(interval if number else 0)
            print_json(_as_json(*_refresh()), indent=None) if as_json else print_lines(*_view(*_refresh()))
        return
    from rich.console import Group
    from rich.live import Live

    try:
        with Live(console=out, auto_refresh=False, screen=times is None) as live:
            for number in refreshes:
                time.sleep(interval if number else 0)
                live.update(Group(*_view(*_refresh())), refresh=True)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how people leave


def _refresh() -> tuple[Statistics, list[Status], list[Status]]:
    files = lookup.list_files(MAX_NAMES)
    running = lookup.jobs(states=(State.RUNNING,), max_examined=MAX_EXAMINED, files=files)
    finished = lookup.jobs(states=FINISHED, limit=MAX_RECENT, max_examined=MAX_EXAMINED, files=files)
    figures = statistics.gather(max_examined=MAX_EXAMINED, files=files)
    return figures, redaction.listed(running), redaction.listed(finished)


def _as_json(figures: Statistics, running: list[Status], finished: list[Status]) -> dict[str, Any]:
    listed = {"running": running, "recent": finished}
    return {"time": clock.now(), "stats": figures.to_dict()} | {
        name: [brief(status) for status in found] for name, found in listed.items()
    }


def _view(figures: Statistics, running: list[Status], finished: list[Status]) -> list[RenderableType]:
    totals = {state: sum(n for (_, counted), n in figures.counts.items() if counted is state) for state in State}
    counts = "  ".join(f"{state} {n}" for state, n in totals.items() if n) or "no jobs"
    if not figures.complete:
        counts += (
            f"  (or more: watch reads only {MAX_NAMES} files and {MAX_EXAMINED} jobs; flask spool stats counts all)"
        )
    if figures.oldest_due is not None:
        counts += f"  (the oldest due job has been waiting for {duration(figures.oldest_due)})"
    return [counts, "", table(HEADERS, map(summary, running + finished))]
