"""``periodic``: the tasks that run by themselves, and ``run``, ``pause`` and ``resume`` for each of them."""

from __future__ import annotations

import shlex
from typing import Any

import click
from flask.cli import with_appcontext

from spoolkit.admin.as_json import brief
from spoolkit.admin.words import span
from spoolkit.cli.actions import who
from spoolkit.cli.format import line, print_lines, table
from spoolkit.cli.group import command, print_json
from spoolkit.schedules import control
from spoolkit.schedules.control import Known
from spoolkit.spooling import scheduled

MOVED = " (moved: the clocks skip the time)"


@click.group("periodic", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.pass_context
@with_appcontext
def periodic(context: click.Context, as_json: bool) -> None:
    """List the tasks that run by themselves, with their last and next runs; run, pause or resume one."""
    if context.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    found = control.known()
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    if not found:
        click.echo("no task is periodic", err=True)
    for number, one in enumerate(found):
        if number:
            print_lines("")
        print_lines(line(one.name), table(("", ""), _facts(one), wrap=True))


def _facts(one: Known) -> list[tuple[str, object]]:
    schedule = one.schedule
    facts: list[tuple[str, object]] = []
    if schedule is None:
        facts.append(("  newer", line(one.text)))
    else:
        zone = f", {schedule.tz}" if schedule.cron is not None else ""
        facts += [("  due", f"{one.text}{zone}"), ("  task", schedule.task)]
    if one.paused:
        facts.append(("  paused", f"flask spool periodic resume {shlex.quote(line(one.name))}"))
    if not one.is_declared:
        facts.append(("  removed", "the code does not declare it: it goes when it is due"))
    if not one.is_added:
        facts.append(("  new", "no spooler has added it yet"))
    for status in one.last:
        facts.append(("  last", f"{one.local(status.run_at or 0)}  {_ending(status.state, status.error_message)}"))
    for run in one.next:
        facts.append(("  next", f"{one.local(run.time)}  in {span(run.time)}{MOVED if run.is_moved else ''}"))
    return facts


def _ending(state: object, message: str | None) -> str:
    return f"{state}: {message}" if message else str(state)


def _as_json(one: Known) -> dict[str, Any]:
    known = {} if one.schedule is None else one.schedule.to_json()
    return {
        "name": one.name,
        "task": known.get("task"),
        "cron": known.get("cron"),
        "every": _seconds(known.get("every")),
        "tz": known.get("tz"),
        "text": one.text,
        "missed": known.get("missed"),
        "overlap": known.get("overlap"),
        "max_late": _seconds(known.get("max_late")),
        "declared": one.is_declared,
        "added": one.is_added,
        "paused": one.paused,
        "last": [brief(status) for status in one.last],
        "next": [{"time": run.time, "moved": run.is_moved} for run in one.next],
    }


def _seconds(nanoseconds: Any) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


@command("run")
@click.argument("name")
def run(name: str, as_json: bool) -> None:
    """Enqueue a job of a periodic task now, besides its schedule."""
    job = scheduled.run_now(name, by=who())
    print_json({"id": job.id, "state": "queued"}) if as_json else click.echo(f"{job.id} queued")


@command("pause")
@click.argument("name")
def pause(name: str, as_json: bool) -> None:
    """Let a periodic task not run by itself until `resume`. A running job of it goes on."""
    control.pause(name)
    print_json({"name": name, "paused": True}) if as_json else click.echo(f"{line(name)} is paused")


@command("resume")
@click.argument("name")
def resume(name: str, as_json: bool) -> None:
    """Let a paused task run by itself again, from its next due time on."""
    was_paused = control.resume(name)
    if as_json:
        print_json({"name": name, "paused": False})
    else:
        click.echo(f"{line(name)} runs again" if was_paused else f"{line(name)} was not paused")


for subcommand in (run, pause, resume):
    periodic.add_command(subcommand)
