"""What keeps jobs from running, or will? All checks of one spool directory, each problem with its remedy."""

from __future__ import annotations

import contextlib
import os
from importlib import metadata

from spoolkit.doctor import directory, machine, options, schedules, spoolers, store
from spoolkit.doctor.findings import Check, Entry, Finding, Site
from spoolkit.errors import SpoolUnavailableError
from spoolkit.spooldir import spoolers as living
from spoolkit.system import clock, files
from spoolkit.uwsgi import inifile, instance
from spoolkit.uwsgi.instance import Instance

CHECKS: tuple[Check, ...] = (
    options.CHECKS + spoolers.CHECKS + directory.CHECKS + machine.CHECKS + store.CHECKS + schedules.CHECKS
)

CHECKS_WITHOUT_DIRECTORY: tuple[Check, ...] = options.CHECKS + store.CHECKS
"""Those that can be made where the spool directory cannot be read."""


def examine(
    spool_dir: str, *, store: str, ini: str | None = None, max_due_age: float = 60.0, queue: str | None = None
) -> list[Finding]:
    """Examine the spool directory, the uWSGI that serves it, the store and the machine.

    It opens spool files, which would release uWSGI's lock on the running job's file. So do not call it in a spooler,
    nor in a process that calls ``uwsgi.spool`` in another thread.

    Args:
        spool_dir: The path of the spool directory.
        store: The path of the store.
        ini: The path of the ini file that uWSGI is started with; ``None``: examine the options of the running uWSGI.
        max_due_age: How long a job may be due and still wait, in seconds.
        queue: The name of the queue whose directory it is; ``None``: unknown.

    Returns:
        The problems found. It never raises for what it examines: what cannot be read is a finding.
    """
    spool_dir = os.path.realpath(spool_dir)
    findings: list[Finding] = []
    entries: list[Entry] = []
    uwsgi = None
    try:
        uwsgi = instance.read(spool_dir) if ini is None else _described(ini)
    except (OSError, ValueError) as error:
        findings.append(Finding("ini", f"{ini} cannot be read: {error}", "give the file that uWSGI is started with"))
    is_readable = os.path.isdir(spool_dir)
    try:
        entries.extend(directory.scan(spool_dir))
        files.check_readable(spool_dir)
    except (OSError, SpoolUnavailableError) as error:
        findings.append(directory.unreadable(spool_dir, error))
        is_readable = False
    site = Site(spool_dir, store, max_due_age, clock.now(), living.pids(spool_dir), entries, uwsgi, queue)
    for check in CHECKS if is_readable else CHECKS_WITHOUT_DIRECTORY:
        try:
            findings += check(site)
        except Exception as error:
            # A check that fails must not keep the others from being made.
            name = check.__name__.strip("_").replace("_", "-")
            problem = f"this could not be examined: {error}"
            findings.append(Finding(name, problem, "run the command as the user of uWSGI", "warning"))
    return findings


def spooler_lines(ini: str | None) -> list[str]:
    """Return the real paths of the directories that an ini file has a spooler for; none if it cannot be read."""
    if ini is None:
        return []
    try:
        return [os.path.realpath(path) for path in _described(ini).of("spooler")]
    except (OSError, ValueError):
        return []  # which is a finding of its own


def _described(ini: str) -> Instance:
    """The uWSGI that the ini file describes."""
    version = ""
    for name in ("uwsgi", "pyuwsgi"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
    return Instance(ini, version, inifile.read(ini))
