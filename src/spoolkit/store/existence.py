"""Does a job exist, in whatever state? To be asked before a job is written whose id follows from something else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from spoolkit.spooldir import batches, chunks, dead, spoolfile
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


def without_file(spool_dirs: Iterable[str], ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return which of these jobs have no file at all, and of which the file is among the dead.

    It opens no spool file, and reads the names of all jobs only if some are not where they are expected.

    Raises:
        OSError: A spool directory cannot be read.
    """
    spool_dirs, dead_ids = list(spool_dirs), set[str]()
    missing = {id for id in ids if not any(_find(spool_dir, id) for spool_dir in spool_dirs)}
    if not missing:
        return set(), set()
    # First: the files of a batch are moved from there into the folders that are read next.
    for spool_dir in spool_dirs:
        missing.difference_update(batches.staged_jobs(spool_dir))
    # Twice: a job may be moved out of a folder that is not read yet, into one that was read.
    for _ in range(2):
        for spool_dir in spool_dirs:
            with contextlib.suppress(FileNotFoundError):
                missing.difference_update(
                    spoolfile.id_of(os.path.basename(p)) or "" for p in spoolfile.pending(spool_dir)
                )
    for spool_dir in spool_dirs:
        for id in list(missing):
            if chunks.find(spool_dir, id):
                missing.discard(id)
            elif dead.locate(spool_dir, id):
                missing.discard(id)
                dead_ids.add(id)
    return missing, dead_ids


def _find(spool_dir: str, id: str) -> bool:
    """Whether the job has its file where almost all have it: under its first name."""
    return any(spoolfile.find(folder, id, None) for folder in (spool_dir, os.path.join(spool_dir, spoolfile.LATER)))


def _has_file(spool_dirs: Iterable[str], id: str) -> bool:
    for spool_dir in spool_dirs:
        with contextlib.suppress(FileNotFoundError):  # no job was enqueued yet
            if chunks.find(spool_dir, id) or spoolfile.locate(spool_dir, id) or dead.locate(spool_dir, id):
                return True
    return False
