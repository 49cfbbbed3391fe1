"""How does one attempt of a job run? It takes values and returns a value: an :class:`AttemptResult`.

It knows neither the store nor the job's file: its caller claims the job before, and records and settles it after.
"""

from __future__ import annotations

import random
import threading
import time
from functools import lru_cache
from typing import NamedTuple

from spoolkit import application, callbacks, signals
from spoolkit.attempt import billing, calling, job_log, memory, output, process_state, retry, timeouts
from spoolkit.attempt.current_job import CurrentJob, as_current_job
from spoolkit.encoding import codec
from spoolkit.errors import ArgumentError
from spoolkit.job import Bill, Cancelled, Done, Failure, JobSpec, Outcome, Progress, RetryAt, TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir.running import AttemptFile
from spoolkit.store.claims import Granted
from spoolkit.store.transitions import Result
from spoolkit.system import clock, log, task_signals


class AttemptResult(NamedTuple):
    """What is known once an attempt has ended, or once it is clear that none may start."""

    #: What follows for the job.
    outcome: Outcome
    #: Which attempt of the job ended so, from 1; 0: no attempt belongs to this outcome.
    attempt: int = 0
    #: Whether the store may be asked to record it; it is not if it could not be written when the attempt was claimed.
    recordable: bool = True
    #: The encoded return value of an attempt that is done.
    result: Result | None = None
    #: The progress that the task reported last.
    progress: Progress | None = None
    #: What the task printed and logged: its last 64 KiB.
    log: str = ""
    #: What the task broke in this process and cannot be repaired, in words; if not empty, no other job may run here.
    damage: tuple[str, ...] = ()
    #: Whether it was recorded before, by a process that died before it could do the same to the job's file.
    was_recorded: bool = False
    #: Whether the log has a line about the outcome.
    logged: bool = False
    #: Whether the attempt ended with another process, which has left its file in ``running/``.
    crashed: bool = False
    #: Whether this attempt or an earlier one may have stored a checkpoint.
    may_have_checkpoint: bool = True
    #: What the attempt took.
    bill: Bill = Bill()


def run(
    job: JobSpec,
    declared: Declared,
    start: Granted,
    config: Settings,
    *,
    attempt_file: AttemptFile | None,
    owns_process: bool = False,
) -> AttemptResult:
    """Run one attempt of ``job``. Never raises.

    Args:
        job: The job, with the arguments as the task gets them.
        declared: The task.
        start: The number of the attempt.
        config: The settings in force.
        attempt_file: Where the attempt shows its progress and its log while it runs. ``None``: the job is not tracked,
            and neither its output nor its result is kept.
        owns_process: Whether this process runs one job at a time and may be ended for it.

    Returns:
        The outcome of the attempt, and what the task left behind.
    """
    options, tracked = declared.options, attempt_file is not None
    if attempt_file is not None:
        attempt_file.begin()
    current = CurrentJob(
        job,
        attempt=start.attempt,
        max_attempts=start.attempt - start.attempt_since_reset + options.attempts,
        attempt_file=attempt_file,
    )
    if signals.attempt_started.receivers:
        signals.started(job, start.attempt, current.max_attempts)
    returned: object = None
    error: BaseException | None = None
    # Only the main thread can restore signal handlers.
    state = process_state.State() if owns_process and threading.current_thread() is threading.main_thread() else None
    began = job_log.started(job, start.attempt, current.max_attempts, tracked=tracked)
    meter = billing.start(owns_process=state is not None) if tracked else None
    try:
        limit = None if options.timeout is None else options.timeout + config.timeout_grace
        with (
            timeouts.hard(limit, -1 if attempt_file is None else attempt_file.fd) if owns_process else calling.NOTHING,
            calling.NOTHING if attempt_file is None else output.to(attempt_file.write),
            calling.soft_limit(declared),
            application.context(job.app),
            as_current_job(current),
            # A spooler has said so itself, for all of its threads.
            calling.NOTHING if owns_process else task_signals.job(),
        ):
            try:
                if callbacks.this_process.has_any or options.memory:
                    returned = _call_in_hooks(current, declared, options.memory if owns_process else None)
                else:
                    returned = calling.call(declared, job.args, job.kwargs)
            finally:
                if state is not None:
                    state.stop_alarm()
    except BaseException as raised:  # sys.exit() in a task is a failure of the task
        error = calling.without_own_frames(raised)
    bill = Bill() if meter is None else meter.bill()
    # Before anything is logged or recorded, which must not see the environment, the streams and the limits of the task.
    damage = [] if state is None else state.restore()
    outcome = _decide(options, start.attempt_since_reset, returned, error)
    # A task that stopped because it was asked to is not done, and a job that somebody cancelled is not tried again.
    if isinstance(outcome, RetryAt) and attempt_file is not None and attempt_file.cancel_asked:
        outcome = Cancelled(outcome.failure)
    elif isinstance(outcome, Done) and current._saw_cancellation:
        outcome = Cancelled(Failure("the task stopped when it was asked to", ending="cancelled"))
    if attempt_file is not None and attempt_file.is_lost:
        damage.append(process_state.CLOSED)
    process_state.stop_log_handlers_if_closed(damage)
    took = job_log.Took(start.attempt, current.max_attempts, time.monotonic() - began)
    job_log.ended(job, outcome, error, took, tracked=tracked)
    if state is not None and (names := state.threads_left()):
        job_log.threads_left(job, names)
    if damage and owns_process:
        job_log.replaced(f"job {job.id} of {job.task}", damage)
    elif damage:
        job_log.damaged(job, damage)
    value, progress, text = _details(job, outcome, attempt_file, config.max_result)
    return AttemptResult(
        *(outcome, start.attempt, start.recorded, value, progress, text, tuple(damage)),
        logged=True,
        may_have_checkpoint=start.attempt > 1 or current._has_used_checkpoint,
        bill=bill,
    )


def _call_in_hooks(job: JobSpec, declared: Declared, more: int | None) -> object:
    """Call the task within the hooks of the application, and with ``more`` bytes of memory, if that is a number."""

    def call() -> object:
        # Innermost: what follows the task must not lack memory.
        with memory.limited(more) if more else calling.NOTHING:
            return calling.call(declared, job.args, job.kwargs)

    if not (hooks := application.own_callbacks().around_attempt):
        return call()
    with calling.no_child():
        return callbacks.around(hooks, job, call)


def _decide(options: TaskOptions, attempt: int, returned: object, error: BaseException | None) -> Outcome:
    now, jitter = clock.now(), random.random()  # noqa: S311 - spreads retries, guards nothing
    try:
        return retry.decide(options, attempt, returned, error, now=now, jitter=jitter)
    except BaseException as unreadable:  # the exception is an object of the task's own making
        failure = Failure("the task raised an exception that cannot be read", type(unreadable).__name__)
        return retry.after_failure(options, attempt, failure, now=now, jitter=jitter)


def _details(
    job: JobSpec, outcome: Outcome, attempt_file: AttemptFile | None, max_result: int
) -> tuple[Result | None, Progress | None, str]:
    """What the task of a tracked job returned, reported and printed. Never raises."""
    value, progress = None, None
    if attempt_file is None:
        return None, None, ""
    try:
        value = _encode(outcome.result, max_result) if isinstance(outcome, Done) else None
        progress = attempt_file.last_progress
        return value, progress, attempt_file.log()
    except Exception as error:
        # The outcome stands without them. If it were lost, a job that is done would run again.
        log.complain("the result or the log of job %s could not be read; its outcome stands", job.id, error=error)
    return value, progress, ""


@lru_cache(maxsize=1)
def _nothing() -> Result:
    return Result(codec.encode(None))


def _encode(value: object, limit: int) -> Result:
    if value is None:
        return _nothing()
    try:
        data = codec.encode(value)
    except ArgumentError as error:
        return Result(error=f"the result cannot be kept: {error}")
    except BaseException as error:  # of an encoder of the application's own
        return Result(error=f"the result cannot be kept: {type(error).__name__}: {retry.message_of(error)}")
    if len(data) > limit:
        return Result(error=f"the result takes {len(data)} bytes; the limit is {limit} (SPOOLKIT_MAX_RESULT)")
    return Result(data)
