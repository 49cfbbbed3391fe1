"""What becomes of held jobs whose process was killed, or whose commit failed? The processes that serve look after them.

Without a row in an outbox no commit is known, so the job is deleted. With one, the row decides.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import TYPE_CHECKING

from spoolkit import application, registry, signals
from spoolkit.coordination import commits
from spoolkit.encoding import batch, chunk, packet
from spoolkit.errors import (
    KeyLockedError,
    NewerJobError,
    SpoolUnavailableError,
    StoreUnavailableError,
    UnknownTaskError,
)
from spoolkit.job import JobSpec
from spoolkit.spooldir import chunks, dead, held
from spoolkit.spooling import batch_jobs, engine, publication
from spoolkit.system import files, log
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

if TYPE_CHECKING:
    from spoolkit.coordination.outbox import Outbox

ASK_TIME = 10.0
"""Seconds after which a sweep begins no other question to a database: a spooler runs no job meanwhile."""

_asking: PerProcess[dict[str, threading.Thread]] = PerProcess(dict)
"""The threads of this process that ask the databases, by the spool directory about whose files they ask."""


def sweep(spool_dir: str) -> None:
    """Look after the held jobs of a spool directory. Any number of processes may do so at once.

    Raises:
        OSError: They cannot be read.
    """
    if not os.path.isdir(os.path.join(spool_dir, held.FOLDER)):
        return
    files.check_user(spool_dir)
    held.remove_empty_folders(spool_dir)
    found = held.leftovers(spool_dir)
    for path in found.committed:
        accept(path, spool_dir)
    for path in found.abandoned:
        _abandon(path, "its process ended before its transaction was committed, as far as is known")
    outboxes = commits.outboxes()
    if not outboxes:
        return
    if not bridge.is_uwsgi() or bridge.is_spooler():
        _ask(spool_dir, found.in_outbox, outboxes)
        return
    # In an HTTP process, the thread that sweeps moves delayed jobs as well, which must not wait for a slow database.
    asking = _asking.get()
    if spool_dir not in asking or not asking[spool_dir].is_alive():
        asking[spool_dir] = threading.Thread(target=_ask, args=(spool_dir, found.in_outbox, outboxes), daemon=True)
        asking[spool_dir].start()


def _ask(spool_dir: str, paths: list[str], outboxes: list[Outbox]) -> None:
    """Let the rows decide over these files, and delete rows that nobody needs any more. Never raises ``Exception``."""
    try:
        until = time.monotonic() + ASK_TIME
        # In any order: questions that have no answer for long must not keep the same others from being asked.
        for path in random.sample(paths, len(paths)):
            if time.monotonic() > until:
                break
            answers = [outbox.was_committed(held.name_of(path)) for outbox in outboxes]
            if True in answers:
                accept(path, spool_dir)
            elif None not in answers:
                _abandon(path, "its transaction was not committed")
        for outbox in outboxes:
            outbox.forget(spool_dir, held.names)
    except Exception as error:
        log.complain("the outbox of the held jobs of %s cannot be asked, and is asked again", spool_dir, error=error)


def accept(path: str, spool_dir: str) -> None:
    """Accept the job in a held file whose transaction was committed. Never raises ``Exception``.

    A file that another process has accepted or deleted meanwhile is no error, and one that can never be accepted
    becomes a dead letter. That of a unique task which this process has not imported is left for one that has: only the
    task says what the key is.
    """
    try:
        content = packet.load(publication.read(path, packet.HEAD_SIZE))
        if is_batch := batch.is_batch(content):
            content = packet.load(publication.read(path))
        job, jobs = packet.head(content), _jobs(content)
        declared = registry.this_process.get(job.task)
        if declared is None and job.is_unique:
            raise UnknownTaskError(f"{job.task}, which is unique, is not imported here", task=job.task)
        config = application.settings(None if declared is None else declared.code_folder)
        folder, _ = engine.folder_of(job, spool_dir, config, bridge.directories())
        if is_batch:
            is_accepted = batch_jobs.accept_held(path, folder=folder, spool_dir=spool_dir, config=config)
        else:
            run_at = None if chunks.is_chunk(path) else job.run_at
            is_accepted = publication.accept(
                path, folder=folder, spool_dir=spool_dir, run_at=run_at, declared=declared, config=config
            )
        if is_accepted:
            what = commits.described([job, *jobs] if is_batch else jobs)
            log.warning("%s is accepted by a sweep: its transaction was committed", what)
            signals.accepted(jobs)
    except FileNotFoundError:
        pass
    except (
        OSError,
        KeyLockedError,
        NewerJobError,
        SpoolUnavailableError,
        StoreUnavailableError,
        UnknownTaskError,  # a process that knows the task makes the key
    ) as error:
        log.complain("the held job %s cannot be accepted yet, and is tried again", path, error=error)
    except Exception as error:
        with contextlib.suppress(FileNotFoundError):
            log.error("a held job is dead: %s", dead.quarantine(path, spool_dir, reason=str(error)), error=error)


def _jobs(content: packet.Packet) -> list[JobSpec]:
    """The jobs in a file, without their arguments."""
    if batch.is_batch(content):
        return [job for job, _ in batch.unpack(content).members]
    if not chunk.is_chunk(content):
        return [packet.head(content)]
    found = chunk.head(content)
    return [found.job(index) for index in range(len(chunk.ids(found.stem)))]


def _abandon(path: str, reason: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # another process was faster
    log.warning("the held job %s was deleted: %s", held.name_of(path), reason)
