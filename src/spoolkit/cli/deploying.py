"""``pause``, ``resume``, ``drain``, ``ini``: for those who deploy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click
from flask import current_app

from spoolkit import application
from spoolkit.cli import entry_point
from spoolkit.cli.group import command, say_json, seconds
from spoolkit.spooldir import gate, spoolfile
from spoolkit.spooldir import spoolers as presence
from spoolkit.store import locations
from spoolkit.system import files, process
from spoolkit.uwsgi import recommended


def _changed(change: Callable[[str], object], directories: list[str]) -> None:
    for directory in directories:
        try:
            change(directory)
        except OSError as error:
            raise click.ClickException(f"{directory} cannot be changed: {error.strerror or error}") from error


def _directories(queue: str | None) -> list[str]:
    """The spool directories that are meant: the one of that path or that name, else all that are known."""
    known = locations.directories()
    if queue is None:
        return known
    for directory in known:
        if queue in (directory, os.path.basename(directory)):
            return [directory]
    if os.path.isabs(queue):
        directory = os.path.realpath(queue)
        files.check_readable(directory)
        if spoolfile.is_spool_directory(directory):
            return [directory]
    raise click.BadParameter(f"{queue!r} is no spool directory: give one of {', '.join(known)}, or one that is served")


def _say(directories: list[str], as_json: bool) -> None:
    states = {directory: gate.state(directory) or "open" for directory in directories}
    if as_json:
        say_json(states)
        return
    for directory, state in states.items():
        click.echo(f"{directory} is {state}")


@command("pause")
@click.argument("queue", required=False)
def pause(queue: str | None, as_json: bool) -> None:
    """Start no job until resume, across restarts. Those that run go on, others can be enqueued.

    QUEUE is a spool directory, its path or its last part; without it, all of them.
    """
    directories = _directories(queue)
    _changed(gate.pause, directories)
    _say(directories, as_json)


@command("resume")
@click.argument("queue", required=False)
def resume(queue: str | None, as_json: bool) -> None:
    """Let jobs start again that were paused or drained."""
    directories = _directories(queue)
    _changed(gate.resume, directories)
    for directory in directories:
        presence.wake_all(directory)
    _say(directories, as_json)


@command("drain")
@click.argument("queue", required=False)
@click.option("--wait", is_flag=True, help="Until no job runs. Exit code 1 if the time is over before.")
@click.option("--timeout", type=seconds, metavar="SPAN", help="How long to wait: 90, 15m.  [default: SPOOLKIT_GRACE]")
def drain(queue: str | None, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Start no job until the next start of uWSGI, or resume. For scripts that deploy."""
    directories = _directories(queue)
    _changed(gate.drain, directories)
    limit = application.settings().grace if timeout is None else timeout
    left = process.wait_until_gone(lambda: presence.busy(directories), time.monotonic() + limit) if wait else []
    _say(directories, as_json)
    if left:
        click.echo(f"jobs still run after {limit:g} s, in the processes {', '.join(map(str, left))}", err=True)
        raise click.exceptions.Exit(1)


@command("ini", sees=False)
@click.option("--processes", type=click.IntRange(1, 512), help="Processes for HTTP.  [default: $PROCESSES, else 2]")
@click.option("--threads", type=click.IntRange(1, 512), help="Threads in each of them.  [default: $THREADS, else 4]")
@click.option("--spoolers", type=click.IntRange(1, 512), help="Jobs that run at once.  [default: $SPOOLERS, else 2]")
@click.option("--module", help="The application, as uWSGI takes it.  [default: this one]")
@click.option("--socket", help="Where HTTP is served.  [default: $HOST:$PORT, else 127.0.0.1:5000]")
def ini(
    processes: int | None,
    threads: int | None,
    spoolers: int | None,
    module: str | None,
    socket: str | None,
    as_json: bool,
) -> None:
    """Print a complete uwsgi.ini, with which no stop and no reload kills a running job.

    What is given as an option stands in it; the rest is read from the environment in which uWSGI starts. Keep it in
    the folder in which this command runs: its paths are relative to it.
    """
    spool = _in_ini(locations.directory())
    is_configured = bool(current_app.config.get("SPOOLKIT_SPOOL"))
    made_by = entry_point.of_option(module) if module else entry_point.of_command()
    text = recommended.ini(
        module=made_by,
        pythonpath=_in_ini(folder) if (folder := entry_point.folder(made_by)) else "%d",
        processes=processes,
        threads=threads,
        spoolers=spoolers,
        # What the configuration says comes before the environment.
        spool=spool if is_configured else None,
        spool_default=recommended.MY_SPOOLS if os.environ.get("SPOOLKIT_SPOOL") else spool,
        socket=socket,
    )
    if as_json:
        say_json({"ini": text})
    else:
        click.echo(text, nl=False)


def _in_ini(path: str) -> str:
    """The path as an ini file in the current folder names it: without that folder, so that it can be moved."""
    inside = os.path.relpath(path, os.path.realpath(os.curdir))
    return f"%d{_escaped(inside)}" if inside.split(os.sep)[0] != os.pardir else _escaped(path)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
