"""The commands of ``flask spool``: click around :mod:`spoolkit.admin` and :mod:`spoolkit.doctor`."""

from __future__ import annotations

from spoolkit.cli import actions, deploying, leaving, listing, monitoring, periodic, running, watch
from spoolkit.cli.group import SpoolGroup

__all__ = ["commands"]

commands = SpoolGroup("spool", help="Run, inspect and manage background jobs.")
for command in (
    *(listing.ls, listing.dead, listing.show, listing.batch, listing.stats, watch.watch),
    *(actions.retry, actions.cancel, actions.run_now, actions.purge),
    *(deploying.pause, deploying.resume, deploying.drain),
    periodic.periodic,
    *(monitoring.metrics, monitoring.check),
    *(running.run, running.doctor, deploying.ini),
    *(leaving.unit, leaving.moveout),
):
    commands.add_command(command)
