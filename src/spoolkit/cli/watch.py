"""``watch``: what runs now, again and again."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import click

from spoolkit.admin import as_json as json_forms
from spoolkit.admin import lookup
from spoolkit.admin import stats as statistics
from spoolkit.admin.stats import Statistics
from spoolkit.cli.format import HEADERS, console, duration, say, summary, table
from spoolkit.cli.group import command, say_json
from spoolkit.job import State, Status
from spoolkit.system import clock

if TYPE_CHECKING:
    from rich.console import RenderableType

RECENT = 5

MAX_EXAMINED = 1000
"""Files and records that one look may read: there is one every second."""

MAX_NAMES = 10_000
"""Names of waiting and of dead jobs' files that one look reads."""


@command("watch")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--times", type=click.IntRange(min=1), help="How many looks; without it, until Ctrl-C.")
def watch(interval: float, times: int | None, as_json: bool) -> None:
    """Watch jobs run, with their progress. With --json, one document on one line for each look."""
    looks = itertools.count() if times is None else range(times)
    if as_json or not (out := console()).is_terminal:
        for look in looks:
            time.sleep(interval if look else 0)
            say_json(_as_json(*_look()), indent=None) if as_json else say(*_view(*_look()))
        return
    from rich.console import Group
    from rich.live import Live

    try:
        with Live(console=out, auto_refresh=False, screen=times is None) as live:
            for look in looks:
                time.sleep(interval if look else 0)
                live.update(Group(*_view(*_look())), refresh=True)
    except KeyboardInterrupt:
        pass  # the way to leave


def _look() -> tuple[Statistics, list[Status], list[Status]]:
    files = lookup.list_files(MAX_NAMES)
    running = lookup.jobs(states=(State.RUNNING,), max_examined=MAX_EXAMINED, files=files)
    ended = (State.DONE, State.DEAD, State.CANCELLED, State.LOST)
    over = lookup.jobs(states=ended, limit=RECENT, max_examined=MAX_EXAMINED, files=files)
    return statistics.gather(max_examined=MAX_EXAMINED, files=files), running, over


def _as_json(figures: Statistics, running: list[Status], over: list[Status]) -> dict[str, Any]:
    listed = {"running": running, "recent": over}
    return {"time": clock.now(), "stats": figures.to_dict()} | {
        name: [json_forms.brief(status) for status in found] for name, found in listed.items()
    }


def _view(figures: Statistics, running: list[Status], over: list[Status]) -> list[RenderableType]:
    totals = {state: sum(n for (_, of), n in figures.counts.items() if of is state) for state in State}
    counts = "  ".join(f"{state} {n}" for state, n in totals.items() if n) or "no jobs"
    if not figures.complete:
        counts += f"  (or more: a look reads {MAX_NAMES} names and {MAX_EXAMINED} jobs; flask spool stats counts all)"
    if figures.oldest_due is not None:
        counts += f"  (the oldest due job waits for {duration(figures.oldest_due)})"
    return [counts, "", table(HEADERS, map(summary, running + over))]
