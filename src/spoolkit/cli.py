"""``flask spool``: the commands."""

from __future__ import annotations

import os
import sys

import click
from flask import current_app
from flask.cli import AppGroup

from spoolkit import settings
from spoolkit.engines.spooler import supervise

commands = AppGroup("spool", help="Run and look after background jobs.")


@commands.command("run")
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many jobs run at once."
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when standard input closes.")
def run(processes: int, until_eof: bool) -> None:
    """Run the jobs of the spool directory, where uWSGI does not.

    Ctrl-C or SIGTERM lets running jobs finish and starts no other; given twice, it ends at once and the jobs run again.
    """
    directory = settings.current().spool
    if not os.path.isdir(directory):
        raise click.ClickException(f"the spool directory {directory} is not there: set SPOOLKIT_SPOOL, or make it")
    click.echo(f"spoolkit: running the jobs of {directory} for {current_app.name}, pid {os.getpid()}", err=True)
    sys.exit(supervise(directory, processes, until_eof=sys.stdin.fileno() if until_eof else None))
