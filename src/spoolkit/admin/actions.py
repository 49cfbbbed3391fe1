"""What can people do to a job? Retry it, cancel it, run it now, purge it. No HTTP and no click here."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial

from spoolkit import application, signals
from spoolkit.admin import keys
from spoolkit.admin.lookup import Listing, check_id, directories, find, from_store, jobs, locate, recorded
from spoolkit.coordination import batches, limits
from spoolkit.encoding import batch, packet
from spoolkit.errors import DecodeError, JobStateError, UnknownJobError
from spoolkit.job import FINAL, FINISHED, Failure, JobSpec, State, Status, of_status
from spoolkit.spooldir import chunks, dead, held, later, parked, priorities, running, sent, spoolers, spoolfile, waiting
from spoolkit.store import locations, retention
from spoolkit.system import clock, files, process

CLAIM_TIME = 2.0
"""Seconds to wait for the lock of a file, which a spooler may hold for a moment."""

MAX_EXAMINED = 100_000
"""Files and records that are read to find the jobs of an action on many."""

PURGED_AT_ONCE = 1000
"""Jobs that one transaction deletes."""


def retry(id: str, *, by: str | None = None) -> None:
    """Requeue a dead job, with a new count of attempts.

    Args:
        id: The full id of the job; for a file of another library, the file's name.
        by: Who does it, for the history of the job; ``None``: not known.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        JobStateError: The job is not dead, or its arguments are gone, or its file is damaged.
        DuplicateJobError: Its task is unique, and another job has its key.
        KeyLockedError: Its task is unique, and a caller has locked its key for long.
        SpoolUnavailableError: This process may not change the spool directory.
    """
    known = recorded(check_id(id))
    for spool_dir in directories(known):
        with changing(spool_dir):
            path = dead.locate(spool_dir, id, known.file if known else None)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                    keys.retake(id, path, spool_dir, partial(_requeue, id, path, spool_dir, by))
                    spoolers.wake(spool_dir, id)
                    return
    status = find(id)
    if status.state is State.DEAD and not status.has_file:
        raise JobStateError(f"job {id} ran in a {status.engine}: its arguments were not kept", job=id, state="dead")
    raise JobStateError(f"job {id} is {status.state}: only dead jobs can be retried", job=id, state=str(status.state))


@contextlib.contextmanager
def changing(spool_dir: str) -> Iterator[None]:
    """Change files of a spool directory, which only its owner and root may do.

    Raises:
        SpoolUnavailableError: This process may not change the directory.
    """
    try:
        files.check_user(spool_dir)
        yield
    except FileNotFoundError:
        pass  # no job was enqueued yet
    except PermissionError as error:
        raise files.unavailable(spool_dir, error) from error


def _requeue(id: str, path: str, spool_dir: str, by: str | None) -> None:
    folder = _target_folder(id, path, spool_dir)
    from_store(lambda: locations.store().requeue(id, still_there=lambda: os.path.lexists(path), by=by))
    dead.requeue(path, folder)


def _target_folder(id: str, path: str, spool_dir: str) -> str:
    """The folder that the dead file came from: the one of its priority, or the spool directory itself."""
    with open(files.open_regular(path, linked=True), "rb") as file:
        data = file.read(packet.HEAD_SIZE)
    try:
        content = packet.load(data)
    except DecodeError as error:
        # uWSGI's C code would delete it without running it, and log nothing.
        raise JobStateError(f"job {id} is damaged and cannot run: {error}", job=id, state="dead") from error
    priority = None
    with contextlib.suppress(DecodeError):  # a file of another library
        priority = packet.head(content).priority
    if priority is None:
        # Of a job without one, a file that is in no folder is normal as well: see spooldir/priorities.py.
        return spool_dir
    return priorities.folder(spool_dir, priorities.scanned(priority, spool_dir))


def dead_jobs(task: str | None = None, tag: str | None = None) -> Listing:
    """List the dead jobs, newest first.

    Args:
        task: Only jobs of the task with this name.
        tag: Only jobs with this tag.

    Returns:
        The newest 100,000 dead jobs; ``complete`` is false where there are more.
    """
    return jobs(states=(State.DEAD,), task=task, tag=tag, max_examined=MAX_EXAMINED)


def cancel(id: str, *, force: bool = False, by: str | None = None) -> State:
    """Cancel a job. If it was the last member of a batch that had not ended, the callback is accepted.

    A waiting job is cancelled for good. A running job is asked to stop: it continues until the task checks for that.

    Args:
        id: The full id of the job.
        force: Kill the process of a running job and record the job as cancelled.
        by: Who does it, for the history of the job; ``None``: not known.

    Returns:
        The state of the job afterwards: cancelled, or running where it was asked to stop.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        JobStateError: The job is finished, its file is locked by another process, or its process must not be killed.
        StoreUnavailableError: The store cannot be written, so a waiting job was not cancelled.
        SpoolUnavailableError: This process may not change the spool directory.
    """
    state = _cancel(id, force=force, by=by)
    if state is State.CANCELLED:
        _follow_up()
    return state


def _follow_up() -> None:
    """Have the callbacks of batches accepted that are complete by now. Otherwise a sweep does it."""
    from_store(lambda: batches.call_back(locations.store(), application.settings()))


def _cancel(id: str, *, force: bool, by: str | None) -> State:
    deadline, store = time.monotonic() + CLAIM_TIME, locations.store()
    while True:
        status = find(id)
        spool_dir = locations.spool_dir_of(status.queue)
        if status.state in FINISHED:
            raise JobStateError(f"job {id} is already {status.state}", job=id, state=str(status.state))
        if held.find(id) is not None:
            message = f"job {id} is not accepted yet: roll its transaction back, and it never is"
            raise JobStateError(message, job=id, state=str(status.state))
        if status.state is not State.RUNNING:
            if _cancel_waiting(status, by) if status.has_file else _cancel_in_process(status, by):
                return State.CANCELLED
        elif not force:
            return _ask_to_stop(status, by)
        elif status.runs_elsewhere:
            message = f"job {id} cannot be killed: it runs in a worker, which may be on another machine"
            raise JobStateError(message, job=id, state="running")
        elif not status.has_file or status.pid == os.getpid():
            message = f"job {id} cannot be killed: its process does other work too"
            raise JobStateError(message, job=id, state="running")
        elif store.cancel_running(
            id, kill=lambda pid: _kill(pid, id), read_leftovers=partial(running.read, spool_dir, id), by=by
        ):
            _remove_file(status)
            running.delete(spool_dir, id)
            waiting.wake_waiters(spool_dir, id)
            limits.ended(status.limit_key, status.task, store, application.settings())
            signals.cancelled(
                of_status(JobSpec, status),
                Failure("its process was killed", ending="cancelled"),
                attempt=status.attempt,
            )
            return State.CANCELLED
        if time.monotonic() > deadline:
            raise _locked(status)
        time.sleep(0.01)


def _cancel_waiting(status: Status, by: str | None) -> bool:
    store, spool_dir = locations.store(), locations.spool_dir_of(status.queue)
    with _claimed(status) as path:
        if path is None:
            return False
        progress, text = running.read(spool_dir, status.id)
        reason, file = "cancelled while it was not running", os.path.basename(path)
        if not store.cancel(status, reason, file=file, log=text, progress=progress, by=by):
            return False
        spoolfile.finish(path)
    running.delete(spool_dir, status.id)
    waiting.wake_waiters(spool_dir, status.id)
    # It may have been moved back, to run as the next one of its key.
    limits.ended(status.limit_key, status.task, store, application.settings())
    signals.cancelled(of_status(JobSpec, status), Failure(reason, ending="cancelled"))
    return True


def _cancel_in_process(status: Status, by: str | None) -> bool:
    """Cancel a waiting job without a file: its process asks the store before it starts the job."""
    store, reason = locations.store(), "cancelled before it ran"
    if not store.cancel(status, reason, file=None, by=by):
        return False
    waiting.wake_waiters(locations.spool_dir_of(status.queue), status.id)
    signals.cancelled(of_status(JobSpec, status), Failure(reason, ending="cancelled"))
    return True


def _ask_to_stop(status: Status, by: str | None) -> State:
    spool_dir = locations.spool_dir_of(status.queue)
    # A worker elsewhere is told in answer to its next report.
    if locations.store().ask_to_stop(status.id, by=by) and not status.runs_elsewhere:
        # Looked up anew: another process may have begun a further attempt meanwhile. From here on, none begins.
        running.ask_to_stop(spool_dir, status.id, find(status.id).pid)
    after = find(status.id).state
    if after is not State.RUNNING:
        running.delete(spool_dir, status.id)  # it finished before it could be asked
    return after


def _kill(pid: int, id: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        known = process.identity(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError as error:
            message = f"job {id} runs in process {pid}, which this user may not kill"
            raise JobStateError(message, job=id, state="running") from error
        deadline = time.monotonic() + CLAIM_TIME
        while process.is_alive(pid, known) and time.monotonic() < deadline:
            time.sleep(0.002)


def run_now(id: str, *, by: str | None = None) -> State:
    """Make a waiting job due now.

    Args:
        id: The full id of the job.
        by: Who does it, for the history of the job; ``None``: not known.

    Returns:
        The state of the job: queued or retrying.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        JobStateError: The job is not waiting, it is a thread job, or its file is locked by another process.
        SpoolUnavailableError: This process may not change the spool directory.
    """
    deadline = time.monotonic() + CLAIM_TIME
    while True:
        status = find(id)
        if status.state not in (State.QUEUED, State.RETRYING):
            raise JobStateError(f"job {id} is {status.state}, not waiting", job=id, state=str(status.state))
        if not status.has_file:
            message = f"job {id} waits inside its process: only jobs with a file can be run now"
            raise JobStateError(message, job=id, state=str(status.state))
        if status.task == batch.TASK:
            # Its file must keep its name, by which retention knows that its record is still needed.
            message = f"{id} is a batch whose transaction is committed, and due: a spooler enqueues its members next"
            raise JobStateError(message, job=id, state=str(status.state))
        if status.runs_elsewhere and _is_sent(status):
            message = f"job {id} cannot be run now: Celery has it, and it runs as soon as a worker is free"
            raise JobStateError(message, job=id, state=str(status.state))
        with _claimed(status) as path:
            if path is not None:
                spool_dir = next(one for one in directories(status) if path.startswith(one + os.sep))
                with contextlib.suppress(FileNotFoundError):  # it has become due, and was moved in
                    if parked.group_of(path) is None:
                        later.bring_forward(path, spool_dir)
                    else:
                        parked.move_back(path, spool_dir)  # with its time, which is its place in the line
                    from_store(partial(locations.store().record_event, id, "run now", by=by, waiting=status))
                    break
        if time.monotonic() > deadline:
            raise _locked(status)
        time.sleep(0.01)
    spoolers.wake(spool_dir, id)
    return status.state


def record_new(id: str, kind: str, *, by: str | None = None, job: str | None = None) -> None:
    """Add an event to the history of a job that was accepted a moment ago, and may not be recorded yet.

    Args:
        id: The full id of the job.
        kind: What was done.
        by: Who did it; ``None``: not known.
        job: The id of the other job that it is about.
    """
    with contextlib.suppress(UnknownJobError):  # it is over, and its record was deleted
        made = find(id)
        waiting = made if made.has_file and made.state is State.QUEUED else None
        from_store(partial(locations.store().record_event, id, kind, by=by, job=job, waiting=waiting))


def _is_sent(status: Status) -> bool:
    return any(sent.find(spool_dir, status.id, status.file) for spool_dir in directories(status))


def _locked(status: Status) -> JobStateError:
    message = f"job {status.id}: its file is locked by another process"
    return JobStateError(message, job=status.id, state=str(status.state))


@contextlib.contextmanager
def _claimed(status: Status) -> Iterator[str | None]:
    """Lock the job's file and yield its path; ``None`` where there is no file or another process has locked it."""
    for spool_dir in directories(status):
        path = None
        with changing(spool_dir):
            if status.file is None:  # it has not run: it may have no file of its own yet
                chunks.expand_for(spool_dir, status.id, fsync=application.settings().fsync)
            path = locate(spool_dir, status.id, status, status.file)
        if path:
            with spoolfile.claim(path) as fd:
                yield path if fd is not None else None
            return
    yield None


def _remove_file(status: Status) -> None:
    """Remove the file of a job that is recorded as cancelled, whoever has locked it.

    The process that was killed may have the lock still: it does nothing any more, but its end may take the machine a
    while. If the file were left, only the record would keep the job from running again.
    """
    for spool_dir in directories(status):
        with changing(spool_dir):
            if (path := spoolfile.locate(spool_dir, status.id, status.file)) is not None:
                spoolfile.finish(path)
                return


def purge_job(id: str) -> None:
    """Delete the record of a finished job, and its file if it is dead.

    Args:
        id: The full id of the job.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        JobStateError: The job is not finished, or a spooler has not removed its file yet.
        SpoolUnavailableError: This process may not change the spool directory.
        StoreUnavailableError: The store cannot be written.
    """
    status = find(id)
    if status.state not in FINISHED:
        raise JobStateError(f"job {id} is {status.state}: cancel it first", job=id, state=str(status.state))
    if status.state is State.DEAD:
        for spool_dir in directories(status):
            with changing(spool_dir):
                if (path := dead.locate(spool_dir, id, status.file)) is not None:
                    dead.delete(path)
    if not retention.delete_one(locations.store(), locations.spool_dirs(), id):
        # Its record was deleted meanwhile, it runs again, or a killed process has left its file behind.
        if recorded(id) is None:
            return
        message = f"job {id} still has a file, which is removed at the next scan"
        raise JobStateError(message, job=id, state=str(find(id).state))


def purge(states: Iterable[State] = FINAL, before: float | None = None) -> int:
    """Delete the records of finished jobs, and the files of dead ones.

    Args:
        states: Only jobs in these states.
        before: Only jobs that finished before this time, unix time in seconds (UTC); ``None``: now.

    Returns:
        How many jobs were deleted.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: The store cannot be read or written.
    """
    locations.check_readable()
    before, total, store = clock.now() if before is None else before, 0, locations.store()
    wanted = set(states)
    # A callback that was accepted, but is not recorded as that, would be accepted again once its record is gone.
    batches.call_back(store, application.settings())
    if State.DEAD in wanted:
        for spool_dir in locations.spool_dirs():
            while deleted := retention.delete_dead(store, spool_dir, before, PURGED_AT_ONCE):
                total += deleted
    while deleted := retention.delete(store, locations.spool_dirs(), wanted - {State.DEAD}, before, PURGED_AT_ONCE):
        total += deleted
    return total
