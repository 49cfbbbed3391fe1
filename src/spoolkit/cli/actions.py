"""``retry``, ``cancel``, ``run-now``, ``purge``: commands that change jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import click

from spoolkit.admin import actions, bulk, lookup
from spoolkit.cli import group
from spoolkit.cli.group import command, print_json
from spoolkit.errors import SpoolkitError, StoreUnavailableError, counted
from spoolkit.job import FINISHED, State
from spoolkit.store import database
from spoolkit.system import clock, files, log


@command("retry")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", "all_dead", is_flag=True, help="All dead jobs.")
@click.option("--task", help="With --dead: only jobs of this task.")
@click.option("--tag", help="With --dead: only jobs with this tag.")
def retry(ids: tuple[str, ...], all_dead: bool, task: str | None, tag: str | None, as_json: bool) -> None:
    """Run dead jobs again, with a new count of attempts."""
    if bool(ids) == all_dead:
        raise click.UsageError("give the ids of dead jobs, or --dead for all of them")
    if task is not None and not all_dead:
        raise click.UsageError("--task needs --dead")
    if tag is not None and not all_dead:
        raise click.UsageError("--tag needs --dead")

    def retry_one(id: str) -> State:
        actions.retry(id, by=who())
        return State.QUEUED

    if not all_dead:
        _each(ids, retry_one, as_json)
        return
    dead = actions.dead_jobs(task, tag)
    _each([status.id for status in reversed(dead)], retry_one, as_json, done="retried", more=not dead.complete)


@command("cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--tag", help="All jobs with this tag that are not finished.")
@click.option("--force", is_flag=True, help="Kill the process of a running job.")
def cancel(ids: tuple[str, ...], tag: str | None, force: bool, as_json: bool) -> None:
    """Cancel jobs.

    A waiting job is cancelled for good. A running job is asked to stop, and continues until the task checks for that;
    with --force its process is killed, and the job does not run again.
    """
    if bool(ids) == (tag is not None):
        raise click.UsageError("give the ids of jobs, or --tag for all jobs with a tag")
    cancel_one = partial(actions.cancel, force=force, by=who())
    if tag is None:
        _each(ids, cancel_one, as_json)
        return
    found = lookup.jobs(states=lookup.UNFINISHED, tag=tag, max_examined=actions.MAX_EXAMINED)
    _each([status.id for status in reversed(found)], cancel_one, as_json, done="cancelled", more=not found.complete)


@command("run-now")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def run_now(ids: tuple[str, ...], as_json: bool) -> None:
    """Run waiting jobs now, before they are due."""
    _each(ids, partial(actions.run_now, by=who()), as_json)


@command("purge")
@click.option(
    "--state",
    "states",
    type=group.states,
    metavar="STATES",
    default="done,cancelled,lost",
    show_default=True,
    help="Only jobs in these states. Dead jobs are deleted with their files.",
)
@click.option(
    "--older-than", type=group.seconds, default="0", metavar="SPAN", help="Only jobs that finished longer ago: 2h, 7d."
)
@click.option("--tag", help="Only jobs with this tag.")
@click.option("--yes", is_flag=True, help="Confirm that dead jobs are deleted too: they can never run again.")
def purge(states: frozenset[State], older_than: float, tag: str | None, yes: bool, as_json: bool) -> None:
    """Delete finished jobs."""
    if open_states := states - FINISHED:
        raise click.BadParameter(f"{', '.join(sorted(open_states))} jobs are not finished", param_hint="--state")
    if State.DEAD in states and not yes:
        raise click.UsageError("dead jobs are deleted with their files and can never run again: add --yes")
    before = clock.now() - older_than
    deleted = actions.purge(states, before) if tag is None else _purge_tagged(states, tag, before)
    print_json({"purged": deleted}) if as_json else click.echo(f"{counted(deleted, 'job')} deleted")


def _purge_tagged(states: frozenset[State], tag: str, before: float) -> int:
    found = lookup.jobs(states=states, tag=tag, max_examined=actions.MAX_EXAMINED)
    found[:] = [status for status in found if (status.finished_at or 0.0) < before]
    result = bulk.purge(found)
    for error in result.refused.values():
        click.echo(f"Error: {log.one_line(str(error))}", err=True)
    if not result.complete:
        click.echo("there are more jobs: run the command again", err=True)
    return result.done


def who() -> str:
    """The user of the machine, as the history of a job names who did something to it."""
    return f"{files.user_name(os.getuid())} (command line)"


def _each(
    ids: Iterable[str], act: Callable[[str], State], as_json: bool, *, done: str | None = None, more: bool = False
) -> None:
    """Call ``act`` for each job, also after one has failed. Exits with 1 if one of them failed.

    Args:
        ids: The ids of the jobs, or their beginnings.
        act: What to do; it returns the state of the job afterwards.
        as_json: Whether to print JSON.
        done: The word for what was done; with it, a last line counts the jobs.
        more: Whether there are jobs that ``ids`` leaves out.
    """
    results: list[dict[str, Any]] = []
    left = list(ids)
    with database.waiting_once():
        while left:
            id = left.pop(0)
            try:
                id = lookup.full_id(id)
                state = act(id)
            except SpoolkitError as error:
                results.append({"id": id, "error": error.to_dict()})
                if not as_json:
                    click.echo(f"Error: {log.one_line(str(error))}", err=True)
                if done is not None and isinstance(error, StoreUnavailableError):
                    more = True
                    break
            else:
                results.append({"id": id, "state": str(state)})
                if not as_json:
                    asked = " (asked to stop)" if state is State.RUNNING else ""
                    click.echo(f"{id} {state}{asked}")
    failed = sum("error" in result for result in results)
    if as_json:
        print_json(results)
    elif done is not None:
        others = [f"{number} {word}" for number, word in ((failed, "failed"), (len(left), "not tried")) if number]
        click.echo(", ".join([f"{counted(len(results) - failed, 'job')} {done}", *others]))
    if more:
        click.echo(f"there are more {'dead ' if done == 'retried' else ''}jobs: run the command again", err=True)
    if failed:
        raise click.exceptions.Exit(1)
