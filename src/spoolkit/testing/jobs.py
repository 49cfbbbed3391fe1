"""Which jobs of a test run are waiting, and how does a test run or clear them in its own process?"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from spoolkit import application
from spoolkit.admin import actions, lookup
from spoolkit.coordination import pauses
from spoolkit.encoding import batch, packet
from spoolkit.errors import (
    ConfigurationError,
    DecodeError,
    JobFailedError,
    JobStateError,
    UnknownJobError,
)
from spoolkit.handle import Job
from spoolkit.job import FINISHED, Dead, Outcome, RetryAt
from spoolkit.spooldir import chunks, gate, parked, spoolfile
from spoolkit.spooling import batch_jobs
from spoolkit.spooling.execute import SpoolFileRef, execute_job
from spoolkit.store import locations
from spoolkit.system import sandbox

MAX_JOBS = 1000
"""How many jobs one call of :func:`run_jobs` runs, at most: a job that enqueues itself would never end."""


def waiting_jobs(task: str | None = None) -> list[Job[Any]]:
    """Return the jobs that wait to run, oldest first.

    Args:
        task: Return only jobs of the task with this name, such as ``shop.tasks.send_mail``.

    Returns:
        The jobs, each with its ``args`` and ``kwargs`` as the task will receive them.

    Raises:
        NewerJobError: A job is of a newer version of spoolkit, and cannot be run by this one.
    """
    found = [job for path in _waiting() if (job := _read(path)) is not None and task in (None, job.task)]
    return sorted(found, key=lambda job: job.id)


def run_jobs(*, delayed: bool = False, check: bool = True) -> list[Job[Any]]:
    """Run the waiting jobs in this process, one attempt each, and then the jobs that they have enqueued.

    They run as in a spooler: in an application context, with :func:`current_job`, and their results are stored. Because
    they run in the process of the test, they see whatever the test has patched.

    Args:
        delayed: Also run jobs that are not due yet: those with ``at`` or ``delay``, and further attempts.
        check: Raise an error if an attempt fails. With ``False``, the test can look at ``job.state`` itself.

    Returns:
        The jobs in the order in which they ran; a job that had several attempts is in the list several times.

    Raises:
        JobFailedError: An attempt raised an exception, or the job is dead for another reason.
        NewerJobError: A job is of a newer version of spoolkit, and cannot be run by this one.
        ConfigurationError: pytest is not imported in this process, or more than 1,000 jobs ran.
    """
    _require_test_run("run_jobs")
    ran: list[Job[Any]] = []
    before = -1
    # Repeat until a round runs no job, not until no file is left: unreadable files and those of other processes stay.
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
            if job.task == batch.TASK:
                if _is_expanded(path):
                    before = -1  # its members wait now
                continue
            outcome = _run(job, path)
            if outcome is not None:
                ran.append(job)
                if check:
                    _check(job, outcome)
    return ran


def clear_jobs() -> None:
    """Cancel all waiting jobs, delete all records of this test run, resume paused tasks: the next test starts anew.

    Raises:
        ConfigurationError: pytest is not imported in this process.
    """
    _require_test_run("clear_jobs")
    for _ in range(2):  # the last member of a batch that is cancelled leaves the callback
        for path in _waiting():
            with suppress(JobStateError, UnknownJobError):  # a thread of the test may have settled the job
                actions.cancel(lookup.id_of(path))
    for spool_dir in lookup.directories():
        for task in gate.paused_tasks(spool_dir).values():
            pauses.resume(spool_dir, task)
    actions.purge(FINISHED)


def _require_test_run(function: str) -> None:
    if not sandbox.is_test_run():
        raise ConfigurationError(f"{function}() is for tests only, and pytest is not imported in this process")


def _waiting() -> list[str]:
    """The files of the jobs that wait, in the order in which a spooler runs them; the delayed ones come last."""
    found: list[str] = []
    for spool_dir in filter(os.path.isdir, lookup.directories()):
        for path in filter(chunks.is_chunk, spoolfile.pending(spool_dir)):
            chunks.expand_unlocked(path, spool_dir)
        for folder in (spool_dir, os.path.join(spool_dir, spoolfile.LATER)):
            found += spoolfile.scanned(folder) if os.path.isdir(folder) else []
        found += parked.paths(spool_dir)
    return [path for path in found if spoolfile.id_of(os.path.basename(path))]


def _read(path: str) -> Job[Any] | None:
    content = spoolfile.peek(path)
    if content is None:
        return None
    try:
        return Job.of(packet.unpack(packet.load(content)))
    except DecodeError:
        return None


def _is_expanded(path: str) -> bool:
    """Enqueue the members of a batch whose commit could not do so. Returns whether that was possible."""
    with spoolfile.claim_to_run(path) as fd:
        if fd is not None:
            batch_jobs.expand(path, packet.load(spoolfile.read(fd)), application.settings())
    return not os.path.lexists(path)


def _run(job: Job[Any], path: str) -> Outcome | None:
    """Run one attempt of the job in the file ``path`` and settle it; ``None`` if another thread has the file."""
    spool_dir = next(spool_dir for spool_dir in lookup.directories() if path.startswith(spool_dir + os.sep))
    with spoolfile.claim_to_run(path) as fd:
        if fd is None:
            return None
        config = application.settings()
        content = packet.load(spoolfile.read(fd))
        file = SpoolFileRef(path, spool_dir)
        result = execute_job(job, content, file, locations.store(config), config, working_directory=None)
        return None if result is None else result.outcome


def _check(job: Job[Any], outcome: Outcome) -> None:
    match outcome:
        case Dead(failure) | RetryAt(_, failure) if failure.ending != "retry":
            error = JobFailedError(f"job {job.id} of {job.task} failed: {failure}", job=job.id, error_type=failure.type)
            if failure.traceback:
                error.add_note(failure.traceback)
            raise error
