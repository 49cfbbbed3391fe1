"""``ls``, ``show``, ``stats``: read-only commands that print jobs and figures."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from spoolkit.admin import batches, dead_groups, lookup, redaction, timeline
from spoolkit.admin import stats as statistics
from spoolkit.admin.as_json import brief, detailed
from spoolkit.admin.lookup import Details
from spoolkit.admin.stack import Frame, Stack, stack
from spoolkit.admin.words import ago, bar, duration, stamp
from spoolkit.cli import group
from spoolkit.cli.format import HEADERS, TASK, line, print_lines, summary, table
from spoolkit.cli.group import command, print_json
from spoolkit.errors import counted
from spoolkit.job import State, Status
from spoolkit.registry import CALL_OPTIONS
from spoolkit.system import clock

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_LIMIT = 50

MAX_LIMIT = 100_000
"""Jobs that one list shows at most, and the files and records that ``--limit 0`` reads."""


@command("ls")
@click.option(
    "--state", "states", type=group.states, metavar="STATES", help="Only jobs in these states, such as queued,retrying."
)
@click.option("--task", help="Only jobs of this task.")
@click.option("--tag", help="Only jobs with this tag.")
@click.option(
    "--since", type=group.moment, metavar="TIME", help="Only jobs enqueued since then: 2h, 7d, or a date and time."
)
@click.option(
    "--limit",
    type=click.IntRange(0, MAX_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many jobs at most; 0 for all.",
)
def ls(
    states: frozenset[State] | None, task: str | None, tag: str | None, since: float | None, limit: int, as_json: bool
) -> None:
    """List jobs, newest first."""
    max_examined = max(lookup.MAX_EXAMINED, limit) if limit else MAX_LIMIT
    found = lookup.jobs(
        states=states or (),
        task=task,
        tag=tag,
        since=since,
        limit=limit + 1 if limit else None,
        max_examined=max_examined,
    )
    shown = redaction.listed(found[:limit] if limit else found)
    if as_json:
        print_json([brief(status) for status in shown])
    elif shown:
        print_lines(table(HEADERS, map(summary, shown)))
    else:
        click.echo("no jobs" if found.complete else "no such jobs among those that were examined", err=True)
    if not found.complete:
        _print_incomplete(max_examined)
    elif len(found) > len(shown):
        click.echo(f"… and older jobs: use --limit {2 * limit}, or --limit 0 for all", err=True)


def _print_incomplete(examined: int) -> None:
    """Print that the list stopped before it had found all jobs."""
    click.echo(f"… the list is incomplete: only {examined} jobs were examined; try --since 1h", err=True)


@command("dead")
def dead(as_json: bool) -> None:
    """List the dead jobs in groups: of one task, with one error, at one line of the application's own code."""
    found = dead_groups.find()
    if as_json:
        print_json({"groups": [group.to_dict() for group in found.groups], "total": found.total})
    elif found.groups:
        rows = [
            [
                len(group.jobs),
                group.task or "?",
                group.error,
                group.frame.where if group.frame else "",
                ago(group.newest.finished_at),
                ago(group.first.finished_at),
                group.newest.id,
            ]
            for group in found.groups
        ]
        print_lines(table(("JOBS", TASK, "ERROR", "WHERE", "NEWEST", "FIRST", "NEWEST JOB"), rows))
    else:
        click.echo("no job is dead", err=True)
    if not found.complete:
        click.echo(f"… only the newest {dead_groups.MAX_EXAMINED} of {found.total} dead jobs are grouped", err=True)


@command("show")
@click.argument("id")
@click.option("--stack", "wants_stack", is_flag=True, help="Show only where the running job is now.")
def show(id: str, wants_stack: bool, as_json: bool) -> None:
    """Show everything that is known of a job, but no secret values.

    That is its arguments, timeline, tracebacks and logs. ID may be the beginning of an id, if no other job's id begins
    so.
    """
    id = lookup.full_id(id)
    if wants_stack:
        _show_stack(stack(id), as_json=as_json)
        return
    if as_json:
        print_json(detailed(lookup.details(id)))
        return
    found = lookup.details(id)
    call, found = redaction.as_code(found), redaction.details(found)
    print_lines(table(("", ""), _facts(found, call), wrap=True))
    print_lines("", _timeline(found))
    for attempt in found.attempts:
        for title, text in (("traceback", attempt.traceback), ("log", attempt.log)):
            if text:
                print_lines("", f"attempt {attempt.number}, {title}:")
                print_lines(*(f"  {line(text_line)}" for text_line in text.splitlines()))


def _show_stack(found: Stack, *, as_json: bool) -> None:
    if as_json:
        print_json(found.to_dict())
        return
    print_lines(f"job {found.job}, attempt {found.attempt}, pid {found.pid}, {stamp(found.time)}", "")
    print_lines(*map(_frame, found.frames))
    for frames in found.others:
        print_lines("", "another thread:", *map(_frame, frames))


def _frame(frame: Frame) -> str:
    return f"{'>' if frame.own else ' '} {line(frame.file)}:{frame.line} in {line(frame.function)}"


@command("batch")
@click.argument("id")
def batch(id: str, as_json: bool) -> None:
    """Show a batch: how many of its members are in which state, and its callback."""
    found = batches.details(id)
    if as_json:
        print_json(found.to_dict())
        return
    status = found.status
    states = ", ".join(f"{status.members[state]} {state}" for state in State if state in status.members)
    is_complete = status.completed_at is not None
    facts = [
        ("batch", status.id),
        ("name", status.name),
        ("state", f"complete, {stamp(status.completed_at)}" if is_complete else "open: some members have not ended"),
        ("members", f"{sum(status.members.values())}" + (f": {states}" if states else "")),
        ("made", stamp(status.created_at)),
        ("completed", f"{status.generation} times" if status.generation > 1 else None),
        ("on death", "cancel the others" if status.on_death == "cancel" else None),
        ("callback", f"{status.callback} {found.callback_state or ''}".rstrip() if status.callback else None),
        ("dead", "\n".join(found.dead)),
    ]
    print_lines(table(("", ""), [(name, value) for name, value in facts if value], wrap=True))


def _facts(found: Details, call: str | None) -> list[tuple[str, object]]:
    status = found.status
    facts = [
        ("job", status.id),
        ("task", status.task or "?"),
        ("schedule", found.schedule),
        ("batch", status.batch),
        ("state", status.state),
        ("engine", status.engine),
        ("queue", status.queue),
        ("arguments", "not kept" if call is None else call),
        ("tags", ", ".join(status.tags or ())),
        ("headers", ", ".join(f"{name}={value}" for name, value in (status.headers or {}).items())),
        ("attempts", f"{status.attempt} of {status.max_attempts}" if status.max_attempts else status.attempt),
        ("due", stamp(status.run_at)),
        ("waits for", _what_it_waits_for(status)),
        ("expires", stamp(status.expires_at)),
        (
            "options",
            ", ".join(f"{name}={value:g}" for name in CALL_OPTIONS if (value := getattr(status, name)) is not None),
        ),
        ("progress", bar(status.progress) if status.progress else None),
        ("result", None if status.result is None else status.result.decode()),
        ("error", ": ".join(filter(None, (status.error_type, status.error_message)))),
        ("no result", status.result_error),
    ]
    return [(name, value) for name, value in facts if value not in (None, "")]


def _what_it_waits_for(status: Status) -> str | None:
    if status.paused:
        return f"flask spool resume --task {shlex.quote(line(status.task))}: its task is paused"
    if status.parked_for is not None:
        return f"room under the limit of {status.parked_for}"
    if status.slot_at is not None and status.slot_at > clock.now():
        return f"its slot under the rate of its task, {stamp(status.slot_at)}"
    return None


def _timeline(found: Details) -> Table:
    rows = [(stamp(one.time), f"{one.text} {one.job or ''}".rstrip()) for one in timeline.entries(found)]
    return table(("", ""), wrap=True, rows=rows)


@command("stats")
def stats(as_json: bool) -> None:
    """Count jobs by task and state, and by queue where there are several.

    Also shows how long the oldest due job has been waiting, and the run times of the last hour.
    """
    figures = statistics.gather()
    if as_json:
        print_json(figures.to_dict())
        return
    states = [state for state in State if any(counted is state for _, counted in figures.counts)]
    tasks = sorted({task for task, _ in figures.counts})
    if tasks:
        rows = [[task, *(figures.counts.get((task, state), 0) for state in states)] for task in tasks]
        print_lines(table(("TASK", *(str(state).upper() for state in states)), rows), "")
    if len(figures.queues) > 1:
        head = "QUEUE", "JOBS", "RUNNING", "SPOOLERS", "STATE"
        lines = [[one.queue, one.jobs, one.running, one.spoolers, one.state] for one in figures.queues]
        print_lines(table(head, lines), "")
    oldest = (
        "no job is due"
        if figures.oldest_due is None
        else f"the oldest due job has been waiting for {duration(figures.oldest_due)}"
    )
    took = ", ".join(f"{share} % within {duration(seconds)}" for share, seconds in figures.percentiles.items())
    print_lines(*(f"{spool_dir} is {state}: no job starts" for spool_dir, state in figures.paused.items()))
    print_lines(*(f"{task} is paused: {_waiting(count)}" for task, count in figures.paused_tasks.items()))
    print_lines(*(f"{spool_dir}: no new spooler starts: {reason}" for spool_dir, reason in figures.broken.items()))
    print_lines(*(f"{_waiting(count)} for room under the limit of {key}" for key, count in figures.parked.items()))
    if not figures.complete:
        read = statistics.MAX_EXAMINED
        click.echo(f"only {read} of the waiting jobs were read; the others are counted as the task ?", err=True)
    print_lines(oldest, f"done in the last hour: {figures.done}" + (f" ({took})" if took else ""))


def _waiting(count: int) -> str:
    return counted(count, "job waits", "jobs wait")
