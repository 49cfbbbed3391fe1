"""Which job holds the key of a unique task? The key's file names it; the job's own file and record tell its state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from spoolkit import application, registry
from spoolkit.admin import lookup
from spoolkit.coordination import unique
from spoolkit.encoding import packet
from spoolkit.errors import (
    DecodeError,
    DuplicateJobError,
    NewerJobError,
    SpoolkitError,
    StoreUnavailableError,
    UnknownJobError,
)
from spoolkit.job import FINAL, FINISHED, State, Status
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import chunks, running, sent, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooldir.unique import Holder
from spoolkit.store import Store, locations
from spoolkit.system import clock, files
from spoolkit.system.process import PerProcess

SWEPT_AT_ONCE = 2000
"""Keys that a spooler examines when it starts."""

OVER = frozenset({State.DONE, State.CANCELLED})
"""The states that a job never leaves."""

INTERVAL = 30.0
"""Seconds between two removals of one process, if the earlier one left few."""


def folder(config: Settings | None = None) -> str:
    """Return the spool directory with the keys: one for all queues."""
    return locations.spool_dir_of(None, config)


def status_of(holder: Holder | None) -> Status | None:
    """Return the state of the job that a key names; ``None`` if there is no such job, or it is done or cancelled.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    if holder is None:
        return None
    with contextlib.suppress(StoreUnavailableError):
        # Of most keys that are used again the job is over, and a tenth of the questions tells so.
        if locations.store().states([holder.job]).get(holder.job) in OVER:
            return None
    try:
        status = lookup.find(holder.job, hint=(holder.spool_dir, holder.file))
    except UnknownJobError:
        return None
    if status.state is State.QUEUED and status.attempt == 0 and _runs_unrecorded(status):
        return replace(status, state=State.RUNNING)
    return status


def has_expired(status: Status) -> bool:
    """Return whether a job waits and never starts: it has expired, and a spooler that looks at it says so."""
    waits = status.state in (State.QUEUED, State.RETRYING)
    return waits and status.expires_at is not None and status.expires_at <= clock.now()


@contextlib.contextmanager
def locked_file(holder: Holder, status: Status, config: Settings) -> Iterator[tuple[int, str, str] | None]:
    """Lock the file of a job that waits. Yields its descriptor, its path and its spool directory.

    ``None``: somebody else has locked it, or it is gone.
    """
    for spool_dir in dict.fromkeys([holder.spool_dir, *lookup.directories(status)]):
        path = None
        with contextlib.suppress(FileNotFoundError):
            chunks.expand_for(spool_dir, status.id, fsync=config.fsync)
            path = lookup.locate(spool_dir, status.id, status, holder.file)
        if path is not None:
            with spoolfile.claim(path) as fd:
                yield None if fd is None else (fd, path, spool_dir)
            return
    yield None


def _never_starts(holder: Holder, status: Status) -> bool:
    """Whether a job has expired and no spooler is at its file: each one that looks at it from now on ends it.

    A worker may start one that is sent: it looks at a clock of its own.
    """
    if not has_expired(status):
        return False
    with locked_file(holder, status, application.settings()) as found:
        return found is not None and not sent.holds(found[1], found[2])


def _runs_unrecorded(status: Status) -> bool:
    """Whether the job runs although the store, which cannot be read, does not say so."""
    try:
        locations.store().status(status.id)
    except StoreUnavailableError:
        return running.is_running(locations.spool_dir_of(status.queue), status.id)
    return False


def retake(id: str, path: str, spool_dir: str, requeue: Callable[[], None]) -> None:
    """Requeue a dead job. If its task is unique, the job holds its key again.

    Args:
        id: The id of the job.
        path: Its file, among the dead letters.
        spool_dir: The spool directory.
        requeue: Does it.

    Raises:
        DuplicateJobError: Another job holds the key.
        KeyLockedError: Another caller has locked the key for long.
        SpoolUnavailableError: The key cannot be written.
        FileNotFoundError: ``requeue`` finds no file.
    """
    if (found := _key_of(path)) is None:
        requeue()
        return
    declared, key = found
    assert declared.options.unique is not None
    place = folder()
    try:
        keys.prepare(place)
        lock = keys.locked(place, key, task=declared.name)
    except OSError as error:
        raise files.unavailable(place, error) from error
    with lock:
        try:
            holder = keys.holder(place, key)
            status = None if holder is None or holder.job == id else status_of(holder)
            if (
                holder is not None
                and status is not None
                and unique.holds(status.state, declared.options.unique.until)
                and not _never_starts(holder, status)
            ):
                raise DuplicateJobError(
                    f"job {id} is dead, and job {status.id}, which is {status.state}, has its key: {declared.name} is "
                    "unique. Retry the job once that one is over, or cancel that one",
                    job=id,
                    state="dead",
                    holder=status.id,
                )
            keys.take(place, key, Holder(id, spool_dir, path.rpartition("/")[2]))
        except OSError as error:
            raise files.unavailable(place, error) from error
        requeue()


def _key_of(path: str) -> tuple[Declared, str] | None:
    """The task and the key of a dead job; ``None`` if this process declares no unique task that could run it."""
    try:
        data = spoolfile.peek(path)
        job = None if data is None else packet.unpack(packet.load(data))
    except (DecodeError, NewerJobError):
        return None
    declared = None if job is None else registry.this_process.get(job.task)
    if job is None or declared is None or declared.options.unique is None or declared.mismatch(job.args, job.kwargs):
        return None
    return declared, unique.digest(declared, declared.options.unique, job.args, job.kwargs)


last_removal = PerProcess(lambda: -INTERVAL)
"""When this process last removed keys, on the monotonic clock."""


def remove_some(store: Store, config: Settings) -> None:
    """Remove some of the keys whose jobs are over, every 30 seconds or while there are many. Never raises."""
    begun = time.monotonic()
    if begun - last_removal.get() < INTERVAL:
        return
    last_removal.set(begun)

    def are_over(found: list[Holder]) -> set[str]:
        try:
            states = store.states([holder.job for holder in found])
        except StoreUnavailableError:
            return set()
        # A dead job may have been moved back, and is found to wait then.
        return {id for id, state in states.items() if state in FINAL}

    if keys.remove_over(folder(config), are_over):
        last_removal.set(begun - INTERVAL)  # there are more


def sweep(spool_dir: str) -> None:
    """Remove the keys whose jobs are over, also those without a record. Nothing depends on it. Never raises."""
    for count, key in enumerate(keys.unused(spool_dir)):
        if count == SWEPT_AT_ONCE:
            break
        with (
            contextlib.suppress(OSError, SpoolkitError),
            keys.locked(spool_dir, key, wait=0),
        ):
            if (status := status_of(keys.holder(spool_dir, key))) is None or status.state in FINISHED:
                keys.remove(spool_dir, key)
