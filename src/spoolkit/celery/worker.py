"""What does a worker of Celery do with a job? It runs one attempt as a spooler does, and reports it to the origin.

Each task that the application declares is a task of Celery with the same name. Its one argument is a
:class:`~spoolkit.attempt.remote.Message`. The attempt is reported before it starts, once a second while it runs, and at
its end; only then is the message acknowledged. A message that is delivered a second time is reported and not run: the
origin, which counts the attempts, decides what follows.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

from celery import Celery, signals
from celery.app.task import Task
from celery.exceptions import Reject
from celery.worker.consumer import Consumer
from flask import Flask
from flask.cli import ScriptInfo
from kombu import Connection, Producer

from spoolkit import application, registry
from spoolkit.attempt import admission, job_log, remote, runner
from spoolkit.attempt.remote import Document, Kind, Message, Report
from spoolkit.attempt.runner import AttemptResult
from spoolkit.celery import channel
from spoolkit.celery.configuration import SOCKET_TIME, celery_app
from spoolkit.errors import ConfigurationError, NewerJobError, SignatureError, UnknownTaskError
from spoolkit.registry import Declared
from spoolkit.spooldir import running
from spoolkit.spooldir.checkpoints import Checkpoint, CheckpointElsewhere
from spoolkit.store.claims import Granted
from spoolkit.system import log
from spoolkit.system.process import PerProcess

BEAT = 1.0
"""Seconds between two reports of an attempt that runs."""

PATIENCE = 86400.0
"""Seconds for which a worker tries to report the end of an attempt: meanwhile the broker is away."""

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
    signals.task_unknown.connect(_on_unknown_task)
    for declared in registry.this_process.tasks.values():
        if declared.engine == "spool":
            for name in declared.names:
                if name not in celery.tasks:
                    celery.task(_run, name=name, bind=True, max_retries=None, ignore_result=True, typing=False)
    return celery


def _run(task: Task[Any, Any], document: Document) -> None:
    app = task.app
    try:
        message = remote.load_message(document)
    except NewerJobError as error:
        time.sleep(PAUSE)
        raise Reject(f"a worker with a newer version of spoolkit has to run it: {error}", requeue=True) from error
    with _Reporter(app, message) as reporter:
        if (task.request.delivery_info or {}).get("redelivered"):
            reporter.report("returned")
            return
        declared = _declared(message, reporter)
        if declared is None:
            return
        try:
            reporter.report("started")
        except Exception as error:
            # Nothing has run: the message comes back, to this worker or to another one, and is reported then.
            raise Reject(f"the start of job {message.job.id} cannot be reported: {error}", requeue=True) from error
        reporter.report_end(_attempt(message, declared, reporter))


def _declared(message: Message, reporter: _Reporter) -> Declared | None:
    """The task of a message; ``None`` if this version of the code cannot run it, which is reported."""
    job = message.job
    try:
        declared = registry.find(job.task).for_job(job)
        declared.check(job.args, job.kwargs)
    except (UnknownTaskError, SignatureError) as error:
        reporter.report("unusable", problem=str(error))
        return None
    return declared


def _on_unknown_task(sender: Consumer, message: Any, **_: object) -> None:
    """Report a job of a task that this worker does not know: Celery would drop it without a word to the origin."""
    (document, *_rest), *_more = message.decode()
    one = remote.load_message(document)
    with _Reporter(sender.app, one) as reporter:
        reporter.report("unusable", problem=f"the task {one.job.task} is not declared in the worker {_name()}")


class _Reporter:
    """Reports on one attempt, over a connection of its own."""

    def __init__(self, celery: Celery, message: Message) -> None:
        self._celery = celery
        self._message = message
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def report(self, kind: Kind, **fields: Any) -> None:
        """Return once the broker has the report. Raises what kombu raises."""
        one = self._message
        report = Report(kind, one.job.id, one.attempt, one.attempt_since_reset, _name(), **fields)
        with self._lock:
            try:
                if self._producer is None:
                    self._connection = channel.connect(self._celery)
                    self._producer = Producer(self._connection)
                channel.publish_report(self._producer, one.origin, report)
            except BaseException:
                self._close()
                raise

    def report_end(self, result: AttemptResult) -> None:
        """Report how the attempt has ended, as soon as the broker is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.report("ended", result=result)
                return
            except Exception as error:
                if time.monotonic() > deadline:
                    raise
                log.complain("the end of job %s cannot be reported yet: %s", self._message.job.id, error)
            time.sleep(PAUSE)

    def _close(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _attempt(message: Message, declared: Declared, reporter: _Reporter) -> AttemptResult:
    job, config = message.job, application.settings()
    if (instead := admission.instead_of_attempt(job)) is not None:
        job_log.ended(job, instead)
        return AttemptResult(instead, message.attempt)
    start, result = Granted(message.attempt, message.attempt_since_reset), None
    try:
        with (
            job_log.about(job, config),
            _AttemptFile(message, reporter) as attempt_file,
            _beats(reporter, attempt_file),
        ):
            # In a copy: a context variable that a task sets is not for the next job of this process.
            result = copy_context().run(runner.run, job, declared, start, config, attempt_file=attempt_file)
    except Exception as error:
        if result is None:
            raise
        log.complain("what job %s has shown could not be removed; its outcome stands", job.id, error=error)
    return result


class _AttemptFile(running.AttemptFile):
    """Where an attempt shows its progress and its log; its checkpoint is kept by the origin."""

    def __init__(self, message: Message, reporter: _Reporter) -> None:
        super().__init__(_scratch.get(), message.job.id)
        self._stored = message.checkpoint
        self._reporter = reporter

    def checkpoint(self) -> Checkpoint:
        return CheckpointElsewhere(self._stored, self._send)

    def _send(self, data: bytes) -> None:
        self._reporter.report("running", progress=self.last_progress, checkpoint=data)


@contextlib.contextmanager
def _beats(reporter: _Reporter, attempt_file: running.AttemptFile) -> Iterator[None]:
    """Report once a second that the attempt is alive, and how far it is."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                reporter.report("running", progress=attempt_file.last_progress)
            except Exception as error:
                log.debug("an attempt cannot be reported as running: %s", error)

    thread = threading.Thread(target=beat, name="spoolkit-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SOCKET_TIME)


def _make_scratch() -> str:
    folder = tempfile.mkdtemp(prefix="spoolkit-worker-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_scratch: PerProcess[str] = PerProcess(_make_scratch)
"""A private folder in which an attempt shows its progress and its log, as it does in a spool directory."""
