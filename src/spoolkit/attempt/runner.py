"""One attempt: claimed, run in an application context with ``current_job()``, recorded. Knows no engine."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from spoolkit import application
from spoolkit.attempt import calling, job_log, output, process_state, retry, timeouts
from spoolkit.attempt.current_job import CurrentJob, running
from spoolkit.encoding import codec
from spoolkit.errors import ArgumentError, StoreUnavailableError
from spoolkit.job import Cancelled, Dead, Done, Failure, JobSpec, Outcome, Progress, RetryAt, TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, waiting
from spoolkit.spooldir import running as recorder
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.spooldir.running import Recorder
from spoolkit.store import Store, interruption, locations
from spoolkit.store.claims import AlreadySettled, Granted, InUse, PreviousCrashed
from spoolkit.store.transitions import Result
from spoolkit.system import clock, log, task_signals


@dataclass(frozen=True)
class Place:
    """Where a job lies: what its engine knows of it and the runner asks.

    ``file``   the name of its file, if it has one
    ``still``  whether the file has that name now
    ``count``  counts the attempt where the store cannot: gives how many there are then
    ``counted``  how many attempts were counted so before
    ``lies``   whether a file of that name, of the same job, is there
    ``owned``  whether this process runs one job at a time, and may be ended for it
    """

    file: str | None = None
    still: Callable[[], bool] = lambda: True
    count: Callable[[], int] = lambda: 1
    counted: int = 0
    owned: bool = False
    lies: Callable[[str], bool] = lambda name: False


@dataclass(frozen=True)
class Ended:
    """What follows from an attempt, and :meth:`record`, which writes it down and never raises.

    ``spoiled``  whether the task has left a process in which no other can run
    ``logged``   whether the log has it
    """

    outcome: Outcome
    record: Callable[[], None] = lambda: None
    spoiled: bool = False
    logged: bool = False


def attempt(
    job: JobSpec, declared: Declared, place: Place, store: Store, config: Settings, arguments: bytes | None = None
) -> Ended | None:
    """Run ``job`` once, if it may, and say what follows; ``None`` where another process is at it. Never raises.

    ``arguments`` are the job's in the codec's bytes, for the record.
    """
    options = declared.options
    spool_dir, marks_dir = locations.spool_dir_of(job.queue, config), locations.directory(config)
    claimed = partial(
        store.claim,
        job,
        file=place.file,
        still_there=place.still,
        max_attempts=options.attempts,
        attempts_in_filename=place.counted,
        arguments=arguments,
        file_exists=place.lies,
    )
    try:
        claim = claimed()
        if isinstance(claim, PreviousCrashed) and interruption.was_marked(marks_dir, claim.pid, claim.identity):
            left = partial(_left, config)
            interruption.interrupt(store, [claim.pid], kill=_nobody, left=left)
            # Not before: the mark is all that is known of the stop until then.
            interruption.unmark(marks_dir, claim.pid)
            claim = claimed()
    except StoreUnavailableError as error:
        log.unrecorded(error)
        if recorder.is_running(spool_dir, job.id):
            return None
        number = place.count()
        if number > options.attempts:
            dead = Dead(Failure("no attempt is left; the last ended with its process", ending="crashed"))
            return _logged(job, dead)
        return _run(job, declared, Granted(number, number), place, None, spool_dir, config)
    match claim:
        case InUse(copied):
            if copied is not None:
                log.complain("%s is a copy of %s, by which its job runs: it is left alone", place.file, copied)
            return None
        case AlreadySettled(Dead() as outcome):
            return _logged(job, outcome, lambda: refuse(job, outcome, place, store, config))
        case AlreadySettled(outcome):
            return Ended(outcome, lambda: refuse(job, outcome, place, store, config))
        case PreviousCrashed():
            return _after_crash(job, declared, claim, store, spool_dir)
        case Granted():
            return _run(job, declared, claim, place, store, spool_dir, config)


def _left(config: Settings, id: str, queue: str | None) -> tuple[Progress | None, str]:
    return recorder.read(locations.spool_dir_of(queue, config), id)


def _nobody(pid: int) -> None:
    """The process is dead."""


def attempt_untracked(job: JobSpec, declared: Declared, number: int = 1) -> Outcome:
    """Run ``job`` for the ``number``-th time, without a record of it, and say what follows. Never raises."""
    options = declared.options
    current = CurrentJob(**vars(job), attempt=number, max_attempts=options.attempts)
    returned: object = None
    error: BaseException | None = None
    began = job_log.started(job, number, options.attempts, tracked=False)
    try:
        limit = calling.soft_limit(declared.function, options.timeout)
        with limit, application.context(job.app), running(current), task_signals.job():
            returned = calling.call(declared.function, job.args, job.kwargs, options.timeout)
    except BaseException as raised:
        error = calling.without_own_frames(raised)
    outcome = _decided(options, number, returned, error)
    job_log.ended(job, outcome, error, job_log.took(number, options.attempts, began), tracked=False)
    return outcome


def refuse(job: JobSpec, outcome: Outcome, place: Place, store: Store, config: Settings) -> None:
    """Record a job as dead that has no attempt to be recorded with. Never raises."""
    if isinstance(outcome, Dead):
        _recorded(lambda: store.refuse(job, outcome.failure, file=place.file))
        waiting.wake_waiters(locations.spool_dir_of(job.queue, config), job.id)


def _run(
    job: JobSpec,
    declared: Declared,
    start: Granted,
    place: Place,
    store: Store | None,
    spool_dir: str,
    config: Settings,
) -> Ended:
    options = declared.options
    show = Recorder(spool_dir, job.id)
    most = start.attempt - start.attempt_since_reset + options.attempts
    kept = Checkpoint(spool_dir, job.id)
    current = CurrentJob(**vars(job), attempt=start.attempt, max_attempts=most, _recorder=show, _kept=kept)
    returned: object = None
    error: BaseException | None = None
    before = _state_before(place)
    began = job_log.started(job, start.attempt, most)
    try:
        with ExitStack() as within:
            if place.owned:
                limit = None if options.timeout is None else options.timeout + config.timeout_grace
                within.enter_context(timeouts.hard(limit, show.fd))
            within.enter_context(output.to(show.write))
            within.enter_context(calling.soft_limit(declared.function, options.timeout))
            within.enter_context(application.context(job.app))
            within.enter_context(running(current))
            if before is not None:
                within.callback(process_state.stop_alarm)  # of the task's own, which would ring in what follows
            within.enter_context(task_signals.job())
            returned = calling.call(declared.function, job.args, job.kwargs, options.timeout)
    except BaseException as raised:  # sys.exit() in a task is a failure of the task
        error = calling.without_own_frames(raised)
    # Before anything is logged or recorded: by the environment, the streams and the limits of the task.
    beyond_repair = [] if before is None else before.restore()
    outcome = _decided(options, start.attempt_since_reset, returned, error)
    # Whoever stopped because he was asked to is not done; and what nobody wants any more is not tried again.
    if isinstance(outcome, RetryAt) and show.cancelled:
        outcome = Cancelled(outcome.failure)
    elif isinstance(outcome, Done) and current._told:
        outcome = Cancelled(Failure("the task stopped when it was asked to", ending="cancelled"))
    if show.is_lost:
        beyond_repair.append(process_state.CLOSED)
    if process_state.CLOSED in beyond_repair or process_state.STANDARD_ERROR in beyond_repair:
        # Other files may have their numbers by now: the site's log files', for instance.
        log.distrust_handlers(standard_error=process_state.STANDARD_ERROR not in beyond_repair)
    job_log.ended(job, outcome, error, job_log.took(start.attempt, most, began))
    if before is not None and (names := before.threads_left()):
        job_log.threads_left(job, names)
    if beyond_repair and place.owned:
        job_log.replaced(f"job {job.id} of {job.task}", beyond_repair)
    elif beyond_repair:
        job_log.damaged(job, beyond_repair)
    record = partial(_recorded, partial(_end, job, start.attempt, outcome, show, store, spool_dir, config))
    return Ended(outcome, record, spoiled=bool(beyond_repair), logged=True)


def _state_before(place: Place) -> process_state.State | None:
    """How this process is, where the attempt may not change it."""
    owned = place.owned and threading.current_thread() is threading.main_thread()
    return process_state.State() if owned else None


def _decided(options: TaskOptions, attempt: int, returned: object, error: BaseException | None) -> Outcome:
    now, jitter = clock.now(), random.random()  # noqa: S311 - spreads retries, guards nothing
    try:
        return retry.decide(options, attempt, returned, error, now=now, jitter=jitter)
    except BaseException as odd:  # the exception is an object of the task's own making
        failure = Failure("the task raised what cannot be read", type(odd).__name__)
        return retry.after_failure(options, attempt, failure, now=now, jitter=jitter)


def _after_crash(job: JobSpec, declared: Declared, crash: PreviousCrashed, store: Store, spool_dir: str) -> Ended:
    progress, left = recorder.read(spool_dir, job.id)
    failure = _what_killed(crash, left, limited=declared.options.timeout is not None)
    now, jitter = clock.now(), random.random()  # noqa: S311 - as above
    if crash.cancel_asked:
        outcome: Outcome = Cancelled(Failure(failure.message, failure.type, ending="cancelled"))
    else:
        outcome = retry.after_failure(declared.options, crash.attempt_since_reset, failure, now=now, jitter=jitter)

    def record() -> None:
        _recorded(lambda: store.finish(job, crash.attempt, outcome, progress=progress, log=left))
        recorder.delete(spool_dir, job.id)
        _announce(job, outcome, spool_dir)

    return _logged(job, outcome, record)


def _what_killed(crash: PreviousCrashed, left: str, *, limited: bool) -> Failure:
    """What is known of the end of a process that could not say anything itself."""
    who = f"process {crash.pid}, in attempt {crash.attempt}"
    for mark, ending in ((timeouts.CRASH_MARK, "crashed"), (timeouts.TIMEOUT_MARK, "timeout")):
        at = left.rfind(f"\n{mark}") + 1 if not left.startswith(mark) else 0
        if (at or left.startswith(mark)) and (limited or ending == "crashed"):
            what = left[at:].splitlines()[0].removeprefix(mark).rstrip("!")
            if ending == "timeout":
                message = f"{who}, was killed at its hard limit (after {what.rstrip(')')})"
                return Failure(message, "JobTimeout", left[at:], "timeout")
            return Failure(f"{who}, died: {what}", what, left[at:], "crashed")
    message = f"{who}, died without a word: kill -9, out of memory, os._exit(), or a stop of the server"
    return Failure(message, None, None, "crashed")


def _end(
    job: JobSpec, number: int, outcome: Outcome, show: Recorder, store: Store | None, spool_dir: str, config: Settings
) -> None:
    """Write down how the attempt ended."""
    result = _result(outcome, config.max_result) if isinstance(outcome, Done) else None
    if store is not None:
        kept = show.log()
        _recorded(lambda: store.finish(job, number, outcome, result=result, progress=show.last, log=kept))
    show.close()
    if isinstance(outcome, (Done, Cancelled)):  # a dead job may be run again, and goes on from there
        checkpoints.delete(spool_dir, job.id)
    _announce(job, outcome, spool_dir)


def _announce(job: JobSpec, outcome: Outcome, spool_dir: str) -> None:
    if not isinstance(outcome, RetryAt):
        waiting.wake_waiters(spool_dir, job.id)


def _result(done: Done, limit: int) -> Result:
    try:
        data = codec.encode(done.result)
    except ArgumentError as error:
        return Result(error=f"the result cannot be kept: {error}")
    except BaseException as error:  # of an encoder of the application's own
        return Result(error=f"the result cannot be kept: {type(error).__name__}: {retry.message_of(error)}")
    if len(data) > limit:
        return Result(error=f"the result takes {len(data)} bytes; the limit is {limit} (SPOOLKIT_MAX_RESULT)")
    return Result(data)


def _logged(job: JobSpec, outcome: Outcome, record: Callable[[], None] = lambda: None) -> Ended:
    job_log.ended(job, outcome)
    return Ended(outcome, record, logged=True)


def _recorded(write: Callable[[], Any]) -> None:
    try:
        write()
    except StoreUnavailableError as error:
        log.unrecorded(error)
    except Exception as error:
        # Whoever settles must get to the file: a job that is done would run again.
        log.complain("the end of a job could not be recorded", error=error)
