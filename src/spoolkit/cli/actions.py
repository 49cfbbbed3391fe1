"""``retry``, ``cancel``, ``run-now``, ``purge``: what people do to jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from spoolkit.admin import actions, lookup
from spoolkit.cli import group
from spoolkit.cli.group import command, say_json
from spoolkit.errors import SpoolkitError
from spoolkit.job import FINISHED, State
from spoolkit.system import clock, log


@command("retry")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", "all_dead", is_flag=True, help="All dead jobs.")
@click.option("--task", help="With --dead: only jobs of this task.")
def retry(ids: tuple[str, ...], all_dead: bool, task: str | None, as_json: bool) -> None:
    """Run dead jobs again, with a fresh count of attempts."""
    if bool(ids) == all_dead:
        raise click.UsageError("give the ids of dead jobs, or --dead for all of them")
    if task is not None and not all_dead:
        raise click.UsageError("--task goes with --dead")

    def retried(id: str) -> State:
        actions.retry(id)
        return State.QUEUED

    if not all_dead:
        _each(ids, retried, as_json)
        return
    dead = actions.dead_jobs(task)
    _each([status.id for status in dead], retried, as_json, count="retried", more=not dead.complete)


@command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--force", is_flag=True, help="Kill the process of a job that runs.")
def cancel(ids: tuple[str, ...], force: bool, as_json: bool) -> None:
    """See that jobs do not run, or not on.

    A waiting job is cancelled for good. A running one is asked to stop, and goes on until it looks; with --force its
    process is killed, and the job is not run again.
    """
    _each(ids, lambda id: actions.cancel(id, force=force), as_json)


@command("run-now")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def run_now(ids: tuple[str, ...], as_json: bool) -> None:
    """Let jobs run that wait for their time."""
    _each(ids, actions.run_now, as_json)


@command("purge")
@click.option(
    "--state",
    "states",
    type=group.states,
    metavar="STATES",
    default="done,cancelled,lost",
    show_default=True,
    help="In which states; dead jobs go with their files.",
)
@click.option(
    "--older-than", type=group.seconds, default="0", metavar="SPAN", help="Only what ended longer ago: 2h, 7d."
)
@click.option("--yes", is_flag=True, help="Purge dead jobs too: they can never be run again.")
def purge(states: frozenset[State], older_than: float, yes: bool, as_json: bool) -> None:
    """Forget jobs that are over."""
    if open_states := states - FINISHED:
        raise click.BadParameter(f"{', '.join(sorted(open_states))} jobs are not over", param_hint="--state")
    if State.DEAD in states and not yes:
        raise click.UsageError("dead jobs are deleted with their files, and can never be run again: add --yes")
    gone = actions.purge(states, clock.now() - older_than)
    say_json({"purged": gone}) if as_json else click.echo(f"{gone} job{'' if gone == 1 else 's'} forgotten")


def _each(
    ids: Iterable[str], act: Callable[[str], State], as_json: bool, *, count: str | None = None, more: bool = False
) -> None:
    """Do it to each job, also if another one fails. Exit code 1 if one of them failed.

    ``count`` is the word for what was done, where the sum is said; ``more`` whether there are further jobs.
    """
    told: list[dict[str, Any]] = []
    for id in ids:
        try:
            id = lookup.full_id(id)
            state = act(id)
        except SpoolkitError as error:
            told.append({"id": id, "error": error.to_dict()})
            if not as_json:
                click.echo(f"Error: {log.one_line(str(error))}", err=True)
        else:
            told.append({"id": id, "state": str(state)})
            if not as_json:
                asked = " (asked to stop)" if state is State.RUNNING else ""
                click.echo(f"{id} {state}{asked}")
    failed = sum("error" in one for one in told)
    if as_json:
        say_json(told)
    elif count is not None:
        done = len(told) - failed
        click.echo(f"{done} job{'' if done == 1 else 's'} {count}" + (f", {failed} failed" if failed else ""))
    if more:
        click.echo("there are more: run the command again", err=True)
    if failed:
        raise click.exceptions.Exit(1)
