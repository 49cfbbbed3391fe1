"""How did an attempt end whose process died before it could record anything?"""

from __future__ import annotations

import random

from spoolkit.attempt import job_log, retry, timeouts
from spoolkit.attempt.runner import AttemptResult
from spoolkit.job import Cancelled, Failure, JobSpec, Outcome, Progress, TaskOptions
from spoolkit.store.claims import PreviousCrashed
from spoolkit.system import clock


def result_of(
    job: JobSpec,
    options: TaskOptions,
    crash: PreviousCrashed,
    progress: Progress | None,
    text: str,
    killed: str | None = None,
) -> AttemptResult:
    """What follows from a crash, which is also logged.

    Args:
        job: The job.
        options: How the task's jobs are run.
        crash: What the store knows of the attempt.
        progress: The progress that the attempt reported last.
        text: The log that the attempt left behind, with the traceback that ``faulthandler`` wrote, if it did.
        killed: How the kernel has ended the process, if it has: see :func:`spoolkit.system.cgroup.explanation`.

    Returns:
        The result of the attempt, to be recorded.
    """
    failure = _failure(crash, text, killed, has_limit=options.timeout is not None)
    outcome: Outcome
    if crash.cancel_asked:
        outcome = Cancelled(Failure(failure.message, failure.type, ending="cancelled"))
    else:
        jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
        outcome = retry.after_failure(options, crash.attempt_since_reset, failure, now=clock.now(), jitter=jitter)
    job_log.ended(job, outcome)
    return AttemptResult(outcome, crash.attempt, progress=progress, log=text, logged=True, crashed=True)


def _failure(crash: PreviousCrashed, text: str, killed: str | None, *, has_limit: bool) -> Failure:
    process = f"process {crash.pid}, in attempt {crash.attempt}"
    for mark, ending in ((timeouts.CRASH_MARK, "crashed"), (timeouts.TIMEOUT_MARK, "timeout")):
        start = text.rfind(f"\n{mark}") + 1 if not text.startswith(mark) else 0
        if (start or text.startswith(mark)) and (has_limit or ending == "crashed"):
            reason = text[start:].splitlines()[0].removeprefix(mark).rstrip("!")
            if ending == "timeout":
                message = f"{process}, was killed at its hard limit (after {reason.rstrip(')')})"
                return Failure(message, "JobTimeout", text[start:], "timeout")
            return Failure(f"{process}, died: {reason}", reason, text[start:], "crashed")
    if killed is not None:
        return Failure(f"{process}, {killed}", None, None, "crashed")
    message = f"{process}, died without leaving a reason: kill -9, out of memory, os._exit(), or a stop of the server"
    return Failure(message, None, None, "crashed")
