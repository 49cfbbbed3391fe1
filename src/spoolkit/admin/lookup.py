"""In which state is a job? The answer combines its file in the spool directory and its record in the store.

A job that has not started has a file and no record; a finished job has a record and no file. If the store cannot be
read, the answer is what the files alone say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from flask import has_request_context

from spoolkit import registry
from spoolkit.coordination import limits, pauses
from spoolkit.encoding import chunk, codec, packet
from spoolkit.errors import AmbiguousJobError, DecodeError, StoreUnavailableError, UnknownJobError, shown
from spoolkit.job import FINAL, FINISHED, Attempt, Event, JobSpec, State, Status, first_id
from spoolkit.spooldir import chunks, dead, held, parked, running, schedules, spoolfile
from spoolkit.store import locations, orphans, write_behind
from spoolkit.store.search import Search
from spoolkit.system import files, log

T = TypeVar("T")

UNFINISHED = frozenset(State) - FINISHED
"""The states of a job that is running, or is going to run."""

BATCH_SIZE = 500
"""Jobs that one query to the store asks for."""

MAX_CANDIDATES = 5
"""Ids that an error message names where a prefix matches several."""

MAX_EXAMINED = 10_000
"""Files and records of jobs that a search reads by default: about one second of work."""

MAX_NAMES = 1000
"""File names that a request reads in a spool directory to find one job: any visitor may ask for any id."""

MAX_ID = 200
"""Characters of an id that may exist: it is a part of the name of a file, of which file systems allow 255."""

ID_LENGTH = 32
"""Characters of an id."""


@dataclass(frozen=True)
class Details:
    """Everything that is known of one job."""

    #: Its state and what else its file and record say.
    status: Status
    #: The positional and the keyword arguments, as the task receives them; ``None`` where they were not kept.
    arguments: tuple[tuple[object, ...], dict[str, object]] | None = field(repr=False)
    #: Its attempts, the first one first.
    attempts: list[Attempt]
    #: What else happened to it, in order.
    events: list[Event]
    #: The name of the schedule of a periodic task whose run it is; ``None``: a call made it.
    schedule: str | None = None


class Listing(list[Status]):
    """Jobs, newest first."""

    #: False where the search stopped before it had examined all jobs.
    complete = True
    #: All jobs that were asked for and whose id is not less than this one are in the list; empty: all of them.
    floor = ""


@dataclass(frozen=True)
class Files:
    """The files of jobs, from one scan of the spool directories."""

    #: The paths of waiting and running jobs, by their ids.
    waiting: Mapping[str, str]
    #: The paths of dead jobs, by their ids.
    dead: Mapping[str, str]
    #: Whether ``waiting`` holds all of them.
    all_waiting: bool = True
    #: Whether ``dead`` holds all of them.
    all_dead: bool = True

    @property
    def complete(self) -> bool:
        """Whether these are all files of jobs."""
        return self.all_waiting and self.all_dead


def list_files(max_names: int | None = None) -> Files:
    """List the files of jobs, without opening them.

    Args:
        max_names: How many names of waiting jobs, and how many of dead ones, are read at most; ``None``: all.

    Returns:
        The files found; ``complete`` is false where there are more.

    Raises:
        SpoolUnavailableError: A spool directory cannot be read.
    """
    # One more than asked for: it shows that there are more.
    max_files = None if max_names is None else max_names + 1
    waiting_paths = list(islice(waiting_files(max_files), max_files))
    dead_paths = list(islice(_dead_files(max_files), max_files))
    return Files(
        waiting=_with_jobs_of_chunks(_by_id(waiting_paths[:max_names])),
        dead=_by_id(dead_paths[:max_names]),
        all_waiting=max_names is None or len(waiting_paths) <= max_names,
        all_dead=max_names is None or len(dead_paths) <= max_names,
    )


def find(id: str, *, hint: tuple[str, str] | None = None) -> Status:
    """Return the state of a job, and what else is known of it.

    Within an HTTP request, the job's file is searched under its likely names, and among the first 1,000 files only. If
    more files wait, a request does not find a job with a priority over 99, nor a job whose file was renamed many times
    while the store could not be written; the commands of ``flask spool`` find both.

    Args:
        id: The full id of the job.
        hint: The spool directory of its file, and a name that this has had. With it, the job is found wherever it is.

    Returns:
        The status of this moment, combined from the file and the record.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    check_id(id)
    locations.check_readable()
    # First: once it is held no more, it has a file.
    if (job := held.find(id)) is not None:
        return _of_job(job, State.QUEUED)
    write_behind.writer().flush(id)
    before: object = ()
    for _ in range(5):  # between two steps the job may be settled, and its file renamed
        status = recorded(id)
        if status is not None and (status.state in FINAL or not status.has_file):
            return _with_progress(status)
        found = _from_file_and_record(id, status, hint)
        if found is not None:
            return _with_progress(found)
        if status == before:
            break  # no file in two searches, and nothing was recorded in between
        before = status
    if status is None:
        raise UnknownJobError(f"job {id} is unknown: it was never accepted, or its record was deleted", job=id)
    return _without_file(status)


def _without_file(status: Status) -> Status:
    """The status of a job whose file is gone."""
    if status.state is State.RUNNING:
        # A file is removed only when its job is done: it was the store that could not be written.
        return replace(status, state=State.DONE, result_error="the job is done, but the store could not be written")
    return status if status.state in FINISHED else replace(status, state=State.LOST)


def check_id(id: str) -> str:
    """Return ``id``.

    Raises:
        UnknownJobError: It cannot be the id of a job, but may be a path to another directory.
    """
    if not isinstance(id, str):
        raise UnknownJobError(f"{shown(id)} is not the id of a job: give a str", job=shown(id))
    if not id or os.path.basename(id) != id or id in (os.curdir, os.pardir) or "\0" in id or len(id) > MAX_ID:
        raise UnknownJobError(f"{id[:80]!r} is not the id of a job", job=id)
    return id


def full_id(prefix: str) -> str:
    """Complete the beginning of an id.

    Args:
        prefix: The first characters of an id, as a person types them.

    Returns:
        The only id that begins so; ``prefix`` itself where there is none.

    Raises:
        AmbiguousJobError: Several ids begin so.
        UnknownJobError: No id can begin so.
    """
    if spoolfile.is_id(check_id(prefix)):
        return prefix
    recorded_ids = from_store(lambda: locations.store().ids(prefix, BATCH_SIZE)) or []
    files = list_files()
    ids = {*recorded_ids, *(id for id in (*files.waiting, *files.dead) if id.startswith(prefix))}
    if prefix in ids or not ids:
        return prefix
    if len(ids) > 1:
        candidates = tuple(sorted(ids, reverse=True)[:MAX_CANDIDATES])
        more = ", ..." if len(ids) > MAX_CANDIDATES else ""
        message = f"{len(ids)} job ids begin with {prefix!r}: give more characters of {', '.join(candidates)}{more}"
        raise AmbiguousJobError(message, job=prefix, candidates=candidates)
    return ids.pop()


def _from_file_and_record(id: str, status: Status | None, hint: tuple[str, str] | None = None) -> Status | None:
    """The recorded status, corrected by the job's file; ``None`` where there is no file."""
    known_name, max_entries = None if status is None else status.file, _max_names()
    spool_dirs = directories(status)
    if hint is not None:
        spool_dirs, known_name, max_entries = list(dict.fromkeys([hint[0], *spool_dirs])), known_name or hint[1], None
    for spool_dir in spool_dirs:
        with _reading(spool_dir):
            # First: a chunk has few names, and once it is gone each of its jobs has a file of its own, or a record.
            if status is None and (found := _from_chunk(spool_dir, id, max_entries)) is not None:
                return found
            if path := locate(spool_dir, id, status, known_name, max_entries=max_entries):
                return _waiting(path, status)
            if path := dead.locate(spool_dir, id, known_name, max_entries=max_entries):
                return _dead(path, status)
    return None


def locate(
    spool_dir: str, id: str, status: Status | None, known: str | None, *, max_entries: int | None = None
) -> str | None:
    """Find the file of a job that waits or runs, also among thousands that are parked.

    Args:
        spool_dir: The spool directory.
        id: The id of the job.
        status: What is recorded of it; ``None``: nothing is.
        known: As for :func:`spoolfile.locate`.
        max_entries: As for :func:`spoolfile.locate`.

    Returns:
        The path of the file; ``None`` if there is none.

    Raises:
        OSError: This user may not look into the directory.
    """
    found = _parked(spool_dir, id, status)
    return found or spoolfile.locate(spool_dir, id, known, max_entries=max_entries)


def _parked(spool_dir: str, id: str, status: Status | None) -> str | None:
    """The file of a job that is parked, as its record says: thousands of others may be parked with other keys."""
    known = None if status is None else status.file
    in_line = None if status is None else limits.find_parked(spool_dir, status.limit_key, id, known)
    return in_line or pauses.find_parked(spool_dir, id, known)


def _max_names() -> int | None:
    return MAX_NAMES if has_request_context() else None


@contextlib.contextmanager
def _reading(directory: str) -> Iterator[None]:
    """Raise :class:`SpoolUnavailableError` where ``directory`` cannot be read: that must not look like an empty one."""
    try:
        yield
    except FileNotFoundError:
        pass  # no job was enqueued yet
    except OSError as error:
        raise files.unavailable(directory, error) from error


def _waiting(path: str, status: Status | None) -> Status | None:
    """The status of a job whose file is in the spool directory; ``None`` if the file is gone by now."""
    try:
        due = os.lstat(path).st_mtime
    except FileNotFoundError:
        return None
    if status is None:
        return _from_file(path, State.QUEUED)
    status = _with_reason(status, status.limit_key, path)
    if status.runs_elsewhere and status.state is State.RUNNING:
        return status
    if status.state is State.DEAD:
        return replace(status, state=State.QUEUED, run_at=due, finished_at=None)
    if status.state is State.RUNNING and (status.pid is None or os.path.basename(path) != status.file):
        # Its process died, or the store could not be written when the attempt ended. The next spooler finds out.
        return replace(status, state=State.RETRYING, run_at=due)
    if status.state is State.RUNNING or (status.runs_elsewhere and status.state is State.RETRYING):
        return status  # the file of such a retry may be put off, because Celery delivers it
    return replace(status, run_at=due)


def _dead(path: str, status: Status | None) -> Status:
    """The status of a job whose file is in ``dead/``."""
    if status is not None and status.state is State.DEAD:
        return status
    report = dead.report(path)
    found = status or _from_file(path, State.DEAD) or Status(os.path.basename(path), report.get("task"), State.DEAD)
    message = report.get("reason") or found.error_message
    return replace(found, state=State.DEAD, finished_at=report.get("time"), error_message=message)


def _from_file(path: str, state: State) -> Status | None:
    """The status of a job without a record; ``None`` where the file is not one of spoolkit's."""
    data = None
    with _reading(os.path.dirname(path)):
        data = spoolfile.peek(path, packet.HEAD_SIZE)
    if data is None:
        return None
    try:
        job = packet.head(packet.load(data))
    except DecodeError:
        return None
    if job.run_at is not None:
        with contextlib.suppress(OSError):
            # The file's own time: it may have been rescheduled since the packet was written.
            job = replace(job, run_at=os.lstat(path).st_mtime)
    return _with_reason(_of_job(job, state), job.limit_key, path)


def _with_reason(status: Status, limit_key: str | None, path: str) -> Status:
    """The status with what else than a time the job in the file ``path`` waits for, if it is parked."""
    if parked.group_of(path) is None:
        return status
    for_room = None if limit_key is None else limits.parked_for(path)
    return replace(status, parked_for=for_room, paused=pauses.is_parked(path))


def _from_chunk(spool_dir: str, id: str, max_entries: int | None) -> Status | None:
    """The status of a job that has no file of its own yet; ``None`` if there is none."""
    path = chunks.find(spool_dir, id, max_entries=max_entries)
    return None if path is None else _in_chunk(path, id)


def _in_chunk(path: str, id: str) -> Status | None:
    """The status of a job in the chunk ``path``; ``None`` where that is gone, or no chunk."""
    content = None
    with _reading(os.path.dirname(path)):
        content = chunks.read(path, packet.HEAD_SIZE)
    if content is None:
        return None
    with contextlib.suppress(DecodeError):
        return _of_job(chunk.head(content).job(chunk.index_of(id)), State.QUEUED)
    return None


def _of_job(job: JobSpec, state: State) -> Status:
    return Status(
        id=job.id,
        task=job.task,
        state=state,
        engine=job.engine,
        queue=job.queue,
        enqueued_at=job.enqueued_at,
        run_at=job.run_at,
        expires_at=job.expires_at,
        retries=job.retries,
        backoff=job.backoff,
        timeout=job.timeout,
        headers=job.headers,
        batch=job.batch,
        tags=job.tags,
    )


def _with_progress(status: Status) -> Status:
    """The status with the progress of the running attempt, which only its file in ``running/`` holds."""
    if status.state is not State.RUNNING or status.runs_elsewhere:
        return status
    progress, _ = running.read(locations.spool_dir_of(status.queue), status.id, status.pid)
    return replace(status, progress=progress)


def recorded(id: str) -> Status | None:
    """The record of the job ``id``; ``None`` where there is none, or the store cannot be read."""
    status = from_store(lambda: locations.store().status(id))
    if status is None or status.has_file or status.state in FINISHED or not mark_lost():
        return status
    return from_store(lambda: locations.store().status(id))


def mark_lost() -> bool:
    """Record the jobs of processes that are gone as lost. Returns whether there were any."""
    return bool(from_store(lambda: orphans.mark_lost(locations.store(), locations.spool_dir_of(None))))


def from_store(read: Callable[[], T]) -> T | None:
    """Return ``read()``, which reads the store; ``None`` where the store is unavailable, which is logged."""
    try:
        return read()
    except StoreUnavailableError as error:
        log.unrecorded(error)
        return None


def directories(status: Status | None = None) -> list[str]:
    """The spool directories that may hold the job's file, the likely one first."""
    queue = None if status is None else status.queue
    likely = [] if queue is None else [locations.spool_dir_of(queue)]
    return list(dict.fromkeys([*likely, *locations.spool_dirs()]))


def jobs(
    *,
    states: Iterable[State] = (),
    task: str | None = None,
    tag: str | None = None,
    since: float | None = None,
    before: str | None = None,
    limit: int | None = None,
    max_examined: int = MAX_EXAMINED,
    files: Files | None = None,
    also: Search | None = None,
    fits: Callable[[Status], bool] = lambda status: True,
) -> Listing:
    """List jobs, newest first, without their results.

    Args:
        states: Only jobs in these states; empty: in any state.
        task: Only jobs of the task with this name, also those by an earlier name that is one of its aliases.
        tag: Only jobs with this tag.
        since: Only jobs enqueued at or after this time, unix time in seconds (UTC).
        before: Only jobs older than the one with this id.
        limit: How many jobs are returned at most; ``None``: all that are found.
        max_examined: How many files of waiting jobs, how many of dead jobs, and how many records of either kind are
            read at most. Where there are more, only the newest are read, and the answer is not ``complete``.
        files: The result of :func:`list_files`; ``None``: all files are listed now. Where it is not ``complete``, the
            newest files may be missing, so the answer is not complete either.
        also: What else the records of the jobs must be like; ``None``: nothing.
        fits: Says the same of a job, as it is known from its file and its record together.

    Returns:
        The jobs, newest first.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    locations.check_readable()
    write_behind.writer().flush()
    mark_lost()
    wanted = frozenset(states) or frozenset(State)
    names = () if task is None else registry.names_of(task)

    def matches(status: Status) -> bool:
        old = since is not None and (status.enqueued_at or 0.0) < since
        tagged = tag is None or tag in (status.tags or ())
        named = task is None or status.task in names
        return status.state in wanted and not old and named and tagged and fits(status)

    read_rows = partial(locations.store().statuses, tasks=names, tag=tag, since=since, before=before or "", also=also)
    also = also or Search()
    found = Listing()
    # The id of the oldest job up to which everything was read; "": everything was read.
    horizon = ""
    files = files or list_files()
    recorded_ids: set[str] = set()
    # The record alone does not tell the state of an unfinished job, so the limit cannot apply to these records.
    for row_states, max_rows in ((UNFINISHED, None), (wanted & FINISHED, limit)):
        if row_states:
            max_rows = max_examined + 1 if max_rows is None else min(max_rows, max_examined + 1)
            rows = from_store(partial(read_rows, states=row_states, limit=max_rows)) or []
            if rows and len(rows) == max_rows:
                found.floor = max(found.floor, rows[-1].id)
            if len(rows) > max_examined:
                horizon = max(horizon, rows[max_examined - 1].id)
                del rows[max_examined:]
            recorded_ids.update(row.id for row in rows)
            found += filter(matches, _with_files(rows, files))
    for state, paths in ((State.QUEUED, files.waiting), (State.DEAD, files.dead)):
        if state in wanted and not also.error:  # what is not recorded has failed in no attempt
            ids = _newest((id for id in paths if id not in recorded_ids and _is_between(id, also, before)), since)
            if len(ids) > max_examined:
                horizon = max(horizon, ids[max_examined - 1])
            examined = islice(_unrecorded(state, ids, paths), max_examined)
            listed = list(islice((status for status in examined if status is not None and matches(status)), limit))
            if listed and len(listed) == limit:
                found.floor = max(found.floor, listed[-1].id)
            found += listed
    found.sort(key=lambda status: status.id, reverse=True)
    found.floor = max(found.floor, horizon, also.down_to)
    if limit is not None:
        del found[limit:]
    found.complete = not horizon or (limit is not None and len(found) == limit and found[-1].id >= horizon)
    found.complete &= files.all_waiting or not wanted & (UNFINISHED | {State.LOST})  # a lost job may have no file
    found.complete &= files.all_dead or State.DEAD not in wanted
    found[:] = map(_with_progress, found)
    return found


def _is_between(id: str, also: Search, before: str | None) -> bool:
    return id.startswith(also.prefix) and also.down_to <= id and (before is None or id < before)


def _by_id(paths: Iterable[str]) -> dict[str, str]:
    """The paths by the ids of their jobs; by the file's name where it is not one of spoolkit's."""
    found = {}
    for path in paths:
        # The name that a job's file has at first is its id: no pattern is tried for each of 100,000 files.
        id = path.rpartition(spoolfile.PREFIX)[2]
        found[id if len(id) == ID_LENGTH and id.isalnum() else id_of(path)] = path
    return found


def _with_jobs_of_chunks(found: dict[str, str]) -> dict[str, str]:
    """``found``, with the jobs that have no file of their own yet instead of their chunks."""
    for name in [name for name in found if len(name) != ID_LENGTH and chunks.is_chunk(name)]:
        path = found.pop(name)
        for id in chunks.ids(path):
            found.setdefault(id, path)
    return found


def _newest(ids: Iterable[str], since: float | None) -> list[str]:
    """The ids, newest first, without those that were made before ``since`` (to the second)."""
    oldest = "" if since is None else first_id(since)
    return sorted((id for id in ids if id >= oldest), reverse=True)


def _with_files(rows: Sequence[Status], files: Files) -> Iterator[Status]:
    """The recorded statuses, corrected by the jobs' files: what :func:`find` would return for each."""
    missing = []
    for row in rows:
        if (status := _with_path(row, files)) is not None:
            yield status
        else:
            missing.append(row)
    if not missing:
        return
    if not files.complete:
        yield from map(_by_name, missing)
        return
    # These were enqueued, removed or renamed after the files were listed. List the files once more for all of them: a
    # search for each would read a large spool directory thousands of times.
    files = list_files()
    for row in missing:
        yield _with_path(row, files) or _gone(row)


def _by_name(row: Status) -> Status:
    """The recorded status, corrected by a file with a recorded name; unchanged where there is none."""
    for spool_dir in directories(row):
        with _reading(spool_dir):
            for folder in (os.path.join(spool_dir, spoolfile.LATER), spool_dir):
                path = _parked(spool_dir, row.id, row) or spoolfile.find(folder, row.id, row.file)
                if path and (found := _waiting(path, row)) is not None:
                    return found
            if path := dead.locate(spool_dir, row.id, row.file, max_entries=0):
                return _dead(path, row)
    return (
        replace(row, state=State.RETRYING)
        if row.state is State.RUNNING and row.pid is None and not row.runs_elsewhere
        else row
    )


def _gone(status: Status) -> Status:
    """The status of a job that no list of files has."""
    now = from_store(lambda: locations.store().status(status.id))
    if now is None or replace(now, result=None) == status:
        return _without_file(status)
    with contextlib.suppress(UnknownJobError):
        return find(status.id)
    return status


def _with_path(status: Status, files: Files) -> Status | None:
    """The recorded status, corrected by the listed file; ``None`` where it needs a file and none is listed."""
    if not status.has_file or status.state in FINAL:
        return status
    if path := files.waiting.get(status.id):
        return _waiting(path, status)
    return _dead(path, status) if (path := files.dead.get(status.id)) else None


def _unrecorded(state: State, ids: Sequence[str], paths: Mapping[str, str]) -> Iterator[Status | None]:
    """The status of each job that has a file, but no record of the same state; ``None`` for the others."""
    for start in range(0, len(ids), BATCH_SIZE):
        batch = ids[start : start + BATCH_SIZE]
        known = from_store(lambda ids=batch: locations.store().states(ids)) or {}  # type: ignore[misc]
        for id in batch:
            status = None
            if id not in known:
                path = paths[id]
                status = _dead(path, None) if state is State.DEAD else _from_file(path, state) or _in_chunk(path, id)
            elif known[id] is State.DEAD and state is State.QUEUED:
                # Moved back by hand; or it has died since the files were listed, and was even deleted.
                with contextlib.suppress(UnknownJobError):
                    status = find(id)
            yield status


def id_of(path: str) -> str:
    """The id of the job whose file is ``path``; the file's name where it is not one of spoolkit's."""
    return spoolfile.id_of(os.path.basename(path)) or os.path.basename(path)


def waiting_files(max_files: int | None = None) -> Iterator[str]:
    """The paths of waiting and running jobs in all spool directories, at most ``max_files`` of each."""
    for spool_dir in locations.spool_dirs():
        with _reading(spool_dir):
            yield from spoolfile.pending(spool_dir, max_files)


def _dead_files(max_files: int | None = None) -> Iterator[str]:
    for spool_dir in locations.spool_dirs():
        with _reading(spool_dir):
            yield from dead.paths(spool_dir, max_files)


def details(id: str, *, newest: int | None = None) -> Details:
    """Return everything that is known of a job.

    Args:
        id: The full id of the job.
        newest: How many of its events are read, the newest ones: an attempt has two. ``None``: all.

    Returns:
        Its status, arguments, attempts and events.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    status = find(id)
    attempts, events = from_store(lambda: locations.store().history(id, newest)) or ([], [])
    if attempts and attempts[-1].finished_at is None:
        _, log = running.read(locations.spool_dir_of(status.queue), id, status.pid)
        attempts[-1] = replace(attempts[-1], log=log)
    return Details(status, _arguments(status), attempts, events, _schedule(status))


def dead_names() -> dict[str, list[str]]:
    """Return the names of the files of dead jobs, by the folder that holds them, without looking at the files.

    Raises:
        SpoolUnavailableError: A spool directory cannot be read.
    """
    found = {}
    for spool_dir in locations.spool_dirs():
        with _reading(spool_dir):
            found[os.path.join(spool_dir, dead.FOLDER)] = dead.names(spool_dir)
    return found


def of_dead_file(path: str) -> Status:
    """Return what the file of a dead job, and the report beside it, say of a job without a record."""
    return _dead(path, None)


def report(id: str) -> dict[str, Any]:
    """Return the report beside the file of a dead job: all that is known of one without a record; empty if none.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
    """
    for spool_dir in directories():
        with _reading(spool_dir):
            if (path := dead.locate(spool_dir, id, max_entries=_max_names())) is not None:
                return dead.report(path)
    return {}


def _schedule(status: Status) -> str | None:
    for spool_dir in directories(status):
        with _reading(spool_dir):
            if (name := schedules.name_of(spool_dir, status.id)) is not None:
                return name
    return None


def arguments_in_file(status: Status) -> bytes | None:
    """Return the arguments of a job in the codec's bytes, as its file has them; ``None`` where it has no file.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
    """
    data, id = None, status.id
    for spool_dir in directories(status):
        known_name, max_entries = status.file, _max_names()
        with _reading(spool_dir), contextlib.suppress(DecodeError):
            if known_name is None and (path := chunks.find(spool_dir, id, max_entries=max_entries)):
                if (content := chunks.read(path)) is not None:
                    data = chunk.unpack(content)[1][chunk.index_of(id)]
                continue
            path = spoolfile.locate(spool_dir, id, known_name, max_entries=max_entries)
            path = path or dead.locate(spool_dir, id, known_name, max_entries=max_entries)
            if path is not None and (found := spoolfile.peek(path)) is not None:
                data = packet.arguments(packet.load(found))
    return data


def _arguments(status: Status) -> tuple[tuple[object, ...], dict[str, object]] | None:
    data = arguments_in_file(status) or from_store(lambda: locations.store().arguments(status.id))
    if data is None:
        return None
    try:
        return codec.decode_call(data)
    except DecodeError:
        return None
