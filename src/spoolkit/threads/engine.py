"""``@thread``: a bounded pool of threads in the calling process runs the jobs, which are lost with the process."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Literal

from spoolkit import application
from spoolkit.attempt import runner
from spoolkit.errors import QueueFull, ScheduleError, StoreUnavailableError
from spoolkit.job import Cancelled, Failure, Job, Outcome, RetryAt
from spoolkit.lifecycle import hooks
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.store import locations, orphans, retention, write_behind
from spoolkit.store.transitions import Store
from spoolkit.system import clock, files, log
from spoolkit.threads import context
from spoolkit.threads.pool import Call, Pool
from spoolkit.uwsgi import bridge

Overflow = Literal["raise", "spool", "run"]


@dataclass(frozen=True)
class ThreadOptions:
    """How the jobs of a task use the pool.

    ``concurrency``   how many of them run at once in one process; ``None``: as many as there are threads
    ``overflow``      what becomes of a call where the queue is full: it is refused, goes to the spooler, or is run in
                      the caller
    ``track``         whether they are recorded
    ``copy_request``  whether they run within a copy of the caller's request
    """

    concurrency: int | None = None
    overflow: Overflow = "raise"
    track: bool = True
    copy_request: bool = False


class ThreadEngine:
    """Jobs in a pool of this process. Arguments are handed over as they are, to every attempt."""

    name = "thread"

    def __init__(self, options: ThreadOptions = ThreadOptions()) -> None:
        self._options = options

    def submit(self, job: Job, declared: Declared) -> Job:
        """Put ``job`` into the pool.

        Raises :class:`ScheduleError` for a job with ``run_at``, :class:`ArgumentTypeError` for an argument that belongs
        to the request, :class:`QueueFull`.
        """
        if job.run_at is not None:
            raise ScheduleError("a thread runs at once: for at or delay declare the task with @spool", argument="at")
        context.check(job, declared.positional)
        config = application.settings(declared.home)
        pool = _pool(config)
        waiting = _Waiting(job, declared, self._options, config, pool)
        # Noted by the pool: a call that is refused must not be seen by who writes the rows, even for a moment.
        if pool.put(waiting.call, waiting.noted):
            return job
        if self._options.overflow == "run":
            waiting.attempt()
            return job
        why = "its process ends" if pool.closed else f"{pool.room} calls wait for a thread already"
        raise QueueFull(
            f"{declared.name} was not accepted, {why}: raise SPOOLKIT_THREAD_QUEUE or SPOOLKIT_THREADS, or declare it "
            'with @thread(overflow="spool")',
            limit=pool.room,
        )


class _Waiting:
    """A job in the pool, until it is over."""

    def __init__(self, job: Job, declared: Declared, options: ThreadOptions, config: Settings, pool: Pool) -> None:
        self.job = job
        self.store: Store | None = locations.store(config) if options.track else None
        self.call = Call(self.attempt, declared.name, options.concurrency, subject=self)
        if options.copy_request:
            function = context.with_request(declared.function, declared.name)
            declared = replace(declared, function=function)
        self._declared = declared
        self._config = config
        self._pool = pool
        self._context: Context = context.context()
        self._context.run(application.choose, application.current())
        self._number = 0

    def noted(self) -> None:
        if self.store is not None:
            write_behind.here().add(self.store, self.job)

    def unnoted(self) -> None:
        write_behind.here().discard(self.job)

    def attempt(self) -> None:
        """Run the job once, and have it run again later if it is to."""
        self._number += 1
        # Each attempt has its own copy: it must not see what the one before it has set.
        outcome = self._context.copy().run(self._run)
        if isinstance(outcome, RetryAt) and not self._pool.put_later(outcome.time - clock.now(), self.call):
            _lose([self], "its process ended before it could be tried again")

    def _run(self) -> Outcome:
        with log.about(self.job.id, self.job.task):
            return self._run_here()

    def _run_here(self) -> Outcome:
        if self.store is None:
            return runner.attempt_untracked(self.job, self._declared, self._number)
        place = runner.Place(count=lambda: self._number)
        try:
            ended = runner.attempt(self.job, self._declared, place, self.store, self._config)
        finally:
            self.unnoted()
        if ended is None:
            return Cancelled(Failure("another process has it"))
        ended.record()
        retention.a_little(self.store, locations.directory(self._config), self._config)
        return ended.outcome


_pools: dict[int, Pool] = {}


def _pool(config: Settings) -> Pool:
    """The pool of this process, which the first call makes."""
    # By pid: uWSGI forks without telling Python, and no thread comes along.
    pool = _pools.get(os.getpid())
    if pool is None:
        hooks.check_stays()
        hooks.at_end(drain)
        if not bridge.directories():
            # Nobody else makes the directory in which the jobs are recorded.
            with suppress(OSError):
                files.make_spool_directory(config.spool)
        pool = _pools.setdefault(os.getpid(), Pool(config.threads, config.thread_queue))
    return pool


def drain(deadline: clock.Deadline) -> None:
    """Wait for the jobs there are, up to ``deadline``. What is left is lost, and said to be.

    A call after that finds a new pool, which is drained in its turn where the process goes on to its end.
    """
    pool = _pools.get(os.getpid())
    if pool is None:
        return
    if len(pool) and (left := deadline.left):
        log.warning("process %d ends: %d jobs in threads get %.0f s to finish", os.getpid(), len(pool), left)
    reason = "its process was asked to go and did not wait any longer"
    _lose([call.subject for call in pool.drain(deadline)], reason)
    _pools.pop(os.getpid(), None)


def _lose(waiting: list[object], reason: str) -> None:
    by_store: dict[Store, list[Job]] = defaultdict(list)
    for one in waiting:
        assert isinstance(one, _Waiting)
        one.unnoted()
        log.error("job %s of %s is lost: %s", one.job.id, one.job.task, reason)
        if one.store is not None:
            by_store[one.store].append(one.job)
    for store, jobs in by_store.items():
        try:
            orphans.mark_own_lost(store, jobs, reason)
        except StoreUnavailableError as error:
            log.unrecorded(error)
