"""How does a job of a ``@thread`` task get into the thread pool of its process, run, and how is its end recorded?"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Literal

from spoolkit import application, signals
from spoolkit.attempt import in_process, job_log
from spoolkit.coordination import commits, limits
from spoolkit.errors import QueueFull, ScheduleError, StoreUnavailableError, counted
from spoolkit.job import AnyJob, Cancelled, Failure, JobSpec, Outcome, RetryAt, replaced
from spoolkit.lifecycle import hooks
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import held, running
from spoolkit.store import Store, locations, orphans, retention, write_behind
from spoolkit.store.claims import Full
from spoolkit.system import clock, files, log
from spoolkit.system.process import PerProcess
from spoolkit.threads import context
from spoolkit.threads.pool import Call, Pool
from spoolkit.uwsgi import bridge

Overflow = Literal["raise", "spool", "run"]
"""What happens to a call if the thread pool is full: see :attr:`ThreadOptions.overflow`."""


@dataclass(frozen=True)
class ThreadOptions:
    """How the jobs of one task use the thread pool."""

    #: How many of them run at the same time in one process; ``None``: as many as the pool has threads.
    concurrency: int | None = None
    #: What happens to a call if the pool is full. The engine raises ``QueueFull`` for ``"raise"`` and ``"spool"`` (the
    #: task then passes the call to the spool engine), and runs the job in the caller for ``"run"``.
    overflow: Overflow = "raise"
    #: Whether the jobs are recorded in the store.
    track: bool = True
    #: Whether the jobs run in a copy of the caller's request.
    copy_request: bool = False


class ThreadEngine:
    """Runs jobs in the thread pool of the calling process. Every attempt gets the caller's own argument objects."""

    name = "thread"

    def __init__(self, options: ThreadOptions = ThreadOptions()) -> None:
        self._options = options

    def submit(self, job: AnyJob, declared: Declared, after_commit: object = None) -> AnyJob:
        """Put ``job`` into the pool and return it; at the commit, if it is to wait for one.

        Raises:
            ScheduleError: The job has a ``run_at``.
            ArgumentTypeError: An argument belongs to the caller's request or to its database session. Or the key of its
                limit or its rate has no supported type.
            QueueFull: The pool accepts no more jobs, and the task has no ``overflow="run"``.
            ConfigurationError: This process is the master of a server, or the task has ``copy_request=True`` and was
                called outside a request. Or it is not known for which transaction the job is to wait.
        """
        if job.run_at is not None:
            raise ScheduleError("a @thread task runs at once: declare it with @spool to use at or delay", argument="at")
        context.check_arguments(job, declared.positional)
        if declared.has_keys:
            job = replaced(job, **limits.keys_of(declared, job.args, job.kwargs))
        config = application.settings(declared.code_folder)
        pool = _pool(config)
        thread_job = ThreadJob(job, declared, self._options, config, pool)
        transaction = commits.current(after_commit, is_automatic=config.after_commit)
        if transaction is not None:
            if self._options.overflow == "run" or pool.has_room(thread_job.call):
                transaction.hold(HeldThreadJob(thread_job))
                return job
        # The pool calls announce(), once it has accepted the job: the thread that writes the rows of waiting jobs must
        # never see a job that is refused.
        elif pool.put(thread_job.call, thread_job.announce):
            signals.accepted([job])
            return job
        elif self._options.overflow == "run":
            signals.accepted([job])
            thread_job.attempt()
            return job
        reason = (
            "its process is exiting"
            if pool.closed
            else f"{counted(pool.max_waiting, 'call already waits', 'calls already wait')} for a thread"
        )
        raise QueueFull(
            f"a call of {declared.name} was refused because {reason}: increase SPOOLKIT_THREAD_QUEUE or "
            'SPOOLKIT_THREADS, or declare the task with @thread(overflow="spool")',
            limit=pool.max_waiting,
        )


class ThreadJob:
    """A job in the thread pool with all its attempts: its record, its context, and the call that the pool runs."""

    def __init__(self, job: JobSpec, declared: Declared, options: ThreadOptions, config: Settings, pool: Pool) -> None:
        self.job = job
        self.store: Store | None = locations.store(config) if options.track else None
        self.call = Call(self.attempt, declared.name, options.concurrency, tag=self, line=job.limit_key)
        if options.copy_request:
            function = context.with_request_copy(declared.function, declared.name)
            declared = replace(declared, function=function)
        self._declared = declared
        self._config = config
        self._pool = pool
        self._context: Context = context.copy_caller_context()
        self._context.run(application.choose, application.current())
        self._attempts = 0

    def announce(self) -> None:
        """Have the background writer write a row for this waiting job, unless the job starts first."""
        if self.store is not None:
            write_behind.writer().add(self.store, self.job)

    def put(self) -> bool:
        """Put the job into the pool, in which it has its place since its call. Returns whether it is there."""
        if self._pool.put(self.call, self.announce, has_place=True):
            return True
        _lose([self], "its process is exiting, or can start no thread")
        return False

    def withdraw(self) -> None:
        """Keep the background writer from writing a row for this job, which does not wait any more."""
        write_behind.writer().discard(self.job)

    def attempt(self) -> bool:
        """Run the job once, and put it into the pool again if its outcome is a retry.

        Returns:
            Whether the job waits for room under its limit, and nothing was done.
        """
        # Each attempt has its own copy of the context: it must not see what the previous one has set.
        outcome = self._context.copy().run(self._run)
        if isinstance(outcome, Full):
            return True
        if isinstance(outcome, RetryAt) and not self._pool.put_later(outcome.time - clock.now(), self.call):
            _lose([self], "its process exited before the next attempt was due")
        return False

    def _run(self) -> Outcome | Full:
        with job_log.about(self.job, self._config):
            if self.store is None:
                self._attempts += 1
                return in_process.attempt_untracked(self.job, self._declared, self._config, self._attempts).outcome
            number = self._attempts + 1
            result = in_process.attempt(
                self.job, self._declared, self.store, self._config, number, lambda: self._pool.pass_on(self.call)
            )
            if result is None:
                return Cancelled(Failure("another process runs the job"))
            if isinstance(result, Full):
                return result
            if result.attempt:  # not if it is put off because of its rate
                self._attempts = number
            retention.delete_some(self.store, locations.spool_dir(self._config), self._config)
            return result.outcome


class HeldThreadJob:
    """A job that comes into the thread pool at the commit: see :class:`~spoolkit.coordination.commits.Held`."""

    def __init__(self, thread_job: ThreadJob) -> None:
        self.jobs: Sequence[JobSpec] = [thread_job.job]
        self.spool = ""
        self.names: Sequence[str] = ()
        self._thread_job = thread_job
        held.add(self.jobs)

    def publish(self) -> None:
        """Put the job into the pool."""
        is_accepted = self._thread_job.put()
        held.remove(self.jobs)
        if is_accepted:
            signals.accepted(self.jobs)

    def discard(self) -> None:
        """Forget the job."""
        held.remove(self.jobs)

    doubt = discard


_own_pool: PerProcess[Pool] = PerProcess()
"""The pool of this process. A forked child makes its own: it has none of its parent's threads."""


def _pool(config: Settings) -> Pool:
    """Return the pool of this process; the first call makes it, with the settings of that moment."""
    pool = _own_pool.peek()
    if pool is None:
        hooks.check_serves()
        hooks.at_end(close_pool)
        if not bridge.directories():
            # The jobs are recorded in the spool directory, which nothing else creates in this process.
            with suppress(OSError):
                files.make_spool_directory(config.spool)
        pool = _own_pool.get(lambda: Pool(config.threads, config.thread_queue))
    return pool


def close_pool(deadline: clock.Deadline) -> None:
    """Wait for the thread jobs of this process until ``deadline``; record and log the others as lost.

    A later call of a task makes a new pool, which is closed in its turn when the process exits.
    """
    pool = _own_pool.peek()
    if pool is None:
        return
    if len(pool) and (left := deadline.left):
        text = "process %d is exiting: it waits up to %.0f s for %d thread jobs to finish"
        log.warning(text, os.getpid(), left, len(pool))
    reason = "its process was asked to exit, and the job did not finish within the grace period"
    _lose([call.tag for call in pool.close(deadline)], reason)
    _own_pool.discard()
    running.leave()


def _lose(thread_jobs: list[object], reason: str) -> None:
    """Log the jobs as lost and record it."""
    by_store: dict[tuple[Store, str], list[JobSpec]] = defaultdict(list)
    for thread_job in thread_jobs:
        assert isinstance(thread_job, ThreadJob)
        thread_job.withdraw()
        log.error("job %s of %s is lost: %s", thread_job.job.id, thread_job.job.task, reason)
        if thread_job.store is None:
            signals.lost([thread_job.job], reason)
        else:
            spool_dir = locations.spool_dir_of(thread_job.job.queue, thread_job._config)
            by_store[thread_job.store, spool_dir].append(thread_job.job)
    for (store, spool_dir), jobs in by_store.items():
        try:
            signals.lost(orphans.mark_own_lost(store, spool_dir, jobs, reason), reason)
        except StoreUnavailableError as error:
            log.unrecorded(error)
