"""How do the members of a batch get their files all at once, or none of them, wherever a kill comes in between?

First the file of each member is written where no spooler looks, in ``batches/<id>/``. Then the store records the batch
with its members: that is the moment in which it is accepted. Then the files are moved to where they run, each by one
rename, by the process that made the batch or by a sweep. A folder whose batch is not recorded is a batch that was never
accepted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from spoolkit.job import JobSpec
from spoolkit.spooldir import later, spoolers, spoolfile
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.system import clock, files

FOLDER = "batches"

_REFUSED = ".refused"
"""The name of a folder ends so whose batch can not be accepted any more, while it is being removed."""


def folder_of(spool_dir: str, batch: str) -> str:
    """Return the folder of a batch."""
    return os.path.join(spool_dir, FOLDER, batch)


def stage(spool_dir: str, batch: str, members: Iterable[tuple[JobSpec, bytes]], *, fsync: bool = False) -> None:
    """Write the files of the members into the folder of their batch. Not one of them is accepted by that.

    Args:
        spool_dir: The spool directory in which they will run.
        batch: The id of the batch.
        members: The jobs and their spool files.
        fsync: Whether the files must be on the disk when this function returns.

    Raises:
        OSError: They could not be written; :func:`remove` removes those that were.
    """
    folder = folder_of(spool_dir, batch)
    files.make_folder(os.path.dirname(folder))
    files.make_folder(folder)
    owner, folders = files.owner(folder), {folder}
    for job, data in members:
        target = folder if job.priority is None else os.path.join(folder, str(job.priority))
        if target not in folders:
            files.make_folder(target)
            folders.add(target)
        path = f"{target}/{PREFIX}{job.id}"
        spoolfile.write_unnamed(path, data, run_at=job.run_at, fsync=fsync, owned_by=owner)
    if fsync:
        for one in (*folders, os.path.dirname(folder), spool_dir):
            files.fsync_folder(one)


def publish(spool_dir: str, batch: str, *, fsync: bool = False) -> None:
    """Move the files of an accepted batch to where they run, and wake the spoolers.

    Several processes may do it at the same time: each file is there once, and one of them moves it.

    Raises:
        OSError: The spool directory is full, for example: what is not moved yet is left for another try.
    """
    folder, moved = folder_of(spool_dir, batch), False
    for source, target in _folders(folder, spool_dir):
        if target != spool_dir:
            files.make_folder(target)
        for name in sorted(os.listdir(source)):
            path = os.path.join(source, name)
            if name.startswith(PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    due = os.lstat(path).st_mtime
                    later.place(path, target, spool_dir, due if due > clock.now() else None)
                    moved = True
        if fsync and moved:
            files.fsync_folder(target)
        if source != folder:
            _remove_empty(source)
    _remove_empty(folder)
    if moved:
        spoolers.wake_all(spool_dir)


def _folders(folder: str, spool_dir: str) -> Iterator[tuple[str, str]]:
    """The folder of a batch and those of priorities in it, each with the folder to which its files are moved."""
    with contextlib.suppress(FileNotFoundError):
        for path in spoolfile.priority_folders(folder):
            yield path, os.path.join(spool_dir, os.path.basename(path))
        yield folder, spool_dir


def _remove_empty(folder: str) -> None:
    with contextlib.suppress(OSError):  # another process was faster, or there is a file that is not ours
        os.rmdir(folder)


def staged(spool_dir: str) -> list[str]:
    """Return the ids of the batches that have a folder. Raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(os.path.join(spool_dir, FOLDER)) if spoolfile.is_id(name)]
    return []


def staged_jobs(spool_dir: str) -> set[str]:
    """Return the ids of the jobs whose files lie in the folder of a batch. Raises ``OSError``."""
    found = set[str]()
    for batch in staged(spool_dir):
        for source, _ in _folders(folder_of(spool_dir, batch), spool_dir):
            with contextlib.suppress(FileNotFoundError):  # it was published meanwhile
                found.update(filter(None, map(spoolfile.id_of, os.listdir(source))))
    return found


def is_stray(spool_dir: str, batch: str) -> bool:
    """Return whether the folder of a batch is so old that the process which made it must be gone."""
    with contextlib.suppress(OSError):
        return os.lstat(folder_of(spool_dir, batch)).st_mtime < clock.now() - files.STRAY_AGE
    return False


def refuse(spool_dir: str, batch: str) -> None:
    """Rename the folder of a batch, so that the batch cannot be accepted any more. Raises ``OSError``."""
    folder = folder_of(spool_dir, batch)
    os.rename(folder, f"{folder}{_REFUSED}")


def remove(spool_dir: str, batch: str) -> None:
    """Remove the folder of a batch that is not accepted, with the files in it. Never raises ``OSError``."""
    for folder in (folder_of(spool_dir, batch), f"{folder_of(spool_dir, batch)}{_REFUSED}"):
        with contextlib.suppress(OSError):
            for source, _ in [*_folders(folder, spool_dir)]:
                for name in os.listdir(source):
                    files.remove(os.path.join(source, name))
                _remove_empty(source)


def sweep(spool_dir: str) -> None:
    """Remove what is left of batches that were refused. Never raises ``OSError``."""
    with contextlib.suppress(OSError):
        for name in os.listdir(os.path.join(spool_dir, FOLDER)):
            if name.endswith(_REFUSED):
                remove(spool_dir, name.removesuffix(_REFUSED))
