"""Which jobs wait for the commit of a transaction? Their files are complete, but they are not accepted yet.

Each process has a folder of its own in ``held/``, whose name says which process that is. At the commit, one rename
moves a file to where a job of its time and its priority waits: from then on it is an accepted job. If the transaction
ends in any other way, the file is deleted. What a process leaves that is killed in between is in
``spooling/leftovers.py``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from spoolkit import signals
from spoolkit.errors import JobTimeout
from spoolkit.job import JobSpec
from spoolkit.spooldir import chunks, later, spoolers, spoolfile
from spoolkit.system import clock, files, log, process
from spoolkit.system.process import PerProcess

FOLDER = "held"

COMMITTED = "committed"
"""The folder in it with files that could not be moved at the commit: the next sweep accepts them."""

OUTBOX = "outbox"
"""The folder in it with files of which only their row in the outbox says whether their transaction was committed."""

IDENTITY = "identity"
"""The file in it by which the rows of an outbox name the spool directory."""

_OF_PROCESS = re.compile(r"(\d{1,10})\.(\w+)\.([\w-]+?)(\.outbox)?", re.ASCII)


def name_of(path: str) -> str:
    """The name by which an outbox knows a held file: the id of its job, or the name of its chunk."""
    return os.path.basename(path).removeprefix(spoolfile.PREFIX)


Accept = Callable[[str], bool]
"""Makes the held file at a path an accepted job, and returns ``False`` if it is dropped instead: a unique task has
another job with its key. If it raises, it can be called again."""


class HeldFiles:
    """The files of one call, which become jobs at the commit.

    Args:
        jobs: The jobs of the call.
        spool_dir: The spool directory.
        paths: The held files.
        accept: What makes each of them a job.
        spool: The :func:`identity` of the spool directory if each file has a row in an outbox; else empty.
    """

    def __init__(
        self, jobs: Sequence[JobSpec], spool_dir: str, paths: Sequence[str], accept: Accept, *, spool: str
    ) -> None:
        self.jobs = jobs
        self.spool = spool
        self.names: Sequence[str] = [name_of(path) for path in paths] if spool else ()
        self._spool_dir = spool_dir
        self._paths = paths
        self._accept = accept
        add(jobs)

    def publish(self) -> None:
        """Accept the jobs: their transaction was committed.

        Raises nothing but a time limit that has struck, or a request to exit.
        """
        struck: BaseException | None = None
        jobs = {job.id: job for job in self.jobs}
        accepted: list[JobSpec] = []
        for path in self._paths:
            in_file = self._in_file(path, jobs)
            try:
                if self._accept(path):
                    accepted += in_file
                else:
                    vars(in_file[0])["duplicate"] = True  # the caller has the handle since the call
            except BaseException as error:  # the transaction is committed: nothing may say that it is not
                if isinstance(error, JobTimeout) or not isinstance(error, Exception):
                    struck = error
                if _set_aside(path, self._spool_dir, COMMITTED):
                    text = "the job %s of a committed transaction cannot be accepted yet, and is tried again: %s"
                    log.error(text, path, error)
                elif struck is None:
                    log.error("the file %s of a job whose transaction was committed is gone: %s", path, error)
        remove(self.jobs)
        signals.accepted(accepted)
        if struck is not None:
            raise struck

    def _in_file(self, path: str, jobs: Mapping[str, JobSpec]) -> Sequence[JobSpec]:
        """The jobs that a file becomes."""
        return [jobs[id] for id in chunks.ids(path) or [name_of(path)]]

    def discard(self) -> None:
        """Delete the files: their transaction was not committed. Never raises ``OSError``."""
        for path in self._paths:
            files.remove(path)
        remove(self.jobs)

    def doubt(self) -> None:
        """Leave it to their rows in the outbox whether they are accepted. Never raises ``OSError``."""
        for path in self._paths:
            _set_aside(path, self._spool_dir, OUTBOX)
        remove(self.jobs)


class HeldBatch(HeldFiles):
    """The one file of a batch: the first of its jobs stands for the batch, and the others are the members."""

    def _in_file(self, path: str, jobs: Mapping[str, JobSpec]) -> Sequence[JobSpec]:
        return self.jobs[1:]


def hold(
    jobs: Sequence[JobSpec],
    spool_dir: str,
    write: Callable[[str], Sequence[str]],
    accept: Accept,
    *,
    with_rows: bool,
    kind: type[HeldFiles] = HeldFiles,
) -> HeldFiles:
    """Write the files of a call that is to wait for a commit.

    Args:
        jobs: The jobs of the call.
        spool_dir: The spool directory.
        write: Writes the files into the folder that it is given, all or none, and returns their paths.
        accept: As for :class:`HeldFiles`.
        with_rows: Whether rows in the outbox are to say that the transaction was committed.
        kind: What the files hold.

    Raises:
        OSError: The files could not be written; there are none.
    """
    spool = identity(spool_dir) if with_rows else ""
    own = own_folder(spool_dir, with_rows=with_rows)
    try:
        paths = write(own)
    except FileNotFoundError:
        place = os.path.dirname(own)
        # The second one for a commit that cannot move the files: on a full disk it could not be made then.
        for folder in (place, os.path.join(place, COMMITTED), own):
            files.make_folder(folder)
        paths = write(own)
    return kind(jobs, spool_dir, paths, accept, spool=spool)


def own_folder(spool_dir: str, *, with_rows: bool) -> str:
    """The folder for what this process holds. It may be missing."""
    pid, identity = process.this()
    start, boot = identity.decode().split()
    return os.path.join(spool_dir, FOLDER, f"{pid}.{start}.{boot}" + (".outbox" if with_rows else ""))


def accept(path: str, folder: str, spool_dir: str, run_at: float | None, *, fsync: bool = False) -> None:
    """Make a held file an accepted job, and wake a spooler.

    Args:
        path: The held file; its mtime is the due time.
        folder: The spool directory, or the folder of the job's priority in it.
        spool_dir: The spool directory.
        run_at: When the job is due, in unix seconds; ``None``: now.
        fsync: Whether that must be on the disk when this function returns.

    Raises:
        OSError: The file is gone, or cannot be moved.
    """
    later.place(path, folder, spool_dir, run_at)
    if fsync:
        for changed in (folder, later.folder_beside(folder, spool_dir)):
            with contextlib.suppress(FileNotFoundError):
                files.fsync_folder(changed)
    if run_at is None or run_at <= clock.now():
        spoolers.wake(spool_dir, spoolfile.id_of(os.path.basename(path)))


def _set_aside(path: str, spool_dir: str, place: str) -> bool:
    """Move a held file to where the sweep finds it although this process lives. Never raises ``OSError``.

    Returns:
        Whether the file is there; otherwise somebody has removed it.
    """
    folder = os.path.join(spool_dir, FOLDER, place)
    try:
        files.make_folder(folder)
        os.rename(path, os.path.join(folder, os.path.basename(path)))
    except FileNotFoundError:
        return False
    except OSError as error:
        log.error("the held job %s cannot be moved to %s, and waits until its process ends: %s", path, folder, error)
    return True


# What a process has left


class Leftovers(NamedTuple):
    """What no process of this machine holds any more."""

    #: Files of processes that are gone, without a row that could tell of a commit.
    abandoned: list[str]
    #: Files whose transaction was committed.
    committed: list[str]
    #: Files of which the outbox tells.
    in_outbox: list[str]


def leftovers(spool_dir: str) -> Leftovers:
    """List the files that wait for nothing any more.

    Raises:
        OSError: The folder cannot be read.
    """
    found = Leftovers([], [], [])
    for folder in _folders(spool_dir):
        name = os.path.basename(folder)
        if name == COMMITTED:
            found.committed.extend(_files(folder))
        elif name == OUTBOX:
            found.in_outbox.extend(_files(folder))
        elif (of := _OF_PROCESS.fullmatch(name)) and not _is_alive(of):
            (found.in_outbox if of[4] else found.abandoned).extend(_files(folder))
    return found


def remove_empty_folders(spool_dir: str) -> None:
    """Remove the empty folders of processes that are gone. Raises ``OSError`` if they cannot be listed."""
    for folder in _folders(spool_dir):
        if (of := _OF_PROCESS.fullmatch(os.path.basename(folder))) and not _is_alive(of):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _is_alive(of: re.Match[str]) -> bool:
    return process.is_alive(int(of[1]), f" {of[2]} {of[3]}\n".encode())


def _folders(spool_dir: str) -> list[str]:
    """The folders in ``held/``, those of processes first: a file that is set aside meanwhile is found all the same.

    The last two may be missing.
    """
    own = os.path.join(spool_dir, FOLDER)
    try:
        with os.scandir(own) as entries:
            found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):  # the doctor names what is in its place
        return []
    # Also where it is not there yet: it may be made, and a file moved into it, before the others are read.
    last = [os.path.join(own, place) for place in (COMMITTED, OUTBOX)]
    return [path for path in found if path not in last] + last


def _files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.path
                for entry in entries
                if entry.name.startswith(spoolfile.PREFIX) and entry.is_file(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def names(spool_dir: str) -> set[str]:
    """The names of all held files. Raises ``OSError``."""
    return {name_of(path) for folder in _folders(spool_dir) for path in _files(folder)}


def identity(spool_dir: str) -> str:
    """The name of the spool directory in an outbox, which several machines may share; it is made when first asked for.

    Raises:
        OSError: It cannot be read or written.
    """
    path = os.path.join(spool_dir, FOLDER, IDENTITY)
    if (known := files.read(path, linked=True)) is None:
        files.make_folder(os.path.dirname(path))
        known = files.write_once(path, os.urandom(16).hex().encode())
    return known.decode("ascii", "replace")


# What this process holds

_here: PerProcess[dict[str, JobSpec]] = PerProcess(dict)
"""The jobs that wait for a commit in this process, by their ids."""


def add(jobs: Iterable[JobSpec]) -> None:
    """Remember that these jobs wait for a commit in this process."""
    _here.get().update((job.id, job) for job in jobs)


def remove(jobs: Iterable[JobSpec]) -> None:
    """Forget these jobs: they are accepted or deleted."""
    here = _here.get()
    for job in jobs:
        here.pop(job.id, None)


def find(id: str) -> JobSpec | None:
    """The job with this id, if it waits for a commit in this process."""
    return (_here.peek() or {}).get(id)
