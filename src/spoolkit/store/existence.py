"""Does a job exist, in whatever state? To be asked before a job is written whose id follows from something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from spoolkit.spooldir import chunks, dead, spoolfile
from spoolkit.store import queries
from spoolkit.store.database import Database


def exists(store: Database, spool_dirs: Iterable[str], id: str) -> bool:
    """Return whether a job has this id: whether it waits, runs, is dead, or is over and recorded.

    If there is none, it reads the names of all jobs that wait: a tenth of a second for 100,000 of them. It opens no
    spool file, so that a spooler may call it while it runs a job.

    Args:
        store: Where jobs are recorded.
        spool_dirs: The spool directories in which its file may be.
        id: The id.

    Raises:
        StoreUnavailableError: The store cannot be read, and there is no file.
        OSError: A spool directory cannot be read.
    """
    spool_dirs = list(spool_dirs)
    # In this order: the end of a job is recorded before its file is removed. The files once more: between two looks, a
    # job that has no record yet may have been moved from one folder to another.
    return _has_file(spool_dirs, id) or queries.status(store, id) is not None or _has_file(spool_dirs, id)


def _has_file(spool_dirs: Iterable[str], id: str) -> bool:
    for spool_dir in spool_dirs:
        with contextlib.suppress(FileNotFoundError):  # no job was enqueued yet
            if chunks.find(spool_dir, id) or spoolfile.locate(spool_dir, id) or dead.locate(spool_dir, id):
                return True
    return False
