"""``flask spool``: the commands. They ask :mod:`spoolkit.lookup`, :mod:`~spoolkit.admin`, :mod:`~spoolkit.stats` and
:mod:`~spoolkit.doctor`, and show what those say.
"""

from __future__ import annotations

from spoolkit.cli import acting, halting, looking, serving, watching
from spoolkit.cli.group import SpoolGroup

__all__ = ["commands"]

commands = SpoolGroup("spool", help="Run and look after background jobs.")
for command in (
    *(looking.ls, looking.show, looking.stats, watching.watch),
    *(acting.retry, acting.cancel, acting.run_now, acting.purge),
    *(halting.pause, halting.resume, halting.drain),
    *(serving.run, serving.doctor, halting.ini),
):
    commands.add_command(command)
