"""May an attempt start, and what is written down once it has ended? The same for every engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from spoolkit import signals
from spoolkit.attempt import admission, crash, job_log
from spoolkit.attempt.runner import AttemptResult
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import Cancelled, Dead, Done, Failure, JobSpec, RetryAt, State, TaskOptions
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, running, spoolers, spoolfile, waiting
from spoolkit.store import Store, locations, orphans
from spoolkit.store.claims import AlreadySettled, Claim, Full, Granted, InUse, NotYet, PreviousCrashed
from spoolkit.store.holders import Room
from spoolkit.system import cgroup, clock, log


def claim(
    job: JobSpec,
    options: TaskOptions,
    store: Store,
    config: Settings,
    *,
    path: str | None = None,
    arguments: bytes | None = None,
    instead: Cancelled | RetryAt | None = None,
    room: Room | None = None,
) -> Granted | AttemptResult | Full | None:
    """Count an attempt of ``job`` in the store, or say why none may start.

    Args:
        job: The job.
        options: How the task's jobs are run.
        store: Where the attempt is counted.
        config: The settings in force.
        path: The job's spool file, for an engine that has files.
        arguments: The job's arguments in the codec's bytes, kept to be shown once the file is gone.
        instead: What becomes of the job instead of an attempt, if the caller knows that.
        room: What the limit and the rate of the job allow; ``None``: it has neither.

    Returns:
        ``Granted`` if the attempt may start; an ``AttemptResult`` if none may, for one of the reasons in
        :mod:`~spoolkit.attempt.admission` or because of what is recorded, with what is left to record and to do with
        the file; ``Full`` if it has to wait for room under its limit; ``None`` if another process runs the job, so that
        nothing may be touched.

    Raises:
        StoreUnavailableError: The attempt could not be counted; see :func:`claim_without_store`.
    """
    instead = instead or admission.instead_of_attempt(job)
    found = _ask(job, options, store, path, arguments, instead, room)
    if isinstance(found, PreviousCrashed):
        marks_dir = locations.spool_dir(config)
        if spoolers.was_stopped(marks_dir, found.pid, found.identity):
            interrupted = orphans.interrupt(
                store,
                [found.pid],
                kill=_is_dead,
                read_leftovers=lambda id, queue: running.read(locations.spool_dir_of(queue, config), id),
            )
            # Not earlier: until the store has recorded the stop, the mark is all that is known of it.
            spoolers.unmark_stopped(marks_dir, found.pid)
            orphans.announce(interrupted)
            found = _ask(job, options, store, path, arguments, instead, room)
    match found:
        case Granted() | Full():
            return found
        case NotYet(time):
            return AttemptResult(RetryAt(time, Failure("its rate allows it then")))
        case InUse(original):
            if original is not None:
                text = "the spool file %s is left alone: it is a copy of %s, the file by which the same job is running"
                log.complain(text, os.path.basename(path or ""), original)
            return None
        case PreviousCrashed():
            spool_dir = locations.spool_dir_of(job.queue, config)
            progress, text = running.read(spool_dir, job.id, found.pid)
            killed = cgroup.explanation(running.facts(spool_dir, found.pid).kills, found.pid)
            return crash.result_of(job, options, found, progress, text, killed)
        case AlreadySettled(outcome):
            # By this claim, or by a process that died before it could do the same to the file.
            is_new = isinstance(outcome, Dead) or (outcome is instead and isinstance(outcome, Cancelled))
            if is_new:
                job_log.ended(job, outcome)
            return AttemptResult(outcome, was_recorded=not is_new, logged=isinstance(outcome, Dead))


def claim_without_store(
    job: JobSpec,
    options: TaskOptions,
    config: Settings,
    error: StoreUnavailableError,
    count: Callable[[], int],
    instead: Cancelled | RetryAt | None = None,
    room: Room | None = None,
) -> Granted | AttemptResult | None:
    """Let the job run although the store cannot be written; :func:`record` leaves the store alone then.

    Args:
        job: The job.
        options: How the task's jobs are run.
        config: The settings in force.
        error: Why the store cannot be written.
        count: Counts the attempt elsewhere, and returns its number, from 1. Not called if another process runs the job.
        instead: As for :func:`claim`.
        room: As for :func:`claim`; but nobody can count now: ``limits_without_store`` in ``config`` decides.

    Returns:
        As :func:`claim`.
    """
    log.unrecorded(error)
    if running.is_running(locations.spool_dir_of(job.queue, config), job.id):
        return None
    if (instead := instead or admission.instead_of_attempt(job)) is not None:
        job_log.ended(job, instead)
        return AttemptResult(instead, recordable=False)
    if room is not None and config.limits_without_store == "wait":
        failure = Failure(f"its limit cannot be checked: {error}", type(error).__name__)
        return AttemptResult(RetryAt(clock.now() + config.retry_delay, failure), recordable=False)
    attempt = count()
    if attempt <= options.attempts:
        return Granted(attempt, attempt, recorded=False)
    outcome = Dead(Failure("no attempt is left; the last ended with its process", ending="crashed"))
    job_log.ended(job, outcome)
    return AttemptResult(outcome, recordable=False, logged=True)


def record(
    job: JobSpec, result: AttemptResult, store: Store, spool_dir: str, *, file: str | None = None
) -> State | None:
    """Record how the attempt ended, remove its files from the spool directory, wake processes that wait. Never raises.

    Args:
        job: The job.
        result: What :func:`claim` or the runner returned.
        store: Where it is recorded.
        spool_dir: The spool directory with the files of the job.
        file: The name of the job's file, if it has one.

    Returns:
        The state in which the job is because of this result; ``None``: this call has recorded nothing.
    """
    if not result.attempt and isinstance(result.outcome, RetryAt):
        return None
    # Errors are logged and none is raised: the file of a job that is done must be removed, or the job runs again.
    try:
        state = _record(job, result, store, file)
    except Exception as error:
        state = signals.state_of(result.outcome)
        if isinstance(error, StoreUnavailableError):
            log.unrecorded(error)
        else:
            log.complain(_UNRECORDED, job.id, error=error)
    try:
        _clean_up(job, result, spool_dir)
    except Exception as error:
        log.complain(_UNRECORDED, job.id, error=error)
    return state


_UNRECORDED = "the end of job %s could not be recorded; its outcome stands"


def _record(job: JobSpec, result: AttemptResult, store: Store, file: str | None) -> State | None:
    outcome = result.outcome
    if result.recordable and result.attempt:
        return store.finish(
            job,
            result.attempt,
            outcome,
            result=result.result,
            progress=result.progress,
            log=result.log,
            bill=result.bill,
        )
    if result.recordable and isinstance(outcome, Dead):
        store.refuse(job, outcome.failure, file=file)
    return None if result.was_recorded else signals.state_of(outcome)


def _clean_up(job: JobSpec, result: AttemptResult, spool_dir: str) -> None:
    if result.crashed:
        running.delete(spool_dir, job.id)
    # A dead job may be run again, and continues from there.
    if result.may_have_checkpoint and isinstance(result.outcome, (Done, Cancelled)):
        checkpoints.delete(spool_dir, job.id)
    if not isinstance(result.outcome, RetryAt):
        waiting.wake_waiters(spool_dir, job.id)


def _ask(
    job: JobSpec,
    options: TaskOptions,
    store: Store,
    path: str | None,
    arguments: bytes | None,
    instead: Cancelled | RetryAt | None,
    room: Room | None,
) -> Claim:
    if path is None:
        return store.claim(
            job,
            file=None,
            still_there=lambda: True,
            max_attempts=options.attempts,
            arguments=arguments,
            instead=instead,
            room=room,
        )
    return store.claim(
        job,
        file=path.rpartition("/")[2],
        still_there=lambda: os.access(path, os.F_OK),
        max_attempts=options.attempts,
        attempts_in_filename=spoolfile.attempts_in_filename(path),
        arguments=arguments,
        file_exists=_is_a_spool_file,
        instead=instead,
        room=room,
    )


def _is_a_spool_file(name: str) -> bool:
    """Whether a file called ``name`` is in a folder from which it can run."""
    for directory in locations.spool_dirs():
        with contextlib.suppress(OSError):
            folders = [directory, *spoolfile.priority_folders(directory)]
            if any(os.path.lexists(os.path.join(folder, name)) for folder in folders):
                return True
    return False


def _is_dead(pid: int) -> None:
    """There is no process left to kill."""
