"""Which signals does spoolkit send, when, and in which process? Blinker's signals, as Flask's own.

Each is sent after what it says is recorded. The sender is the name of the task, so that ``signal.connect(receiver,
sender="tasks.export")`` hears of one task only. Beside what is listed here, a receiver gets ``job``, a
:class:`~spoolkit.job.JobSpec`: it has no arguments where the sending process knows the job by its record alone.

What a receiver raises is logged, and changes nothing for the job. Where nothing has connected to a signal, it costs one
look at its list of receivers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from blinker import NamedSignal, Namespace

from spoolkit import application, callables
from spoolkit.errors import JobTimeout
from spoolkit.job import AnyJob, Cancelled, Dead, Done, Failure, JobSpec, Outcome, RetryAt, State
from spoolkit.system import log, watch

_signals = Namespace()

#: A job was accepted. In the process that makes the call, or that writes the next job of a chain or the callback of a
#: batch. Not for a run that follows from a schedule.
job_accepted = _signals.signal("job-accepted")

#: An attempt is about to run. In the process that runs it. Gets ``attempt``, from 1, and ``max_attempts``.
attempt_started = _signals.signal("attempt-started")

#: An attempt has ended. In the process that ran it; if that is gone, in the one that records it. Gets ``attempt``,
#: ``ending`` (``"done"`` or an :data:`~spoolkit.job.Ending`), and ``failure``, a :class:`~spoolkit.job.Failure` or
#: ``None``.
attempt_ended = _signals.signal("attempt-ended")

#: A job is done. In the process that ran it. Gets ``result``, what the task returned.
job_done = _signals.signal("job-done")

#: A job is dead. In the process that ran it, or that found that it cannot run. Gets ``failure``.
job_dead = _signals.signal("job-dead")

#: A job was cancelled, is pointless, or has expired, or a run of a schedule was skipped. In the process that ran it,
#: cancelled it, or found so. Gets ``failure``.
job_cancelled = _signals.signal("job-cancelled")

#: A job without a file is lost with its process. In that process, or in the one that finds it gone. Gets ``failure``.
job_lost = _signals.signal("job-lost")

#: A stop of the server has cut an attempt short, and the job runs again. In the process that stops, or in the spooler
#: that finds the job afterwards. Gets ``attempt``.
job_interrupted = _signals.signal("job-interrupted")


def accepted(jobs: Iterable[AnyJob]) -> None:
    """Send :data:`job_accepted` for those of ``jobs`` that are new."""
    if job_accepted.receivers:
        for job in jobs:
            if not job.duplicate:
                _send(job_accepted, job)


def started(job: JobSpec, attempt: int, max_attempts: int) -> None:
    """Send :data:`attempt_started`, in the process of the attempt and before its time limit begins."""
    _send(attempt_started, job, in_attempt=True, attempt=attempt, max_attempts=max_attempts)


def ended(job: JobSpec, attempt: int, outcome: Outcome, state: State | None) -> None:
    """Send what follows from the end of an attempt, in the process of the attempt and after its time limit.

    Args:
        job: The job.
        attempt: The number of the attempt; 0: the outcome belongs to none.
        outcome: What became of the job.
        state: The state that was recorded. ``None``: another process has recorded how the attempt ended.
    """
    if state is None or (state is State.DONE and not (job_done.receivers or attempt_ended.receivers)):
        return
    failure = None if isinstance(outcome, Done) else outcome.failure
    if attempt and attempt_ended.receivers:
        ending = "done" if failure is None else failure.ending
        _send(attempt_ended, job, in_attempt=True, attempt=attempt, ending=ending, failure=failure)
    if state is State.DONE:
        if job_done.receivers:
            _send(job_done, job, in_attempt=True, result=outcome.result if isinstance(outcome, Done) else None)
    elif (signal := _OF_STATE.get(state)) is not None and signal.receivers:
        _send(signal, job, in_attempt=True, failure=failure)


_OF_STATE = {State.DEAD: job_dead, State.CANCELLED: job_cancelled}


def state_of(outcome: Outcome) -> State:
    """The state of a job with this outcome."""
    match outcome:
        case Done():
            return State.DONE
        case RetryAt():
            return State.RETRYING
        case Dead():
            return State.DEAD
        case Cancelled():
            return State.CANCELLED


def cancelled(job: JobSpec, failure: Failure, *, attempt: int = 0) -> None:
    """Send that somebody cancelled a job, and that its process was killed in an attempt, if it was."""
    if attempt and attempt_ended.receivers:
        _send(attempt_ended, job, attempt=attempt, ending=failure.ending, failure=failure)
    if job_cancelled.receivers:
        _send(job_cancelled, job, failure=failure)


def lost(jobs: Iterable[JobSpec], reason: str) -> None:
    """Send :data:`job_lost` for each of ``jobs``."""
    if job_lost.receivers:
        for job in jobs:
            _send(job_lost, job, failure=Failure(reason))


def interrupted(job: JobSpec, attempt: int, failure: Failure, state: State) -> None:
    """Send that a stop of the server has cut an attempt short, after which the job is in ``state``."""
    if attempt_ended.receivers:
        _send(attempt_ended, job, attempt=attempt, ending=failure.ending, failure=failure)
    if job_interrupted.receivers:
        _send(job_interrupted, job, attempt=attempt)
    if state is State.CANCELLED and job_cancelled.receivers:
        _send(job_cancelled, job, failure=failure)


def _send(signal: NamedSignal, job: JobSpec, *, in_attempt: bool = False, **values: Any) -> None:
    """Call the receivers of ``signal``, one after the other.

    Args:
        signal: The signal.
        job: The job that it is about.
        in_attempt: Whether this process runs the job, and nothing else asks this thread to stop: what a receiver raises
            must not become the job's, whatever it is. Elsewhere a request to exit goes through, and so does the time
            limit of a task that makes a call.
        values: What a receiver gets beside the job.
    """
    if signal.is_muted:
        return
    for receiver in list(signal.receivers_for(job.task)):
        try:
            with application.context(job.app), _watched(receiver, signal) if in_attempt else nullcontext():
                returned = receiver(job.task, job=job, **values)
                if inspect.iscoroutine(returned):
                    returned.close()
                    raise TypeError("a receiver must not be async: nothing awaits it")
        except BaseException as error:
            if not in_attempt and (isinstance(error, JobTimeout) or not isinstance(error, Exception)):
                raise
            # The name is part of the text, by which complaints are counted: one signal must not hide another.
            log.complain(f"a receiver of the signal {signal.name} failed; the job is as it was", error=error)


def _watched(receiver: object, signal: NamedSignal) -> watch.watching:
    """Have a receiver named in the log that runs for long: the jobs after this one wait for it."""
    return watch.watching(f"the receiver {callables.name(receiver)} of the signal {signal.name}")
