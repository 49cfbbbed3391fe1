"""What keeps jobs from running, or will? All checks of one spool directory, each problem with its remedy."""

from __future__ import annotations

import contextlib
import os
from importlib import metadata

from flask import Flask

from spoolkit import application, settings
from spoolkit.doctor import directory, machine, options, schedules, spoolers, store
from spoolkit.doctor.findings import Check, Entry, Finding, Site
from spoolkit.errors import SpoolUnavailableError
from spoolkit.spooldir import spoolers as living
from spoolkit.store import locations
from spoolkit.system import clock, files, published
from spoolkit.uwsgi import inifile, instance
from spoolkit.uwsgi.instance import Instance

INI = "uwsgi.ini"
"""The name of the ini file beside an application."""

CHECKS: tuple[Check, ...] = (
    options.CHECKS + spoolers.CHECKS + directory.CHECKS + machine.CHECKS + store.CHECKS + schedules.CHECKS
)

CHECKS_WITHOUT_DIRECTORY: tuple[Check, ...] = options.CHECKS + store.CHECKS
"""Those that can be made where the spool directory cannot be read."""


def examine(
    spool_dir: str,
    *,
    store: str,
    ini: str | None = None,
    max_due_age: float = 60.0,
    queue: str | None = None,
    only_own: bool = False,
) -> list[Finding]:
    """Examine the spool directory, the uWSGI that serves it, the store and the machine.

    It opens and closes spool files, which releases a lock that uWSGI has on them in this process. So do not call it in
    a spooler, and in an HTTP process with ``only_own``: ``uwsgi.spool`` may just write a file in another thread.

    Args:
        spool_dir: The path of the spool directory.
        store: The path of the store.
        ini: The path of the ini file that uWSGI is started with; ``None``: examine the options of the running uWSGI.
        max_due_age: How long a job may be due and still wait, in seconds.
        queue: The name of the queue whose directory it is; ``None``: unknown.
        only_own: Leave spool files of other libraries closed. Whether they are damaged or late is not found then.

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
    site = Site(spool_dir, store, max_due_age, clock.now(), living.pids(spool_dir), entries, uwsgi, queue, only_own)
    for check in CHECKS if is_readable else CHECKS_WITHOUT_DIRECTORY:
        try:
            findings += check(site)
        except Exception as error:
            # A check that fails must not keep the others from being made.
            name = check.__name__.strip("_").replace("_", "-")
            problem = f"this could not be examined: {error}"
            findings.append(Finding(name, problem, "run the command as the user of uWSGI", "warning"))
    return findings


def examine_application(
    app: Flask, *, ini: str | None = None, max_due_age: float = 60.0, only_own: bool = False
) -> list[Finding]:
    """Examine all spool directories of an application, and look for jobs in others that it may have written to.

    Args:
        app: The application, in whose context this is called.
        ini: The path of the ini file that uWSGI is started with. ``None``: the options of the running uWSGI; while
            none runs, the file beside the application, if there is one.
        max_due_age: As for :func:`examine`.
        only_own: As for :func:`examine`.

    Returns:
        The problems found.
    """
    spool_dirs, config, findings = locations.spool_dirs(), application.settings(), list[Finding]()
    for spool_dir in spool_dirs:
        findings += examine(
            spool_dir,
            store=locations.store().path,
            ini=ini or _ini_beside(app, spool_dir),
            max_due_age=max_due_age,
            queue=locations.queue_name(spool_dir, config),
            only_own=only_own,
        )
    lines = _spooler_lines(ini or _ini_beside(app, locations.spool_dir()))
    for queue in config.queues:
        findings += spoolers.too_few(queue, locations.queue_dir(queue.name, config), lines)
    return findings + spoolers.stranded(_other_spool_dirs(app), spool_dirs)


def _ini_beside(app: Flask, spool_dir: str) -> str | None:
    path = os.path.join(application.folder(app), INI)
    return path if instance.read(spool_dir) is None and os.path.isfile(path) else None


def _other_spool_dirs(app: Flask) -> list[str]:
    """The directories that a call without this application's configuration, or with an earlier one, writes to."""
    folder = application.folder(app)
    found = [os.path.join(path, settings.SPOOL_FOLDER) for path in (folder, app.root_path)]
    given = os.environ.get("SPOOLKIT_SPOOL")
    return [*found, *filter(None, (published.find(folder), given and os.path.join(folder, given)))]


def _spooler_lines(ini: str | None) -> list[str]:
    """The real paths of the directories that an ini file has a spooler for; none if it cannot be read."""
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
