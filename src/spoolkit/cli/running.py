"""``run`` and ``doctor``: commands that run jobs, or find out why none run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click
from flask import Flask, current_app

from spoolkit import application
from spoolkit.cli.group import command, print_json, seconds
from spoolkit.doctor.examine import examine_application
from spoolkit.doctor.findings import Finding
from spoolkit.settings import MAX_PROCESSES, Settings
from spoolkit.spooldir import spoolfile
from spoolkit.spooling import returns
from spoolkit.spooling.standalone import GUARDED
from spoolkit.spooling.supervisor import supervise
from spoolkit.store import locations
from spoolkit.system import files, log
from spoolkit.system.service_manager import ServiceManager

F = TypeVar("F", bound=Callable[..., Any])


@command("run", needs_spool_dir=False)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    help="How many jobs run at the same time, in each queue.  [default: SPOOLKIT_QUEUES, else 1]",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="QUEUE",
    help="Only the jobs of this queue: a name in SPOOLKIT_QUEUES, default, or a path of a spool directory. Repeatable.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when standard input is closed.")
def run(processes: int | None, queues: tuple[str, ...], until_eof: bool, as_json: bool) -> None:
    """Run the jobs of all queues without uWSGI.

    Each queue has as many processes as SPOOLKIT_QUEUES says. Ctrl-C or SIGTERM stops them after the running jobs have
    finished. A second one interrupts the running jobs, which run again later.
    """
    config = application.settings()
    served = _served(config, processes, queues)
    for spool_dir in served:
        _prepare(spool_dir, config)
    locations.store().check_version()
    locations.store().close()  # each process that is forked from here opens it for itself
    if as_json:
        first, number = next(iter(served.items()))
        about = {"spool": first, "application": current_app.name, "pid": os.getpid(), "processes": number}
        print_json({**about, "queues": served})
    else:
        paths = ", ".join(served)
        click.echo(f"spoolkit: running the jobs of {paths} for {current_app.name}, pid {os.getpid()}", err=True)
    # The runner beside flask run, which has --until-eof, is not the service.
    manager = None if until_eof else ServiceManager.take()
    beside = [returns.run] if returns.are_expected(current_app, config) else []
    until = sys.stdin.fileno() if until_eof else None
    status = supervise(served, until_eof=until, beside=beside, manager=manager)
    # At exit Python restores the default handlers: a signal that comes then would decide the exit status.
    signal.pthread_sigmask(signal.SIG_BLOCK, GUARDED)
    sys.exit(status)


def _served(config: Settings, processes: int | None, queues: Sequence[str]) -> dict[str, int]:
    """How many processes each spool directory gets."""
    known = {name: (path, 1) for name, path in locations.queue_dirs(config).items()}
    known.update({one.name: (known[one.name][0], one.processes) for one in config.queues})
    found = {}
    for queue in queues or known:
        if queue not in known and not os.path.isabs(queue):
            raise click.BadParameter(
                f"{queue!r} is no queue: give one of {', '.join(known)}, or the path of a spool directory",
                param_hint="--queue",
            )
        path, number = known.get(queue, (os.path.realpath(queue), 1))
        found[path] = processes or number
    return found


def _prepare(spool_dir: str, config: Settings) -> None:
    try:
        if spool_dir in locations.queue_dirs(config).values() and spool_dir != config.spool:
            files.make_queue_directory(spool_dir, config.spool)
        else:
            files.make_spool_directory(spool_dir)
        files.check_readable(spool_dir)
        if not spoolfile.may_become_spool_directory(spool_dir):
            raise click.ClickException(
                f"{spool_dir} is not a spool directory: it holds other files. Set SPOOLKIT_SPOOL, or path in "
                "SPOOLKIT_QUEUES"
            )
    except OSError as error:
        raise files.unavailable(spool_dir, error) from error


def doctor_options(function: F) -> F:
    """Add the options that both ``flask spool doctor`` and ``python -m spoolkit doctor`` have."""
    ini = click.option("--ini", type=click.Path(), help="Examine this ini file instead of the running uWSGI.")
    age = click.option(
        "--max-due-age",
        type=seconds,
        default="60s",
        show_default=True,
        metavar="SPAN",
        help="How long a job may wait after it is due.",
    )
    return ini(age(function))


@command("doctor", needs_spool_dir=False)
@doctor_options
def doctor(ini: str | None, max_due_age: float, as_json: bool) -> None:
    """Report what keeps jobs from running.

    Each problem comes with its remedy. Exits with 1 if there is a problem.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    findings = examine_application(app, ini=ini, max_due_age=max_due_age)
    report(findings, locations.spool_dirs(), as_json=as_json)


def report(findings: Sequence[Finding], spool_dirs: Sequence[str], *, as_json: bool) -> None:
    """Print the findings, and exit with 1 where there are any."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif not findings:
        click.echo(f"no problems found in {', '.join(spool_dirs)}")
    else:
        for finding in findings:
            problem, remedy = log.one_line(finding.problem), log.block(finding.remedy)
            click.echo(f"{finding.severity} [{finding.check}] {problem}\n    {remedy}")
    if findings:
        raise click.exceptions.Exit(1)
