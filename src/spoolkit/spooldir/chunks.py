"""How do the jobs of a chunk become files of their own, each exactly once, wherever a kill comes in between?

A chunk is accepted as a job is: one file, ``uwsgi_spoolfile_on_<stem>.chunk``, by one rename. A spooler locks it like
any spool file and expands it. First it writes the file of each job where no spooler looks, in ``chunks/<stem>/``. Then
it renames the chunk to ``<stem>.staged``, and moves the jobs into the spool directory, each by one rename. Of a chunk
of the first name no job has run, and all files are written anew; of a chunk of the second name exactly those jobs are
left that still lie in its folder. So no job is lost and none comes back after it ran.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence

from spoolkit.encoding import chunk as codec
from spoolkit.encoding import packet
from spoolkit.encoding.chunk import Chunk
from spoolkit.errors import DecodeError
from spoolkit.spooldir import later, spoolers, spoolfile
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.system import files
from spoolkit.system.process import PerProcess

FOLDER = "chunks"

_NEW, _STAGED = "chunk", "staged"

_NAME = re.compile(rf"{PREFIX}([0-9a-f]{{29}})\.({_NEW}|{_STAGED})(?:\.\d{{1,9}})*", re.ASCII)
"""An older version, which leaves a chunk to other versions, gives it a number at each try."""

_access = PerProcess(threading.RLock)
"""Held by the thread that has a chunk open, or expands one: to close the file elsewhere in the process would release
the lock on it."""


def write(folder: str, chunks: Iterable[tuple[str, bytes]], *, fsync: bool = False) -> list[str]:
    """Write chunks. All are written before the first is accepted, so that on a full disk none is.

    Args:
        folder: The spool directory, or the folder of a priority in it.
        chunks: The stem and the content of each.
        fsync: Whether they must be on the disk when this function returns.

    Returns:
        Their paths.

    Raises:
        OSError: They could not be written; then there is none.
    """
    names: list[tuple[str, str]] = []
    try:
        for stem, data in chunks:
            temporary = os.path.join(folder, f"{spoolfile.TEMPORARY}{stem}.{_NEW}")
            names.append((temporary, _path(folder, stem, _NEW)))
            spoolfile.write_unnamed(temporary, data, fsync=fsync)
        for temporary, path in names:
            os.rename(temporary, path)
        if fsync:
            files.fsync_folder(folder)
    except BaseException:
        for leftover in itertools.chain(*names):
            files.remove(leftover)
        raise
    return [path for _, path in names]


def expand(path: str, spool_dir: str, content: packet.Packet, *, fsync: bool = False) -> None:
    """Give each job of a chunk a file of its own, and remove the chunk. All spoolers of the directory are woken.

    The caller has locked the file. It is not opened here.

    Args:
        path: The chunk.
        spool_dir: The spool directory, which holds it, perhaps in the folder of a priority.
        content: What the file holds.
        fsync: Whether the files of the jobs must be on the disk before the chunk is removed.

    Raises:
        NewerJobError: Its jobs have a field that this version must not ignore.
        DecodeError: This is no chunk, or a copy of one under another name, or one without the files of its jobs.
        OSError: The chunk is left for another try, which goes on from there.
    """
    chunk, calls = codec.unpack(content)
    named = _NAME.fullmatch(os.path.basename(path))
    if named is None or named[1] != chunk.stem:
        raise DecodeError(f"the file is a copy of the chunk {chunk.stem}, under another name")
    staging = os.path.join(spool_dir, FOLDER, chunk.stem)
    folder = os.path.dirname(path)
    with _access.get():
        if not _is_staged(path):
            _stage(chunk, calls, staging, fsync=fsync)
            staged = _path(folder, chunk.stem, _STAGED)
            os.rename(path, staged)
            path = staged
        elif not os.path.isdir(staging):
            raise DecodeError(f"the file was moved without its jobs, which lie in {FOLDER}/{chunk.stem} elsewhere")
        _move(chunk, staging, folder, spool_dir)
        if fsync:
            files.fsync_folder(folder)
            with contextlib.suppress(FileNotFoundError):
                files.fsync_folder(later.folder_beside(folder, spool_dir))
        if os.listdir(staging):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), staging)
        # First the chunk: one without a folder would be a file that somebody has moved without its jobs.
        spoolfile.finish(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(staging)
    spoolers.wake_all(spool_dir)


def expand_for(spool_dir: str, id: str, *, fsync: bool = False) -> None:
    """Give a job that waits in a chunk a file of its own, and so all others of the chunk.

    Nothing happens if the job has its own file, or another process expands the chunk.

    Args:
        spool_dir: The spool directory.
        id: The id of the job.
        fsync: As for :func:`expand`.

    Raises:
        NewerJobError: Its jobs have a field that this version must not ignore.
        OSError: This user may not change the directory, or it is full.
    """
    if path := find(spool_dir, id):
        expand_unlocked(path, spool_dir, fsync=fsync)


def expand_unlocked(path: str, spool_dir: str, *, fsync: bool = False) -> None:
    """Lock a chunk and expand it; nothing happens if another process has locked it, or it is damaged."""
    with _access.get(), spoolfile.claim(path) as fd:
        if fd is not None:
            with contextlib.suppress(DecodeError):  # a spooler moves it to the dead letters
                expand(path, spool_dir, packet.load(spoolfile.read(fd)), fsync=fsync)


def _stage(chunk: Chunk, calls: Sequence[bytes], staging: str, *, fsync: bool) -> None:
    files.make_folder(os.path.dirname(staging))
    files.make_folder(staging)
    owner = files.owner(staging)
    for index, call in enumerate(calls):
        job = chunk.job(index)
        path = f"{staging}/{PREFIX}{job.id}"
        data = packet.dump_job(job, call)
        try:
            spoolfile.write_unnamed(path, data, run_at=job.run_at, fsync=fsync, owned_by=owner)
        except FileExistsError:  # by a process that was killed
            os.unlink(path)
            spoolfile.write_unnamed(path, data, run_at=job.run_at, fsync=fsync, owned_by=owner)
    if fsync:
        files.fsync_folder(staging)


def _move(chunk: Chunk, staging: str, folder: str, spool_dir: str) -> None:
    for index, id in enumerate(codec.ids(chunk.stem)):
        with contextlib.suppress(FileNotFoundError):  # it was moved before
            later.place(os.path.join(staging, f"{PREFIX}{id}"), folder, spool_dir, chunk.run_at(index))


def put_off(path: str, run_at: float) -> None:
    """Let a chunk, which this process has locked, be expanded at another time (unix seconds). Raises ``OSError``."""
    # Under its name, by which its jobs are found. A spooler that has seen the old time looks at it again.
    os.utime(path, ns=spoolfile.ns_of(run_at))


def sweep(spool_dir: str) -> None:
    """Remove the empty folders of chunks whose spoolers were killed at the end. Never raises ``OSError``."""
    # That of a chunk which another process is about to fill may be among them: it tries again.
    with contextlib.suppress(OSError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                os.rmdir(entry.path)


def find(spool_dir: str, id: str, *, max_entries: int | None = None) -> str | None:
    """Find the chunk that holds a job which has no file of its own yet.

    Args:
        spool_dir: The spool directory.
        id: The id of the job.
        max_entries: ``None``: the folders of all priorities are searched; else those of the common ones.

    Returns:
        The path of the chunk; ``None`` if there is none, or the job has its own file, or is over.

    Raises:
        OSError: This user may not look into the directory.
    """
    stem = codec.stem_of(id) if spoolfile.is_id(id) else None
    if stem is None:
        return None
    for folder in _folders(spool_dir, max_entries):
        # In this order: in between, the first name may become the second one.
        if files.is_regular(path := _path(folder, stem, _NEW)):
            return path
        if files.is_regular(path := _path(folder, stem, _STAGED)):
            return path if files.is_regular(os.path.join(spool_dir, FOLDER, stem, f"{PREFIX}{id}")) else None
    return None


def _folders(spool_dir: str, max_entries: int | None) -> Iterator[str]:
    yield spool_dir
    if max_entries is None:
        with contextlib.suppress(FileNotFoundError):
            yield from spoolfile.priority_folders(spool_dir)
    else:
        yield from spoolfile.likely_folders(spool_dir)


def is_chunk(path: str) -> bool:
    """Return whether the file at ``path`` has the name of a chunk."""
    name = path.rpartition(os.sep)[2]
    return "." in name and _NAME.fullmatch(name) is not None


def ids(path: str) -> list[str]:
    """Return the ids of the jobs that have no file of their own yet; empty where ``path`` is no chunk."""
    found = _NAME.fullmatch(os.path.basename(path))
    if found is None:
        return []
    if not _is_staged(path):
        return codec.ids(found[1])
    folder = os.path.dirname(path)
    for spool_dir in (folder, os.path.dirname(folder)):  # the folder may be that of a priority
        with contextlib.suppress(OSError):
            names = os.listdir(os.path.join(spool_dir, FOLDER, found[1]))
            return [id for name in names if (id := spoolfile.id_of(name))]
    return []


def read(path: str, size: int = spoolfile.MAX_SIZE) -> packet.Packet | None:
    """Read at least the first ``size`` bytes of a chunk without its lock: the content never changes.

    Returns:
        The content; ``None`` if the file is gone or damaged, or is no chunk.

    Raises:
        OSError: This user may not read the file.
    """
    if not is_chunk(path):
        return None
    try:
        with _access.get(), open(files.open_regular(path, linked=True), "rb") as file:
            return packet.load(file.read(size))
    except (FileNotFoundError, DecodeError):
        return None


def _is_staged(path: str) -> bool:
    found = _NAME.fullmatch(os.path.basename(path))
    return found is not None and found[2] == _STAGED


def _path(folder: str, stem: str, kind: str) -> str:
    return os.path.join(folder, f"{PREFIX}{stem}.{kind}")
