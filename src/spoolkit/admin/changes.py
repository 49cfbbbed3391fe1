"""Has anything changed since a page was made? Its version tells, in a few milliseconds, without reading a job.

The version is the same in each process: pages are answered by one process after the other. SQLite's own
``PRAGMA data_version`` means something within one connection only.
"""

from __future__ import annotations

import hashlib

from spoolkit.spooldir import changes
from spoolkit.store import locations
from spoolkit.system import clock, files

SETTLED = 0.1
"""Seconds after a change within which another one may have the same time: clocks of file systems have ticks."""

MAX_AGE = 15.0
"""Seconds after which a page is out of date anyway: times such as "5 min ago", and processes that were killed."""


def version() -> str:
    """Return the version of what there is to see: another one after each change.

    Raises:
        SpoolUnavailableError: A spool directory cannot be read.
        StoreUnavailableError: The store cannot be read.
    """
    now, shown = clock.now(), list[bytes]()
    # The file itself changes when SQLite moves into it what is in the log beside it.
    store = locations.store().path
    marks = [changes.mark(store), changes.mark(f"{store}-wal")]
    for spool_dir in locations.spool_dirs():
        try:
            marks += changes.marks(spool_dir)
        except OSError as error:
            raise files.unavailable(spool_dir, error) from error
        shown += changes.shown(spool_dir)
    newest = max(mark.changed for mark in marks)
    # What changed a moment ago may change again without showing it: such a version is never the same as the next one.
    unsettled = now if now - newest / 1e9 < SETTLED else 0
    text = repr((int(now / MAX_AGE), unsettled, marks, shown))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
