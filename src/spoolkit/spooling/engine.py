"""How does a call become a job in a spool directory? A job is one file, and is accepted once that file is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from flask import Flask

from spoolkit import application, registry, signals
from spoolkit.admin import keys as holders
from spoolkit.coordination import capabilities, commits, limits, unique
from spoolkit.encoding import batch as codec
from spoolkit.encoding import chunk, packet
from spoolkit.errors import (
    ArgumentError,
    ConfigurationError,
    QueueFull,
    QueueOptionError,
    TooLargeError,
    counted,
    of_row,
    unavailable,
)
from spoolkit.job import NORMAL_PRIORITY, AnyJob, BatchStatus, JobSpec, new_id, replaced
from spoolkit.registry import Declared
from spoolkit.settings import DEFAULT_QUEUE, Settings
from spoolkit.spooldir import chunks, held, later, priorities, room, spoolers, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooling import batch_jobs, publication, unique_jobs
from spoolkit.spooling.unique_jobs import BeforeWrite, Call
from spoolkit.store import locations
from spoolkit.system import clock, files, log, sandbox
from spoolkit.uwsgi import bridge

MAX_BODY = spoolfile.MAX_SIZE - packet.HEAD_SIZE
"""Bytes that arguments take at most: a larger file would be accepted here, but become a dead letter unrun."""


class SpoolEngine:
    """Writes jobs into a spool directory, where they survive the process, a reload and a reboot."""

    name = "spool"

    def submit(self, job: AnyJob, declared: Declared, after_commit: object = None) -> AnyJob:
        """Write ``job`` into its spool directory, wake a spooler, and return the job.

        A job that is to wait for a commit is written where no spooler sees it. Nothing is written if this raises.

        Raises:
            ArgumentError: An argument is not of the supported types, or is too large, or an option cannot be used.
            ConfigurationError: It is not known for which transaction the job is to wait.
            SpoolUnavailableError: The spool directory is full, read-only or missing.
            DuplicateTaskError: Another function has been declared under the task's name since.
            DuplicateJobError: The task is unique, another job has the key, and ``on_duplicate`` is ``"raise"``.
            KeyLockedError: The task is unique, and another caller has locked the key for long.
        """
        config = application.settings(declared.code_folder)
        call = _encoded(job, declared, config)
        if (declared.options.engine or config.engine) != job.engine:  # as engine_of() has it
            job = _with_engine(job, declared, config)
        served = bridge.directories()
        spool_dir = _spool_dir_of(job, config, served)
        if job.queue is not None:
            job = _with_name(job, spool_dir, config)
        if declared.has_keys:
            job = replaced(job, **limits.keys_of(declared, job.args, job.kwargs))
        if after_commit is not None or config.after_commit:
            transaction = commits.current(after_commit, is_automatic=config.after_commit)
            if transaction is not None:
                return _hold([job], [call], declared, spool_dir, config, served, transaction)[0]
        if declared.options.unique is None:
            accepted = _write(job, call, spool_dir, config, served)
        else:
            accepted = self._submit_unique(job, call, declared, spool_dir, config, served)
        if signals.job_accepted.receivers:
            signals.accepted([accepted])
        return accepted

    def _submit_unique(
        self, job: AnyJob, call: bytes, declared: Declared, spool_dir: str, config: Settings, served: Sequence[str]
    ) -> AnyJob:
        try:
            _prepare_keys(config, served)
            return unique_jobs.submit(
                job, call, declared, spool_dir, config, write=lambda one: _write(one, call, spool_dir, config, served)
            )
        except OSError as error:
            raise unavailable(spool_dir, error) from error

    def dump(self, job: JobSpec, declared: Declared) -> bytes:
        """Check a job, and return the content of its file. Nothing is written.

        Raises:
            ArgumentError: An argument is not of the supported types, or is too large.
            DuplicateTaskError: Another function has been declared under the task's name since.
        """
        config = application.settings(declared.code_folder)
        call = _encoded(job, declared, config)
        if declared.has_keys and job.result_at is None:
            job = replaced(job, **limits.keys_of(declared, job.args, job.kwargs))
        return packet.dump_job(job, call)

    def addressed(self, job: AnyJob, declared: Declared) -> AnyJob:
        """Check that a job can be written where its options say, and return it with its engine and its queue's name.

        Raises:
            ArgumentError: Its engine cannot carry it.
            QueueOptionError: Its queue or its priority cannot be used.
            SpoolUnavailableError: The spool directory is missing, or is another user's.
        """
        config, served = _settings(), bridge.directories()
        job = _with_engine(job, declared, application.settings(declared.code_folder))
        spool_dir = _spool_dir_of(job, config, served)
        try:
            folder_of(job, spool_dir, config, served)
        except OSError as error:
            raise unavailable(spool_dir, error) from error
        return job if job.queue is None else _with_name(job, spool_dir, config)

    def submit_batch(
        self,
        batch: BatchStatus,
        members: Sequence[tuple[JobSpec, bytes]],
        callback: bytes | None,
        transaction: commits.Transaction | None,
    ) -> None:
        """Write the members of a batch into their spool directories, and record it: all of them, or none.

        Args:
            batch: The batch.
            members: The jobs, from :meth:`addressed`, each with what :meth:`dump` returned.
            callback: The same of its callback, whatever id that has; ``None``: it has none.
            transaction: For whose commit the batch waits; ``None``: for none.

        Raises:
            SpoolUnavailableError: A spool directory is full, read-only or missing. As with each error, nothing was
                accepted.
            QueueFull: Too many jobs wait in a queue.
            StoreUnavailableError: The batch cannot be recorded.
        """
        config, served = _settings(), bridge.directories()
        found = _with_places(members, config, served)
        if transaction is not None:
            _hold_batch(batch, found, callback, transaction, config, served)
            return
        batch_jobs.accept(batch, found, callback, config)
        log.debug("the batch %s of %d jobs is accepted", batch.id, len(members))
        signals.accepted(job for job, _ in members)

    def submit_many(
        self, first: AnyJob, calls: Sequence[Call], declared: Declared, *, step: float, after_commit: object = None
    ) -> list[AnyJob]:
        """Write many jobs of one task, a chunk of them per file, wake a spooler, and return the jobs.

        Nothing is written if this raises.

        Args:
            first: The first job, but for its id and its arguments; the others differ from it in their due time.
            calls: The arguments of each job, by position and by name.
            declared: The task.
            step: Seconds between the due times of two jobs.
            after_commit: As for :meth:`submit`.

        Raises:
            ArgumentError: As :meth:`submit`; its ``row`` is the index of the call at fault.
            SpoolUnavailableError: The spool directory is full, read-only or missing.
            DuplicateTaskError: Another function has been declared under the task's name since.
            DuplicateJobError: As :meth:`submit`; its message names the row.
            KeyLockedError: As :meth:`submit`.
            PartlyAcceptedError: The task is unique, and a job could not be replaced after other calls were accepted.
        """
        registry.check_not_replaced(declared)
        config = application.settings(declared.code_folder)
        first = _with_engine(first, declared, config)
        served = bridge.directories()
        spool_dir = _spool_dir_of(first, config, served)
        if first.queue is not None:
            first = _with_name(first, spool_dir, config)
        first = unique_jobs.bounded(first, first.enqueued_at)
        encoded = _encode(calls, min(config.max_body, MAX_BODY), declared.positional)
        transaction = commits.current(after_commit, is_automatic=config.after_commit)
        if transaction is not None:
            return _hold_many(first, calls, encoded, declared, spool_dir, config, served, transaction, step=step)

        def write(calls: Sequence[Call], encoded: Sequence[bytes], before: BeforeWrite | None = None) -> list[AnyJob]:
            _check_room(first, spool_dir, config, len(calls))
            packed, jobs = _pack(first, calls, encoded, declared, step)
            if before is not None:
                before(jobs)
            folder, _ = folder_of(first, spool_dir, config, served)
            chunks.write(folder, packed, fsync=config.fsync)
            log.debug("%d jobs of %s are accepted in %s", len(jobs), first.task, spool_dir)
            return jobs

        try:
            if declared.options.unique is None:
                jobs = write(calls, encoded)
            else:
                _prepare_keys(config, served)
                jobs = unique_jobs.submit_many(
                    first,
                    calls,
                    encoded,
                    declared,
                    spool_dir,
                    config,
                    step=step,
                    write_all=write,
                    write=lambda job, call: _write(job, call, spool_dir, config, served),
                )
        except OSError as error:
            raise unavailable(spool_dir, error) from error
        spoolers.wake(spool_dir)
        signals.accepted(jobs)
        return jobs


def _with_engine(job: AnyJob, declared: Declared, config: Settings) -> AnyJob:
    """The job with the engine of its task, or else that of the site, as they are at the call.

    Raises:
        ArgumentError: That engine cannot carry the job.
    """
    if (engine := capabilities.engine_of(declared, config)) == job.engine:
        return job
    capabilities.check(declared, engine)
    return replaced(job, engine=engine)


def _with_places(
    members: Sequence[tuple[JobSpec, bytes]], config: Settings, served: Sequence[str]
) -> list[batch_jobs.Member]:
    """The members of a batch with their places. Raises :class:`QueueFull` if there is no room for all of them."""
    found: list[batch_jobs.Member] = []
    for job, data in members:
        spool_dir = _spool_dir_of(job, config, served)
        found.append(batch_jobs.Member(job, data, spool_dir, _priority_of(job, spool_dir)))
    for spool_dir, of_directory in batch_jobs.by_directory(found).items():
        _check_room(of_directory[0].job, spool_dir, config, len(of_directory))
    return found


def _hold_batch(
    batch: BatchStatus,
    members: Sequence[batch_jobs.Member],
    callback: bytes | None,
    transaction: commits.Transaction,
    config: Settings,
    served: Sequence[str],
) -> None:
    """Write the file of a batch where it waits for a commit: one file, so that one rename accepts all of it."""
    file = codec.job(batch)
    data = codec.pack(batch, [member.data for member in members], callback)
    if len(data) > spoolfile.MAX_SIZE:
        raise TooLargeError(
            f"the batch {batch.name!r} takes {len(data)} bytes, and waits for the commit as one file of "
            f"{spoolfile.MAX_SIZE} bytes at most: make several batches",
            size=len(data),
            limit=spoolfile.MAX_SIZE,
        )
    # Where one of its members runs, a process serves for certain.
    spool_dir = members[0].spool_dir if members else _spool_dir_of(file, config, served)

    def write(folder: str) -> list[str]:
        return [spoolfile.write(folder, batch.id, data, fsync=config.fsync)]

    _wait_for(
        transaction,
        [file, *(member.job for member in members)],
        write,
        partial(batch_jobs.accept_held, config=config),
        spool_dir,
        config,
        served,
        kind=held.HeldBatch,
    )


def _write(job: AnyJob, call: bytes, spool_dir: str, config: Settings, served: Sequence[str]) -> AnyJob:
    """Write the file of a job, and wake a spooler. Returns the job."""
    content = packet.dump_job(job, call)
    if config.max_waiting is not None or job.queue is not None:
        _check_room(job, spool_dir, config)
    run_at = None if job.run_at is None or job.run_at <= clock.now() else job.run_at
    try:
        folder, owner = folder_of(job, spool_dir, config, served)
        if run_at is None:
            spoolfile.write(folder, job.id, content, run_at=job.run_at, fsync=config.fsync, owned_by=owner)
        else:
            priority = _priority_of(job, spool_dir)
            later.write(spool_dir, job.id, content, run_at=run_at, priority=priority, fsync=config.fsync)
    except OSError as error:
        raise unavailable(spool_dir, error) from error
    log.debug("job %s of %s is accepted in %s", job.id, job.task, spool_dir)
    if run_at is None:
        spoolers.wake(spool_dir, job.id)
    return job


def _check_room(job: JobSpec, spool_dir: str, config: Settings, number: int = 1) -> None:
    """Refuse calls where too many jobs wait. Not asked for runs of schedules, retries, and what a commit publishes."""
    queue = next((one for one in config.queues if one.name == job.queue), None)
    limit = config.max_waiting if queue is None or queue.max_waiting is None else queue.max_waiting
    if limit is None:
        return
    try:
        waiting = room.take(spool_dir, limit, number)
    except OSError as error:
        raise unavailable(spool_dir, error) from error
    if waiting is not None:
        name = job.queue or DEFAULT_QUEUE
        where = "SPOOLKIT_MAX_WAITING" if queue is None or queue.max_waiting is None else "max_waiting"
        raise QueueFull(
            f"{counted(waiting, 'job waits', 'jobs wait')} in the queue {name}, and {number} more would exceed {limit} "
            f"({where}): none was "
            "accepted; try again later, or add spoolers",
            limit=limit,
            waiting=waiting,
            queue=name,
        )


def _hold(
    jobs: list[AnyJob],
    encoded: Sequence[bytes],
    declared: Declared,
    spool_dir: str,
    config: Settings,
    served: Sequence[str],
    transaction: commits.Transaction,
) -> list[AnyJob]:
    """Write the files of jobs, one each, where they wait for a commit. Returns the jobs."""
    _check_room(jobs[0], spool_dir, config, len(jobs))
    rule = declared.options.unique
    if rule is not None:
        jobs = [unique_jobs.bounded(job, job.enqueued_at) for job in jobs]
        for job in jobs:
            unique.digest(declared, rule, job.args, job.kwargs)  # what it raises is for the caller
    is_unique = None if rule is None else True
    contents = [
        packet.dump_job(replaced(job, is_unique=is_unique), call) for job, call in zip(jobs, encoded, strict=True)
    ]

    def write(folder: str) -> list[str]:
        if rule is not None:
            _prepare_keys(config, served)
        paths: list[str] = []
        try:
            for job, content in zip(jobs, contents, strict=True):
                paths.append(spoolfile.write(folder, job.id, content, run_at=job.run_at, fsync=config.fsync))
        except BaseException:
            for path in paths:
                files.remove(path)
            raise
        return paths

    accept = partial(publication.accept, run_at=jobs[0].run_at, declared=declared, config=config)
    _wait_for(transaction, jobs, write, accept, spool_dir, config, served)
    return jobs


def _hold_many(
    first: AnyJob,
    calls: Sequence[Call],
    encoded: Sequence[bytes],
    declared: Declared,
    spool_dir: str,
    config: Settings,
    served: Sequence[str],
    transaction: commits.Transaction,
    *,
    step: float,
) -> list[AnyJob]:
    """As :func:`_hold`, with chunks of jobs; but any job of a unique task may be a duplicate, and has its own file."""
    if declared.options.unique is not None:
        jobs = [
            replaced(
                first,
                id=new_id(),
                args=args,
                kwargs=kwargs,
                run_at=None if first.run_at is None else first.run_at + index * step,
                **limits.keys_of(declared, args, kwargs),
            )
            for index, (args, kwargs) in enumerate(calls)
        ]
        return _hold(jobs, encoded, declared, spool_dir, config, served, transaction)
    _check_room(first, spool_dir, config, len(calls))
    packed, jobs = _pack(first, calls, encoded, declared, step)

    def write(folder: str) -> list[str]:
        return chunks.write(folder, packed, fsync=config.fsync)

    accept = partial(publication.accept, run_at=None, declared=declared, config=config)
    _wait_for(transaction, jobs, write, accept, spool_dir, config, served)
    return jobs


def _wait_for(
    transaction: commits.Transaction,
    jobs: Sequence[JobSpec],
    write: Callable[[str], list[str]],
    accept: Callable[..., bool],
    spool_dir: str,
    config: Settings,
    served: Sequence[str],
    *,
    kind: type[held.HeldFiles] = held.HeldFiles,
) -> None:
    try:
        folder, _ = folder_of(jobs[0], spool_dir, config, served)
        accept = partial(accept, folder=folder, spool_dir=spool_dir)
        files_of_call = held.hold(jobs, spool_dir, write, accept, with_rows=transaction.has_rows, kind=kind)
    except OSError as error:
        raise unavailable(spool_dir, error) from error
    transaction.hold(files_of_call)


def _pack(
    first: AnyJob, calls: Sequence[Call], encoded: Sequence[bytes], declared: Declared, step: float
) -> tuple[list[tuple[str, bytes]], list[AnyJob]]:
    """The stems and contents of the chunks of many jobs, and the jobs."""
    packed: list[tuple[str, bytes]] = []
    jobs: list[AnyJob] = []
    keys = limits.keys_of_calls(declared, calls)
    # The id of a job is that of its chunk and its place in it.
    for start, end in chunk.cut(encoded, keys):
        run_at = None if first.run_at is None else first.run_at + start * step
        stem = chunk.stem(first.id, len(packed), end - start)
        common = first if keys is None else replaced(first, **keys[start])
        one = chunk.Chunk(stem, replaced(common, run_at=run_at), step)
        packed.append((stem, packet.dump(chunk.pack(one, encoded[start:end]))))
        jobs += (
            replaced(common, id=chunk.id_of(stem, index), run_at=one.run_at(index), args=args, kwargs=kwargs)
            for index, (args, kwargs) in enumerate(calls[start:end])
        )
    return packed, jobs


def _encoded(job: JobSpec, declared: Declared, config: Settings) -> bytes:
    """The arguments of a job in the codec's bytes."""
    registry.check_not_replaced(declared)
    limit = min(config.max_body, MAX_BODY)
    return packet.encode_arguments(job.args, job.kwargs, max_body=limit, names=declared.positional)


def _settings() -> Settings:
    return application.settings(registry.code_folder())


def _encode(calls: Sequence[Call], limit: int, names: Sequence[str]) -> list[bytes]:
    encoded: list[bytes] = []
    try:
        for args, kwargs in calls:
            encoded.append(packet.encode_arguments(args, kwargs, max_body=limit, names=names))
    except ArgumentError as error:
        raise of_row(error, len(encoded)) from None
    return encoded


_first_owner = lru_cache(maxsize=16)(files.owner)
"""The owner of a spool directory when this process first asked."""


def folder_of(
    job: JobSpec, spool_dir: str, config: Settings, served: Sequence[str]
) -> tuple[str, tuple[int, int] | None]:
    """The folder for the file of a job, and the owner of its files if that is known. Raises ``OSError``."""
    owner = None
    if spool_dir not in served:
        _prepare(spool_dir, config)
    elif bridge.has_own_spoolers():
        # They are of the same user as this process, and can read its files whoever owns them. Where they may be of
        # another user, root must look for the owner each time.
        owner = _first_owner(spool_dir)
    if job.priority is None and not registry.this_process.priorities:
        return spool_dir, owner
    return priorities.folder(spool_dir, _priority_of(job, spool_dir)), owner


def _spool_dir_of(job: JobSpec, config: Settings, served: Sequence[str]) -> str:
    if job.queue is None:
        return served[0] if served else config.spool
    if not os.path.isabs(job.queue):
        return _named(job.queue, config, served)
    if served and job.queue not in served:
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which this uWSGI does not serve; it serves {', '.join(served)}",
            argument="spooler",
        )
    known = dict.fromkeys([*locations.spool_dirs(config), *locations.queue_dirs(config).values()])
    if not served and job.queue not in known and not _is_spool_directory(job.queue):
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which is not a spool directory: the job would never run. Known are "
            f"{', '.join(known)}; another one is known once `flask spool run` or uWSGI has served it",
            argument="spooler",
        )
    return job.queue


def check_queue(declared: Declared, app: Flask) -> None:
    """Refuse a task of an application that is declared for a queue which the application does not have.

    Raises:
        ConfigurationError: It is.
    """
    queue = declared.options.queue
    if queue is None or os.path.isabs(queue) or declared.code_folder != application.folder(app):
        return
    known = [DEFAULT_QUEUE, *(one.name for one in application.settings_of(app).queues)]
    if queue not in known:
        raise ConfigurationError(
            f"{declared.name} ({declared.place}) is declared for the queue {queue!r}, which is not in SPOOLKIT_QUEUES; "
            f"known are {', '.join(known)}",
            setting="SPOOLKIT_QUEUES",
        )


def _named(name: str, config: Settings, served: Sequence[str]) -> str:
    known = locations.queue_dirs(config)
    if name not in known:
        raise QueueOptionError(
            f"queue is {name!r}, which is not in SPOOLKIT_QUEUES: nothing would run the job. Known are "
            f"{', '.join(known)}",
            argument="queue",
        )
    if served and known[name] not in served:
        raise QueueOptionError(
            f"the queue {name!r} has no spooler in this uWSGI, which serves {', '.join(served)}: add the line "
            f"spooler = {known[name]}, as `flask spool ini` prints it",
            argument="queue",
        )
    return known[name]


def _with_name(job: AnyJob, spool_dir: str, config: Settings) -> AnyJob:
    """The job with the name of its queue, also where the call named the directory of one that has a name."""
    name = next((one.name for one in config.queues if locations.queue_dir(one.name, config) == spool_dir), job.queue)
    return job if job.queue == name else replaced(job, queue=name)


def _is_spool_directory(path: str) -> bool:
    try:
        return sandbox.is_private(path) or spoolfile.is_spool_directory(path)
    except OSError:
        return False


def _priority_of(job: JobSpec, spool_dir: str) -> int | None:
    """The priority in whose folder the job belongs; ``None``: in none."""
    if job.priority is None:
        return NORMAL_PRIORITY if priorities.is_used() and priorities.are_scanned(spool_dir) else None
    if bridge.has_priorities() is False:
        raise QueueOptionError(
            f"priority is {job.priority}, but this uWSGI does not scan priority folders and would never run the job: "
            "set spooler-ordered = true in uwsgi.ini",
            argument="priority",
        )
    if job.priority > NORMAL_PRIORITY and bridge.has_priorities() and not priorities.is_used():
        raise QueueOptionError(
            f"priority is {job.priority}, but no task is declared with a priority, so that uWSGI would run the job "
            f"before normal ones: declare one, such as @spool(priority={job.priority})",
            argument="priority",
        )
    return job.priority


@lru_cache(maxsize=16)
def was_missing(spool_dir: str) -> bool:
    """Whether the spool directory was missing when this process first asked: only then does a job create it.

    A directory that disappears later must not come back as an empty one that no spooler serves.
    """
    return not os.path.lexists(spool_dir)


_make_once = lru_cache(maxsize=16)(files.make_spool_directory)
_make_queue_once = lru_cache(maxsize=16)(files.make_queue_directory)


def _prepare_keys(config: Settings, served: Sequence[str]) -> None:
    """Make sure that there is a folder for the keys of unique tasks. Raises ``OSError``."""
    spool_dir = holders.folder(config)
    if not keys.is_prepared(spool_dir):
        if spool_dir not in served:
            _prepare(spool_dir, config)
        keys.prepare(spool_dir)


def _prepare(spool_dir: str, config: Settings) -> None:
    """Make sure that the spoolers of the directory can run a job of this process. Raises ``OSError``."""
    if was_missing(spool_dir):
        if spool_dir == config.spool:
            _make_once(spool_dir)
        elif spool_dir in locations.queue_dirs(config).values():
            _make_queue_once(spool_dir, config.spool)
    files.check_user(spool_dir)
