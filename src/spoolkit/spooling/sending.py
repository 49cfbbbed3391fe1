"""How does a job go to a worker, perhaps on another machine? A spooler publishes it when it is due.

What comes back, and what becomes of the file then, is in ``spooling/returns.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from flask import Flask

from spoolkit import application
from spoolkit.attempt.remote import Message, PublishError, Transport, transports
from spoolkit.attempt.runner import AttemptResult
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import Dead, Failure, JobSpec, Outcome, RetryAt
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, held, sent
from spoolkit.store import Store, remote
from spoolkit.store.claims import AlreadySettled
from spoolkit.store.remote import Next
from spoolkit.system import clock, log
from spoolkit.system.process import PerProcess

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds between two tries to publish, at least and at most: the broker is away."""


class _Away:
    """What this process knows of a broker that is away."""

    def __init__(self) -> None:
        #: When it is tried again, on the monotonic clock: other jobs of this spooler are not to wait for it.
        self.until = 0.0
        self.pause = FIRST_PAUSE


_away: PerProcess[dict[str, _Away]] = PerProcess(dict)
"""By the name of the engine."""

_open: PerProcess[WeakKeyDictionary[Flask, Transport]] = PerProcess(WeakKeyDictionary)
"""The transport of each application: a forked process must not share the connection."""


def send(
    job: JobSpec, declared: Declared, arguments: bytes, path: str, spool_dir: str, store: Store, config: Settings
) -> AttemptResult | None:
    """Publish the next attempt of a job, and move its file to ``sent/``. A failed publication is no attempt.

    In this order: a kill in between publishes the attempt twice, and the other order could lose it.

    Args:
        job: The job.
        declared: Its task.
        arguments: Its arguments in the codec's bytes.
        path: Its file, which this process has locked.
        spool_dir: The spool directory.
        store: Where the job is recorded.
        config: The settings in force.

    Returns:
        What became of the job instead; ``None``: it is sent.

    Raises:
        OSError: The file cannot be moved.
    """
    away = _away.get().setdefault(job.engine, _Away())
    if (left := away.until - time.monotonic()) > 0:
        return _later(left, "its broker is away")
    if (make := transports.get(job.engine)) is None:
        return AttemptResult(Dead(Failure(f"there is no engine {job.engine!r} in this process")))
    try:
        found = remote.next_attempt(store, job, declared.options.attempts, path.rpartition("/")[2])
    except StoreUnavailableError as error:
        return _later(config.retry_delay, f"its attempts cannot be counted: {error}")
    if isinstance(found, AlreadySettled):
        return AttemptResult(found.outcome, was_recorded=not isinstance(found.outcome, Dead))
    if isinstance(found, Next):
        timeout = declared.options.timeout
        limit = None if timeout is None else timeout + config.timeout_grace
        checkpoint = checkpoints.load(spool_dir, job.id) if found.attempt > 1 else None
        message = Message(
            job, arguments, found.attempt, found.attempt_since_reset, held.identity(spool_dir), limit, checkpoint
        )
        try:
            _transport(make).publish(message)
        except PublishError as error:
            away.until, pause = time.monotonic() + away.pause, away.pause
            away.pause = min(2 * pause, LONGEST_PAUSE)
            log.complain("job %s of %s cannot be published, and is tried again: %s", job.id, job.task, error)
            return _later(pause, str(error))
        away.until, away.pause = 0.0, FIRST_PAUSE
    sent.place(path, spool_dir)
    return None


def _transport(make: Callable[[], Transport]) -> Transport:
    app, known = application.current(), _open.get()
    if app is None:
        return make()
    if (found := known.get(app)) is None:
        found = known[app] = make()
    return found


def _later(seconds: float, reason: str) -> AttemptResult:
    outcome: Outcome = RetryAt(clock.now() + seconds, Failure(reason))
    return AttemptResult(outcome)
