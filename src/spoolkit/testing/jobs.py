"""The jobs of a test run: which ones wait, and running them in the test's own process."""

from __future__ import annotations

import os
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from spoolkit import application, registry
from spoolkit.admin import actions, lookup
from spoolkit.attempt import runner
from spoolkit.attempt.runner import Ended
from spoolkit.encoding import packet
from spoolkit.errors import (
    ConfigurationError,
    DecodeError,
    JobFailedError,
    JobStateError,
    SignatureError,
    UnknownJobError,
    UnknownTaskError,
)
from spoolkit.handle import Job
from spoolkit.job import FINISHED, Dead, Failure, Outcome, RetryAt
from spoolkit.spooldir import spoolfile
from spoolkit.spooling import engine
from spoolkit.store import locations
from spoolkit.system import sandbox

MAX_JOBS = 1000
"""Jobs that one call of :func:`run_jobs` runs: a job that enqueues itself would go on for ever."""


def waiting_jobs(task: str | None = None) -> list[Job[Any]]:
    """The jobs that wait to be run, oldest first.

    Args:
        task: Only jobs of the task with this name, such as ``shop.tasks.send_mail``.

    Returns:
        The jobs, each with its ``args`` and ``kwargs`` as the task will get them.
    """
    found = [job for path in _waiting() if (job := _read(path)) is not None and task in (None, job.task)]
    return sorted(found, key=lambda job: job.id)


def run_jobs(*, delayed: bool = False, check: bool = True) -> list[Job[Any]]:
    """Run the waiting jobs here, one attempt each, and those that they enqueue in their turn.

    They run as in a spooler: in the context of the application, with :func:`current_job`, recorded, their result kept.
    But their process is the test's, so what a test has patched is patched for them too.

    Args:
        delayed: Also run what is not due yet: jobs with ``at`` or ``delay``, and further attempts.
        check: Raise if an attempt fails. With ``False`` the test looks at ``job.state`` itself.

    Returns:
        The jobs in the order in which they ran; one that had several attempts comes several times.

    Raises:
        JobFailedError: An attempt failed by an exception, or the job is dead for another reason.
        ConfigurationError: This is no test run, or more than 1,000 jobs ran.
    """
    _require_test_run("run_jobs")
    ran: list[Job[Any]] = []
    before = -1
    # Until a round runs none: a file that cannot be read, or that another process has, stays.
    while len(ran) > before:
        before = len(ran)
        for path in [path for path in _waiting() if delayed or spoolfile.is_due(path)]:
            if len(ran) == MAX_JOBS:
                raise ConfigurationError(
                    f"run_jobs() ran {MAX_JOBS} jobs and there are more: does a job enqueue itself?"
                )
            job = _read(path)
            if job is None:
                continue
            outcome = _run(job, path)
            if outcome is not None:
                ran.append(job)
                if check:
                    _check(job, outcome)
    return ran


def clear_jobs() -> None:
    """Cancel all waiting jobs and delete all records of this test run, so that the next test begins without any.

    Raises:
        ConfigurationError: This is no test run.
    """
    _require_test_run("clear_jobs")
    for path in _waiting():
        with suppress(JobStateError, UnknownJobError):  # a thread of the test may have settled it
            actions.cancel(lookup.id_of(path))
    actions.purge(FINISHED)


def _require_test_run(what: str) -> None:
    if not sandbox.is_test_run():
        raise ConfigurationError(f"{what}() is for tests: pytest is not imported in this process")


def _waiting() -> list[str]:
    return [path for path in lookup.waiting_files() if spoolfile.id_of(os.path.basename(path))]


def _read(path: str) -> Job[Any] | None:
    content = spoolfile.peek(path)
    if content is None:
        return None
    try:
        return Job.of(packet.unpack(packet.load(content)))
    except DecodeError:
        return None


def _run(job: Job[Any], path: str) -> Outcome | None:
    """Run one attempt of the job in the file ``path`` and settle it; ``None`` if another thread has the file."""
    directory = next(one for one in lookup.directories() if path.startswith(one + os.sep))
    with spoolfile.claim(path) as fd:
        if fd is None:
            return None
        config = application.settings()
        store = locations.store(config)
        place = runner.Place(os.path.basename(path), lambda: os.path.lexists(path))
        try:
            declared = registry.find(job.task)
            declared.check(job.args, job.kwargs)
        except (UnknownTaskError, SignatureError) as error:
            dead = Dead(Failure(str(error), type(error).__name__))
            ended: Ended | None = Ended(dead, lambda: runner.refuse(job, dead, place, store))
        else:
            ended = copy_context().run(runner.attempt, replace(job, task=declared.name), declared, place, store, config)
        if ended is None:
            return None
        engine.settle(path, directory, ended, task=job.task)
        return ended.outcome


def _check(job: Job[Any], outcome: Outcome) -> None:
    match outcome:
        case Dead(failure) | RetryAt(_, failure) if failure.ending != "retry":
            error = JobFailedError(f"job {job.id} of {job.task} failed: {failure}", job=job.id, error_type=failure.type)
            if failure.traceback:
                error.add_note(failure.traceback)
            raise error
