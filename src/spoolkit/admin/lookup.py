"""Where jobs stand, from their files and their records as one.

A job that has not started has a file and no record, one that is over a record and no file. What cannot be known
because the store is broken is left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from flask import has_request_context

from spoolkit.encoding import codec, packet
from spoolkit.errors import AmbiguousJobError, DecodeError, StoreUnavailableError, UnknownJobError, shown
from spoolkit.job import FINAL, FINISHED, Attempt, Event, State, Status, first_id
from spoolkit.spooldir import dead as morgue
from spoolkit.spooldir import running, spoolfile
from spoolkit.store import locations, orphans, write_behind
from spoolkit.system import files, log

T = TypeVar("T")

OPEN = frozenset(State) - FINISHED

SOME = 500
"""Jobs that the store is asked for at once."""

CANDIDATES = 5
"""Ids that are named where a prefix fits several."""

MAX_EXAMINED = 10_000
"""How many files and records of jobs a search reads by default: a second or so of work."""

MAX_NAMES = 1000
"""How many names of files a request reads in a spool directory, looking for one job: anybody may ask for any id."""

HEAD = 4 + packet.LIMIT
"""Bytes of a spool file that hold all but the body."""


@dataclass(frozen=True)
class Details:
    """All that is known of one job. ``arguments`` are as the task gets them; ``None`` where they were not kept."""

    status: Status
    arguments: tuple[tuple[object, ...], dict[str, object]] | None
    attempts: list[Attempt]
    events: list[Event]


class Listing(list[Status]):
    """Jobs, newest first. ``complete`` is false where the search stopped before it had examined all of them."""

    complete = True


@dataclass(frozen=True)
class Files:
    """The paths of waiting and of dead jobs by their ids, as of one look, and whether these are all of them."""

    waiting: Mapping[str, str]
    dead: Mapping[str, str]
    all_waiting: bool = True
    all_dead: bool = True

    @property
    def complete(self) -> bool:
        return self.all_waiting and self.all_dead


def listed(max_names: int | None = None) -> Files:
    """The files of jobs, at most ``max_names`` of waiting and of dead ones, by their names alone."""
    most = None if max_names is None else max_names + 1
    waiting, dead = (list(islice(paths, most)) for paths in (pending(most), _set_aside(most)))
    cut = (len(waiting), len(dead)) if max_names is None else (max_names, max_names)
    return Files(_by_id(waiting[: cut[0]]), _by_id(dead[: cut[1]]), len(waiting) <= cut[0], len(dead) <= cut[1])


def find(id: str) -> Status:
    """Where the job ``id`` stands.

    Within a request its file is looked for under its likely names, and among the first 1,000 files only. Where more
    wait, commands alone find one that got many names while the store was broken; so it may be with a priority over 99.

    Raises :class:`UnknownJobError`, or what :func:`tracking.check_readable` raises.
    """
    checked(id)
    locations.check_readable()
    write_behind.here().write(id)
    before: object = ()
    for _ in range(5):  # between two looks a job may go from the record to the file, and its file get another name
        status = recorded(id)
        if status is not None and (status.state in FINAL or not status.has_file):
            return _running(status)
        found = _with_file(id, status)
        if found is not None:
            return _running(found)
        if status == before:
            break  # twice nothing, and nothing recorded between
        before = status
    if status is None:
        raise UnknownJobError(f"no job {id} is known: it was never accepted, or its record is gone", job=id)
    return _without_file(status)


def _without_file(status: Status) -> Status:
    """What became of a job whose file is gone."""
    if status.state is State.RUNNING:
        # Its file goes only at its end: it was the store that could not be told.
        return replace(status, state=State.DONE, result_error="it is over, but the store could not be written then")
    return status if status.state in FINISHED else replace(status, state=State.LOST)


def checked(id: str) -> str:
    """``id``, unless it cannot be that of a job, as a path to elsewhere. Raises :class:`UnknownJobError`."""
    if not isinstance(id, str):
        raise UnknownJobError(f"{shown(id)} is no job's id: give a str", job=shown(id))
    if not id or os.path.basename(id) != id or id in (os.curdir, os.pardir) or "\0" in id or len(id) > 255:
        raise UnknownJobError(f"{id[:80]!r} is no job's id", job=id)
    return id


def full_id(prefix: str) -> str:
    """The one id that begins with ``prefix``, for people; ``prefix`` itself where there is none.

    Raises:
        AmbiguousJobError: There are several.
        UnknownJobError: No id can begin like this.
    """
    if spoolfile.is_id(checked(prefix)):
        return prefix
    recorded_ids = known_of(lambda: locations.store().ids(prefix, SOME)) or []
    ids = {*recorded_ids, *(id for id in map(id_of, (*pending(), *_set_aside())) if id.startswith(prefix))}
    if prefix in ids or not ids:
        return prefix
    if len(ids) > 1:
        some = tuple(sorted(ids, reverse=True)[:CANDIDATES])
        more = ", ..." if len(ids) > CANDIDATES else ""
        message = f"{prefix!r} begins the ids of {len(ids)} jobs: give more of {', '.join(some)}{more}"
        raise AmbiguousJobError(message, job=prefix, candidates=some)
    return ids.pop()


def _with_file(id: str, status: Status | None) -> Status | None:
    """The status as the job's file has it; ``None`` where there is no file."""
    known, most = None if status is None else status.file, _most()
    for directory in directories(status):
        with _looking(directory):
            if path := spoolfile.locate(directory, id, known, most=most):
                return _waiting(path, status)
            if path := morgue.locate(directory, id, known, most=most):
                return _dead(path, status)
    return None


def _most() -> int | None:
    return MAX_NAMES if has_request_context() else None


@contextlib.contextmanager
def _looking(directory: str) -> Iterator[None]:
    """What keeps this process from looking into ``directory`` is an error, and never the same as nothing there."""
    try:
        yield
    except FileNotFoundError:
        pass  # no job has come yet
    except OSError as error:
        raise files.unavailable(directory, error) from error


def _waiting(path: str, status: Status | None) -> Status | None:
    """The status of a job whose file lies in the spool directory; ``None`` if it is gone meanwhile."""
    try:
        due = os.lstat(path).st_mtime
    except FileNotFoundError:
        return None
    if status is None:
        return _from_file(path, State.QUEUED)
    if status.state is State.DEAD:
        return replace(status, state=State.QUEUED, run_at=due, finished_at=None)
    if status.state is State.RUNNING and (status.pid is None or os.path.basename(path) != status.file):
        # Its process died, or the store could not be told how it ended; the next spooler that looks will see.
        return replace(status, state=State.RETRYING, run_at=due)
    return replace(status, run_at=due) if status.state is not State.RUNNING else status


def _dead(path: str, status: Status | None) -> Status:
    if status is not None and status.state is State.DEAD:
        return status
    report = morgue.report(path)
    found = status or _from_file(path, State.DEAD) or Status(os.path.basename(path), report.get("task"), State.DEAD)
    message = report.get("reason") or found.error_message
    return replace(found, state=State.DEAD, finished_at=report.get("time"), error_message=message)


def _from_file(path: str, state: State) -> Status | None:
    data = None
    with _looking(os.path.dirname(path)):
        data = spoolfile.peek(path, HEAD)
    if data is None:
        return None
    try:
        job = packet.head(packet.load(data))
    except DecodeError:
        return None
    with contextlib.suppress(OSError):
        # What it is, not what it was to be: a file may have been given another time since.
        job = replace(job, run_at=os.lstat(path).st_mtime if job.run_at is not None else None)
    return Status(
        id=job.id, task=job.task, state=state, queue=job.queue, enqueued_at=job.enqueued_at, run_at=job.run_at
    )


def _running(status: Status) -> Status:
    if status.state is not State.RUNNING:
        return status
    progress, _ = running.look(locations.store().folder, status.id)
    return replace(status, progress=progress)


def recorded(id: str) -> Status | None:
    """What the store knows of the job ``id``."""
    status = known_of(lambda: locations.store().status(id))
    if status is None or status.has_file or status.state in FINISHED or not bury():
        return status
    return known_of(lambda: locations.store().status(id))


def bury() -> bool:
    """Whether there were jobs whose process went away; they are recorded as lost."""
    return bool(known_of(lambda: orphans.mark_lost(locations.store())))


def known_of(read: Callable[[], T]) -> T | None:
    """What ``read()`` finds in the store; ``None`` where the store cannot be had."""
    try:
        return read()
    except StoreUnavailableError as error:
        log.unrecorded(error)
        return None


def directories(status: Status | None = None) -> list[str]:
    """The spool directories in which the job's file may lie."""
    queue = [status.queue] if status is not None and status.queue is not None and os.path.isdir(status.queue) else []
    return list(dict.fromkeys([*queue, *locations.directories()]))


def jobs(
    *,
    states: Iterable[State] = (),
    task: str | None = None,
    since: float | None = None,
    limit: int | None = None,
    max_examined: int = MAX_EXAMINED,
    files: Files | None = None,
) -> Listing:
    """List jobs, newest first, without their results.

    Args:
        states: Only jobs in these states; none given: in any.
        task: Only jobs of the task with this name.
        since: Only jobs enqueued since then, unix time in seconds (UTC).
        limit: How many at most; ``None``: all that are found.
        max_examined: How many files of waiting jobs, of dead jobs, and records of either kind are read at most. Where
            more would have to be read, the newest were, and the answer is not ``complete``.
        files: What :func:`listed` found; ``None``: all are listed now. Of files that are not ``complete`` the newest
            may be missing; then the answer is not complete either.

    Raises:
        SpoolUnavailableError, StoreUnavailableError: As :func:`tracking.check_readable` does.
    """
    locations.check_readable()
    write_behind.here().write()
    bury()
    wanted = frozenset(states) or frozenset(State)

    def fits(status: Status) -> bool:
        old = since is not None and (status.enqueued_at or 0.0) < since
        return status.state in wanted and not old and task in (None, status.task)

    found, horizon = Listing(), ""
    files = files or listed()
    recorded_ids: set[str] = set()
    # Of what is not over, the record alone does not tell the state: the limit is for those that fit.
    for among, most in ((OPEN, None), (wanted & FINISHED, limit)):
        if among:
            rows = _rows(among, task, since, max_examined + 1 if most is None else min(most, max_examined + 1))
            if len(rows) > max_examined:
                horizon = max(horizon, rows[max_examined - 1].id)
                del rows[max_examined:]
            recorded_ids.update(row.id for row in rows)
            found += filter(fits, _joined(rows, files))
    for state, paths in ((State.QUEUED, files.waiting), (State.DEAD, files.dead)):
        if state in wanted:
            ids = _newest(paths.keys() - recorded_ids, since)
            if len(ids) > max_examined:
                horizon = max(horizon, ids[max_examined - 1])
            examined = islice(_unrecorded(state, ids, paths), max_examined)
            found += islice((status for status in examined if status is not None and fits(status)), limit)
    found.sort(key=lambda status: status.id, reverse=True)
    if limit is not None:
        del found[limit:]
    found.complete = not horizon or (limit is not None and len(found) == limit and found[-1].id >= horizon)
    found.complete &= files.all_waiting or not wanted & (OPEN | {State.LOST})  # of what is lost no file may be left
    found.complete &= files.all_dead or State.DEAD not in wanted
    found[:] = map(_running, found)
    return found


def _rows(states: Iterable[State], task: str | None, since: float | None, limit: int) -> list[Status]:
    return known_of(lambda: locations.store().statuses(states=states, task=task, since=since, limit=limit)) or []


def _by_id(paths: Iterable[str]) -> dict[str, str]:
    # By hand, and not by id_of() for each: there may be 100,000 of them.
    names = ((path[path.rfind("/") + 1 :], path) for path in paths)
    return {spoolfile.id_of(name) or name: path for name, path in names}


def _newest(ids: Iterable[str], since: float | None) -> list[str]:
    """The ids, newest first, without those that are older by their own time (to the second)."""
    oldest = "" if since is None else first_id(since)
    return sorted((id for id in ids if id >= oldest), reverse=True)


def _joined(rows: Sequence[Status], files: Files) -> Iterator[Status]:
    """The recorded statuses as the jobs' files have them, as :func:`find` answers for each."""
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
    # Since the files were listed, these have come, gone, or got another name. Listed once more for all of them: a
    # search for each would read a large directory thousands of times.
    files = listed()
    for row in missing:
        yield _with_path(row, files) or _gone(row)


def _by_name(row: Status) -> Status:
    """The recorded status as a file under a recorded name has it; as recorded where there is none."""
    for directory in directories(row):
        with _looking(directory):
            if (path := spoolfile.find(directory, row.id, row.file)) and (found := _waiting(path, row)) is not None:
                return found
            if path := morgue.locate(directory, row.id, row.file, most=0):
                return _dead(path, row)
    return replace(row, state=State.RETRYING) if row.state is State.RUNNING and row.pid is None else row


def _gone(status: Status) -> Status:
    now = known_of(lambda: locations.store().status(status.id))
    if now is None or replace(now, result=None) == status:
        return _without_file(status)
    with contextlib.suppress(UnknownJobError):
        return find(status.id)
    return status


def _with_path(status: Status, files: Files) -> Status | None:
    if not status.has_file or status.state in FINAL:
        return status
    if path := files.waiting.get(status.id):
        return _waiting(path, status)
    return _dead(path, status) if (path := files.dead.get(status.id)) else None


def _unrecorded(state: State, ids: Sequence[str], paths: Mapping[str, str]) -> Iterator[Status | None]:
    """Each of these jobs, which have files, as far as the store knows it otherwise or not at all; else ``None``."""
    for at in range(0, len(ids), SOME):
        some = ids[at : at + SOME]
        known = known_of(lambda ids=some: locations.store().states(ids)) or {}  # type: ignore[misc]
        for id in some:
            status = None
            if id not in known:
                status = _dead(paths[id], None) if state is State.DEAD else _from_file(paths[id], state)
            elif known[id] is State.DEAD and state is State.QUEUED:
                status = find(id)  # moved back by hand
            yield status


def id_of(path: str) -> str:
    return spoolfile.id_of(os.path.basename(path)) or os.path.basename(path)


def pending(most: int | None = None) -> Iterator[str]:
    for directory in locations.directories():
        with _looking(directory):
            yield from spoolfile.pending(directory, most)


def _set_aside(most: int | None = None) -> Iterator[str]:
    for directory in locations.directories():
        with _looking(directory):
            yield from morgue.kept(directory, most)


def details(id: str) -> Details:
    """All that is known of the job ``id``. Raises :class:`UnknownJobError`."""
    status = find(id)
    attempts, events = known_of(lambda: locations.store().history(id)) or ([], [])
    if attempts and attempts[-1].finished_at is None:
        _, log = running.look(locations.store().folder, id)
        attempts[-1] = replace(attempts[-1], log=log)
    return Details(status, _arguments(status), attempts, events)


def _arguments(status: Status) -> tuple[tuple[object, ...], dict[str, object]] | None:
    data = None
    for directory in directories(status):
        content = None
        with _looking(directory):
            known, most = status.file, _most()
            path = spoolfile.locate(directory, status.id, known, most=most)
            path = path or morgue.locate(directory, status.id, known, most=most)
            content = None if path is None else spoolfile.peek(path)
        if content is not None:
            with contextlib.suppress(DecodeError):
                data = packet.arguments(packet.load(content))
    data = data or known_of(lambda: locations.store().arguments(status.id))
    if data is None:
        return None
    try:
        return codec.decode_call(data)
    except DecodeError:
        return None
