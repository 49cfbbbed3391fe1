"""Can the store be used, and only by its owner?"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from urllib.parse import quote

from spoolkit.doctor.findings import START_COMMAND, Check, Finding, Site, printable, quoted
from spoolkit.errors import StoreUnavailableError
from spoolkit.store import database, locations

CALLBACK_TIME = 300.0
"""Seconds within which a sweep has enqueued the callback of a batch that is complete."""


def _store(site: Site) -> Iterator[Finding]:
    store, folder = quoted(site.store), os.path.dirname(site.store)
    # All three files: a log that is left behind would be taken for the log of the next store.
    aside = f"for end in -wal -shm ''; do mv {store}$end {store}.old$end; done  # with uWSGI stopped"
    if folder != site.spool_dir and not os.path.isdir(folder):
        problem = f"the directory of the store, {printable(folder)}, does not exist"
        yield Finding("store", problem, f"mkdir -m 700 {quoted(folder)}")
    for path in (site.store, f"{site.store}-wal", f"{site.store}-shm"):
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):
                yield Finding("store", f"{printable(path)} is not a regular file", aside)
                return
            if mode & 0o777 != 0o600:
                problem = f"{printable(path)} has mode {mode & 0o777:04o}; it holds arguments and results of jobs"
                yield Finding("store", problem, f"chmod 600 {quoted(path)}")
    if not os.path.lexists(site.store):
        return
    version, reason = _examine(site.store)
    if version > len(database.MIGRATIONS):
        problem = (
            f"a newer version of spoolkit has written {printable(site.store)} (schema {version}; this one knows "
            f"{len(database.MIGRATIONS)}): jobs are accepted, but none starts"
        )
        yield Finding("store", problem, "pip install --upgrade spoolkit  # the spoolers then start jobs by themselves")
    elif reason is not None:
        yield Finding("store", f"{printable(site.store)} cannot be used, so jobs are not recorded: {reason}", aside)


def _examine(path: str) -> tuple[int, str | None]:
    """The version of the database, and why it cannot be used; ``None`` where it can."""
    try:
        # By SQLite alone: to open and close the file here would drop the locks that SQLite has in this process.
        with contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as db:
            (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        return 0, str(error)
    return version, None if result == "ok" else str(result)


def _batches(site: Site) -> Iterator[Finding]:
    with contextlib.suppress(StoreUnavailableError):  # that is another finding
        if ids := locations.store().overdue_callbacks(site.now - CALLBACK_TIME):
            problem = f"batches that are complete, but whose callback was not enqueued: {len(ids)}, such as {ids[0]}"
            yield Finding("batch", problem, START_COMMAND, "warning")


CHECKS: tuple[Check, ...] = (_store, _batches)
