"""How is a batch accepted? At once, or at the commit of a transaction.

At once: the files of the members are written, the batch is recorded, the files are moved to where they run (see
``spooldir/batches.py``). At a commit: the whole batch is one file, and accepted by one rename, as a job is. Then the
process of the commit does the same as above, or a spooler does, which gets that file like any other. The file stays
until the batch is recorded, and no member runs before it is gone: so it can be done again after a kill.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from spoolkit.coordination import batches as coordination
from spoolkit.coordination import successors
from spoolkit.encoding import batch as codec
from spoolkit.encoding import packet
from spoolkit.errors import (
    JobTimeout,
    NewerStoreError,
    SpoolkitError,
    SpoolUnavailableError,
    StoreUnavailableError,
    unavailable,
)
from spoolkit.job import BatchStatus, JobSpec, replaced
from spoolkit.settings import Settings
from spoolkit.spooldir import batches, held, priorities, spoolfile
from spoolkit.store import Store, locations
from spoolkit.system import log


class Member(NamedTuple):
    """A job of a batch."""

    #: The job.
    job: JobSpec
    #: Its spool file.
    data: bytes
    #: The spool directory in which it runs.
    spool_dir: str
    #: The priority in whose folder it belongs; ``None``: in none.
    priority: int | None


def by_directory(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The members by their spool directories."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.spool_dir, []).append(member)
    return found


def accept(batch: BatchStatus, members: Sequence[Member], callback: bytes | None, config: Settings) -> None:
    """Write the members of a batch into their spool directories, and record it: all of them, or none.

    Args:
        batch: The batch.
        members: Its members.
        callback: The spool file of its callback, whatever id that has; ``None``: it has none.
        config: The settings in force.

    Raises:
        SpoolUnavailableError: A spool directory is full, read-only or missing. As with each error, nothing is accepted.
        StoreUnavailableError: The batch cannot be recorded.
    """
    store = locations.store(config)
    _record(batch, members, callback, store, config)
    if config.fsync:
        try:
            # Before a member has its place: a power cut must not leave it without its batch and the callback.
            store.sync()
        except OSError as error:
            log.complain("the record of the batch %s may not be on the disk", batch.id, error=error)
    _publish(batch, members, store, config)


def accept_held(path: str, *, folder: str, spool_dir: str, config: Settings) -> bool:
    """Accept the batch in a held file: its transaction is committed. After a kill at any point it can be called again.

    Args:
        path: The file.
        folder: Where uWSGI looks for jobs: the spool directory, or a folder of a priority in it.
        spool_dir: The spool directory.
        config: The settings in force.

    Returns:
        That it is accepted.

    Raises:
        OSError: The file is gone, another process accepts it, or it cannot be moved.
        NewerJobError: The file has a field that this version must not ignore.
        DecodeError: It is no batch.
    """
    with spoolfile.claim(path) as fd:
        if fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        content = codec.unpack(packet.load(spoolfile.read(fd)))
        held.accept(path, folder, spool_dir, None, fsync=config.fsync)
        # From here on it is accepted. The lock stays, so that a spooler leaves the file alone while this process lives.
        try:
            _expand(os.path.join(folder, os.path.basename(path)), content, config)
        except JobTimeout:
            raise
        except (SpoolkitError, OSError) as error:
            _complain(content.batch, error)
    return True


def expand(path: str, content: packet.Packet, config: Settings) -> None:
    """Enqueue the members of an accepted batch, and remove its file. After a kill at any point it can be called again.

    The caller has locked the file. It is not opened here. If a spool directory or the store takes nothing, it is left
    for another try.

    Args:
        path: The file.
        content: What it holds.
        config: The settings in force.

    Raises:
        NewerJobError: The file has a field that this version must not ignore.
        DecodeError: It is no batch.
        NewerStoreError: A newer version of spoolkit has written the store.
        OSError: What is written cannot be brought to the disk.
    """
    whole = codec.unpack(content)
    try:
        _expand(path, whole, config)
    except NewerStoreError:
        raise
    except SpoolkitError as error:
        _complain(whole.batch, error)


def _complain(batch: BatchStatus, error: Exception) -> None:
    # The error itself would say that nothing was accepted.
    reason = error.__cause__ if isinstance(error, SpoolUnavailableError) else error
    text = "the batch %s is accepted, but its members cannot be enqueued yet: a spooler tries again: %s"
    log.complain(text, batch.id, reason)


def _expand(path: str, content: codec.Content, config: Settings) -> None:
    batch, members, store = content.batch, [], locations.store(config)
    for job, data in content.members:
        spool_dir = successors.spool_dir_of(job, config)
        members.append(Member(job, data, spool_dir, priorities.scanned(job.priority, spool_dir)))
    if store.batch(batch.id) is None:
        for spool_dir in by_directory(members):
            batches.remove(spool_dir, batch.id)  # what a process has written that was killed before the record
        _record(batch, members, content.callback, store, config)
    if config.fsync:
        store.sync()
    # Before a member can run: once all have ended, the record may be deleted, and this file would be a new batch.
    spoolfile.finish(path)
    _publish(batch, members, store, config)


def _record(
    batch: BatchStatus, members: Sequence[Member], callback: bytes | None, store: Store, config: Settings
) -> None:
    found, spool_dir = by_directory(members), ""
    folders = [batches.folder_of(spool_dir, batch.id) for spool_dir in found]

    def still_there() -> bool:
        return all(map(os.path.isdir, folders))

    def remove() -> None:
        for spool_dir in found:
            batches.remove(spool_dir, batch.id)

    try:
        # Before any file is written: a batch that waits for a missing directory is tried again and again.
        for spool_dir in found:
            os.stat(spool_dir)
        for spool_dir, of_directory in found.items():
            placed = ((replaced(member.job, priority=member.priority), member.data) for member in of_directory)
            batches.stage(spool_dir, batch.id, placed, fsync=config.fsync)
        jobs = [member.job for member in members]
        is_accepted = store.accept_batch(batch, jobs, callback, still_there=still_there)
    except OSError as error:
        remove()
        raise unavailable(spool_dir, error) from error
    except StoreUnavailableError:
        remove()
        raise
    except BaseException:
        # By a time limit, for example, which may strike once the batch is accepted.
        with contextlib.suppress(StoreUnavailableError):
            store.forget_unless_accepted(batch.id, remove)
        raise
    if not is_accepted:
        remove()
        raise unavailable(spool_dir, OSError(errno.ENOENT, "the files of the batch were removed meanwhile"))


def _publish(batch: BatchStatus, members: Sequence[Member], store: Store, config: Settings) -> None:
    for spool_dir in by_directory(members):
        try:
            batches.publish(spool_dir, batch.id, fsync=config.fsync)
        except OSError as error:
            # It is accepted: a sweep moves the files.
            text = "the files of the batch %s in %s are moved later: %s"
            log.complain(text, batch.id, spool_dir, error)
    if not members:
        coordination.member_ended(batch.id, None, store, config)
