"""``run`` and ``doctor``: that jobs run at all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click
from flask import current_app

from spoolkit import application, settings
from spoolkit.cli.group import command, say_json, seconds
from spoolkit.doctor.examine import examine
from spoolkit.doctor.findings import Finding
from spoolkit.doctor.spoolers import stranded
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import GUARDED, supervise
from spoolkit.store import locations
from spoolkit.system import files, log, published
from spoolkit.uwsgi import instance

INI = "uwsgi.ini"


@command("run", sees=False)
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many jobs run at once."
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when standard input closes.")
def run(processes: int, until_eof: bool, as_json: bool) -> None:
    """Run the jobs of the spool directory, where uWSGI does not.

    Ctrl-C or SIGTERM lets running jobs finish and starts no other; given twice, it ends at once and the jobs run again.
    """
    directory = application.settings().spool
    try:
        files.make_spool_directory(directory)
        files.check_readable(directory)
        if not spoolfile.may_become_one(directory):
            raise click.ClickException(f"{directory} is no spool directory, it holds other files: set SPOOLKIT_SPOOL")
    except OSError as error:
        raise files.unavailable(directory, error) from error
    if as_json:
        say_json({"spool": directory, "application": current_app.name, "pid": os.getpid(), "processes": processes})
    else:
        click.echo(f"spoolkit: running the jobs of {directory} for {current_app.name}, pid {os.getpid()}", err=True)
    status = supervise(directory, processes, until_eof=sys.stdin.fileno() if until_eof else None)
    # At its end Python gives signals their default effect: one that comes then would decide the exit status.
    signal.pthread_sigmask(signal.SIG_BLOCK, GUARDED)
    sys.exit(status)


@command("doctor", sees=False)
@click.option("--ini", type=click.Path(), help="The file that uWSGI is started with, if it does not run.")
@click.option(
    "--max-due-age",
    type=seconds,
    default="60s",
    show_default=True,
    metavar="SPAN",
    help="How long a job may be due and wait.",
)
def doctor(ini: str | None, max_due_age: float, as_json: bool) -> None:
    """Name what keeps jobs from running, or will, each with its remedy. Exit code 1 where there is something."""
    findings = []
    for directory in locations.directories():
        told_by = ini or _ini(directory)
        findings += examine(directory, store=locations.store().path, ini=told_by, max_due_age=max_due_age)
    findings += stranded(_elsewhere(), locations.directories())
    report(findings, locations.directories(), as_json=as_json)


def report(findings: Sequence[Finding], directories: Sequence[str], *, as_json: bool) -> None:
    """Print what was found, and exit with 1 where that is anything."""
    if as_json:
        say_json([asdict(finding) for finding in findings])
    elif not findings:
        click.echo(f"all is well with {', '.join(directories)}")
    else:
        for finding in findings:
            problem, remedy = log.one_line(finding.problem), log.block(finding.remedy)
            click.echo(f"{finding.severity} [{finding.check}] {problem}\n    {remedy}")
    if findings:
        raise click.exceptions.Exit(1)


def _elsewhere() -> list[str]:
    """Where a call lands that knows nothing of this application's configuration, or knew another one."""
    folder = application.folder(current_app._get_current_object())  # type: ignore[attr-defined]
    found = [os.path.join(path, settings.SPOOL_FOLDER) for path in (folder, current_app.root_path)]
    given = os.environ.get("SPOOLKIT_SPOOL")
    return [*found, *filter(None, (published.find(folder), given and os.path.join(folder, given)))]


def _ini(directory: str) -> str | None:
    """The application's own ini file, where no uWSGI runs that could be asked."""
    path = os.path.join(current_app.root_path, INI)
    return path if instance.read(directory) is None and os.path.isfile(path) else None
