"""``pause``, ``resume``, ``drain``, ``ini``: commands for deployments."""

from __future__ import annotations

import os
import time

import click
from flask import current_app

from spoolkit import application, registry
from spoolkit.admin import pausing
from spoolkit.cli import entry_point
from spoolkit.cli.group import command, print_json, seconds
from spoolkit.errors import UnknownQueueError
from spoolkit.spooldir import gate, spoolers, spoolfile
from spoolkit.store import locations
from spoolkit.system import files, process
from spoolkit.uwsgi import recommended
from spoolkit.uwsgi.recommended import escaped


def _spool_dirs(queue: str | None) -> list[str]:
    """The spool directory of the queue with this name or path; without ``queue``, all known spool directories."""
    if queue is None:
        return locations.spool_dirs()
    try:
        return [pausing.directory_of(queue)]
    except UnknownQueueError as error:
        if os.path.isabs(queue):
            spool_dir = os.path.realpath(queue)
            files.check_readable(spool_dir)
            if spoolfile.is_spool_directory(spool_dir):
                return [spool_dir]
        raise click.BadParameter(str(error)) from error


def _print_states(spool_dirs: list[str], as_json: bool) -> None:
    states = {spool_dir: gate.state(spool_dir) or "open" for spool_dir in spool_dirs}
    if as_json:
        print_json(states)
        return
    for spool_dir, state in states.items():
        click.echo(f"{spool_dir} is {state}")


def _print_task(task: str, state: str, queue: str | None, as_json: bool) -> None:
    print_json({task: state}) if as_json else click.echo(f"{task} is {state}" + (f" in {queue}" if queue else ""))


@command("pause")
@click.argument("queue", required=False)
@click.option("--task", help="Only jobs of this task.")
def pause(queue: str | None, task: str | None, as_json: bool) -> None:
    """Stop starting jobs until resume.

    The pause outlasts a restart. Running jobs continue, and new jobs can be enqueued. QUEUE is a name in
    SPOOLKIT_QUEUES, default, or the path of a spool directory; without it, all queues are paused.
    """
    spool_dirs = _spool_dirs(queue)
    if task is not None:
        _print_task(pausing.pause(task, spool_dirs), "paused", queue, as_json)
        return
    pausing.pause_queues(spool_dirs)
    _print_states(spool_dirs, as_json)


@command("resume")
@click.argument("queue", required=False)
@click.option("--task", help="Only jobs of this task, which was paused with --task.")
def resume(queue: str | None, task: str | None, as_json: bool) -> None:
    """Start jobs again after pause or drain."""
    spool_dirs = _spool_dirs(queue)
    if task is not None:
        _print_task(pausing.resume(task, spool_dirs), "open", queue, as_json)
        return
    pausing.resume_queues(spool_dirs)
    _print_states(spool_dirs, as_json)


@command("drain")
@click.argument("queue", required=False)
@click.option("--wait", is_flag=True, help="Wait until no job runs. Exit with 1 if jobs still run at the timeout.")
@click.option(
    "--timeout", type=seconds, metavar="SPAN", help="How long to wait at most: 90, 15m.  [default: SPOOLKIT_GRACE]"
)
def drain(queue: str | None, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Stop starting jobs until uWSGI starts again.

    For deployment scripts. Resume ends it too.
    """
    spool_dirs = _spool_dirs(queue)
    pausing.drain_queues(spool_dirs)
    limit = application.settings().grace if timeout is None else timeout
    left = process.wait_until_gone(lambda: spoolers.busy(spool_dirs), time.monotonic() + limit) if wait else []
    _print_states(spool_dirs, as_json)
    if left:
        click.echo(f"jobs still run after {limit:g} s, in the spoolers with pid {', '.join(map(str, left))}", err=True)
        raise click.exceptions.Exit(1)


@command("ini", needs_spool_dir=False)
@click.option("--processes", type=click.IntRange(1, 512), help="HTTP processes.  [default: $PROCESSES, else 2]")
@click.option(
    "--threads", type=click.IntRange(1, 512), help="Threads of each HTTP process.  [default: $THREADS, else 4]"
)
@click.option(
    "--spoolers", type=click.IntRange(1, 512), help="Jobs that run at the same time.  [default: $SPOOLERS, else 2]"
)
@click.option("--module", help="The application, as in uWSGI's option module.  [default: this one]")
@click.option("--socket", help="The address of the HTTP server.  [default: $HOST:$PORT, else 127.0.0.1:5000]")
def ini(
    processes: int | None,
    threads: int | None,
    spoolers: int | None,
    module: str | None,
    socket: str | None,
    as_json: bool,
) -> None:
    """Print a complete uwsgi.ini.

    With it neither a stop nor a reload kills running jobs. The options below become fixed values in the file; uWSGI
    reads the others from its environment when it starts. Save the file in the current folder: its paths are relative
    to that folder.
    """
    spool = _in_ini(locations.spool_dir())
    config = application.settings()
    queues = [(_in_ini(locations.queue_dir(queue.name, config)), queue.processes) for queue in config.queues]
    is_configured = bool(current_app.config.get("SPOOLKIT_SPOOL"))
    made_by = entry_point.of_option(module) if module else entry_point.of_command()
    text = recommended.ini(
        module=made_by,
        pythonpath=_in_ini(folder) if (folder := entry_point.folder(made_by)) else "%d",
        processes=processes,
        threads=threads,
        spoolers=spoolers or (_spoolers_now() if queues else None),
        queues=queues,
        priorities=bool(registry.this_process.priorities),
        folder=os.path.realpath(os.curdir),
        # The application's configuration takes precedence over the environment.
        spool=spool if is_configured or queues else None,
        spool_default=recommended.MY_SPOOLS if os.environ.get("SPOOLKIT_SPOOL") else spool,
        socket=socket,
    )
    if as_json:
        print_json({"ini": text})
    else:
        click.echo(text, nl=False)


def _spoolers_now() -> int:
    """The number of spoolers for an ini with queues, in which there is a line for each."""
    text = os.environ.get("SPOOLERS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else recommended.SPOOLERS


def _in_ini(path: str) -> str:
    """The path for an ini file in the current folder: relative to that folder, so that the folder can be moved."""
    inside = os.path.relpath(path, os.path.realpath(os.curdir))
    return f"%d{escaped(inside)}" if inside.split(os.sep)[0] != os.pardir else escaped(path)
