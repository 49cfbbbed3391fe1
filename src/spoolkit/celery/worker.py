"""What does a worker of Celery do with a job? It runs one attempt as a spooler does, if the origin lets it.

Each task that the application declares is a task of Celery with the same name. Its one argument is a
:class:`~spoolkit.attempt.remote.Message`. The worker asks the origin, which counts the attempts, whether this one may
start, reports once a second that it is alive, and reports its end; only then is the message acknowledged. Without an
answer the message is given back to the origin, which publishes it again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from celery import Celery
from celery.app.task import Task
from celery.exceptions import Reject
from celery.signals import worker_process_shutdown
from flask import Flask
from flask.cli import ScriptInfo

from spoolkit import application, registry
from spoolkit.attempt import job_log, remote, runner
from spoolkit.attempt.remote import Document, Kind, Message, Report, Says
from spoolkit.attempt.runner import AttemptResult
from spoolkit.celery import channel, connection
from spoolkit.celery.configuration import SOCKET_TIME, celery_app
from spoolkit.celery.connection import WorkerConnection
from spoolkit.errors import ConfigurationError, NewerJobError, SignatureError, UnknownTaskError
from spoolkit.job import JobSpec, Outcome, Progress, RetryAt
from spoolkit.registry import Declared
from spoolkit.spooldir import running
from spoolkit.spooldir.checkpoints import Checkpoint, CheckpointElsewhere
from spoolkit.store.claims import Granted
from spoolkit.system import clock, log
from spoolkit.system.process import PerProcess

BEAT = 1.0
"""Seconds between two reports of an attempt that runs."""

HEAR = 0.05
"""Seconds for which an answer to such a report is awaited. A later one is heard after the next report."""

PATIENCE = 86400.0
"""Seconds for which a worker tries to report what the origin must hear: meanwhile the broker is away."""

SHORT_RETRY = 5.0
"""Seconds to the next attempt, at most, for which Celery keeps its message in the memory of a worker."""

PAUSE = 1.0
"""Seconds between two of these tries."""


def load() -> Celery:
    """Load the application that ``FLASK_APP`` names, and return its Celery application, which has its tasks.

    Raises:
        ConfigurationError: The application does not use spoolkit, or does not configure Celery.
    """
    app = ScriptInfo(os.environ.get("FLASK_APP") or None).load_app()
    if "spoolkit" not in app.extensions:
        raise ConfigurationError(
            f"the application {app.name!r} has no spoolkit: call SpoolKit(app)", setting="FLASK_APP"
        )
    return with_tasks(app)


def with_tasks(app: Flask) -> Celery:
    """The Celery application of ``app``, with a task for each task that is declared."""
    celery = celery_app(app)
    for declared in registry.this_process.tasks.values():
        if declared.engine == "spool":
            for name in declared.names:
                if name not in celery.tasks:
                    celery.task(_run, name=name, bind=True, max_retries=None, ignore_result=True, typing=False)
    return celery


def _run(task: Task[Any, Any], document: Document) -> None:
    try:
        message = remote.load_message(document)
    except NewerJobError as error:
        time.sleep(PAUSE)
        raise Reject(f"a worker with a newer version of spoolkit has to run it: {error}", requeue=True) from error
    reporter = Reporter(connection.of(task.app), message)
    try:
        declared = registry.find(message.job.task).for_job(message.job)
        declared.check(message.job.args, message.job.kwargs)
    except (UnknownTaskError, SignatureError) as error:
        reporter.report_surely("unusable", problem=str(error))
        return
    says = reporter.ask()
    if says is None:
        reporter.report_surely("returned")
    elif says == "start":
        result, checkpoint = _attempt(message, declared, reporter)
        delay = _short_delay(message.job, result.outcome)
        # First: the question of the next attempt comes to the origin after this report.
        reporter.report_surely("ended", result=result, goes_on=delay is not None)
        if delay is not None:
            _retry(task, message, checkpoint, delay)


def _short_delay(job: JobSpec, outcome: Outcome) -> float | None:
    """Return the seconds to the next attempt if Celery may deliver it; ``None``: it goes by the disk of the origin."""
    # Whether a run of a schedule is late is found out when the origin publishes it.
    if job.schedule is not None or not isinstance(outcome, RetryAt):
        return None
    delay = max(0.0, outcome.time - clock.now())
    return delay if delay <= SHORT_RETRY else None


def _retry(task: Task[Any, Any], message: Message, checkpoint: bytes | None, delay: float) -> None:
    """Have Celery deliver the next attempt after ``delay`` seconds. It asks, as each does. Raises what Celery takes."""
    following = message._replace(
        attempt=message.attempt + 1, attempt_since_reset=message.attempt_since_reset + 1, checkpoint=checkpoint
    )
    # If this is lost, as it is if the broker is away now, the origin publishes the attempt: see ``returns.py``.
    raise task.retry(args=(remote.dump_message(following),), countdown=delay, argsrepr=channel.HIDDEN, throw=False)


class Reporter:
    """Speaks with the origin about one attempt."""

    def __init__(self, connection: WorkerConnection, message: Message) -> None:
        self._connection = connection
        self._message = message
        self._run = connection.new_run()

    def ask(self) -> Says | None:
        """Return whether the attempt may start; ``None``: there is no answer."""
        try:
            report = self._report("asks", arguments=remote.digest(self._message.arguments))
            return self._connection.ask(self._message.origin, report)
        except Exception as error:
            log.complain("it cannot be asked whether job %s may start: %s", self._message.job.id, error)
            return None

    def report_running(self, progress: Progress | None) -> bool:
        """Report that the attempt is alive. Returns whether it was asked to stop. Raises what kombu raises."""
        self.report("running", progress=progress)
        self._connection.listen(HEAR)
        return self._connection.take_answer(self._run) == "stop"

    def report(self, kind: Kind, **fields: Any) -> None:
        """Return once the broker has the report. Raises what kombu raises."""
        self._connection.report(self._message.origin, self._report(kind, **fields))

    def report_surely(self, kind: Kind, **fields: Any) -> None:
        """Report what the origin must hear before the message is acknowledged, as soon as the broker is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.report(kind, **fields)
                return
            except Exception as error:
                if time.monotonic() > deadline:
                    raise
                log.complain("what became of job %s cannot be reported yet: %s", self._message.job.id, error)
            time.sleep(PAUSE)

    def _report(self, kind: Kind, **fields: Any) -> Report:
        one = self._message
        return Report(kind, one.job.id, one.attempt, one.attempt_since_reset, self._run, _name(), **fields)


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _attempt(message: Message, declared: Declared, reporter: Reporter) -> tuple[AttemptResult, bytes | None]:
    """Run the attempt. Returns how it has ended, and the checkpoint of the job."""
    job, config = message.job, application.settings()
    start, result = Granted(message.attempt, message.attempt_since_reset), None
    attempt_file = _AttemptFile(message, reporter)
    try:
        with (
            job_log.about(job, config),
            attempt_file,
            _beats(reporter, attempt_file),
        ):
            # In a copy: a context variable that a task sets is not for the next job of this process.
            result = copy_context().run(runner.run, job, declared, start, config, attempt_file=attempt_file)
    except Exception as error:
        if result is None:
            raise
        log.complain("what job %s has shown could not be removed; its outcome stands", job.id, error=error)
    return result, attempt_file.stored


class _AttemptFile(running.AttemptFile):
    """Where an attempt shows its progress and its log; its checkpoint is kept by the origin."""

    def __init__(self, message: Message, reporter: Reporter) -> None:
        super().__init__(_scratch.get(), message.job.id)
        #: The checkpoint that the origin has, or will have when it has heard of it.
        self.stored = message.checkpoint
        self._reporter = reporter

    def checkpoint(self) -> Checkpoint:
        return CheckpointElsewhere(self.stored, self._send)

    def _send(self, data: bytes) -> None:
        self._reporter.report("running", progress=self.last_progress, checkpoint=data)
        self.stored = data


@contextlib.contextmanager
def _beats(reporter: Reporter, attempt_file: running.AttemptFile) -> Iterator[None]:
    """Report once a second that the attempt is alive, and how far it is; and hear whether it is to stop."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                if reporter.report_running(attempt_file.last_progress):
                    attempt_file.ask_to_stop()
            except Exception as error:
                log.debug("an attempt cannot be reported as running: %s", error)

    thread = threading.Thread(target=beat, name="spoolkit-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SOCKET_TIME)


@functools.cache
def folder() -> str:
    """A private folder, which has those of the processes of a worker. It is removed when its maker exits."""
    made = tempfile.mkdtemp(prefix="spoolkit-worker-")
    atexit.register(_remover(made))
    return made


def _make_scratch() -> str:
    try:
        made = tempfile.mkdtemp(dir=folder())
    except FileNotFoundError:  # after some days, a system removes what seems to be unused
        made = tempfile.mkdtemp(prefix="spoolkit-worker-")
    worker_process_shutdown.connect(_remover(made), weak=False)  # such a process has no exit of Python's own
    return made


def _remover(path: str) -> Callable[..., None]:
    """What removes a folder in this process, and not in one that is forked from it."""
    maker = os.getpid()

    def remove(**_: object) -> None:
        if os.getpid() == maker:
            shutil.rmtree(path, ignore_errors=True)

    return remove


_scratch: PerProcess[str] = PerProcess(_make_scratch)
"""A private folder in which an attempt shows its progress and its log, as it does in a spool directory."""
