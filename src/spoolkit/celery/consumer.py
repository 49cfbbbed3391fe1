"""How does a worker of Celery take messages from its queues? As Celery's own does, with two differences.

It gives a job back to the origin whose task this worker does not know, which Celery would drop, and it runs jobs in
processes of their own only.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency.prefork import TaskPool
from celery.utils.log import get_logger
from celery.worker import consumer
from kombu import Message

from spoolkit.attempt import remote
from spoolkit.celery import worker
from spoolkit.celery.connection import WorkerConnection
from spoolkit.celery.worker import Reporter
from spoolkit.errors import ConfigurationError, SpoolkitError

logger = get_logger(__name__)


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The consumer of a worker, named by Celery's setting ``worker_consumer``."""

    def __init__(self, *args: Any, pool: object = None, **options: Any) -> None:
        if not isinstance(pool, TaskPool):
            raise ConfigurationError(
                f"the worker has the pool {type(pool).__module__.rpartition('.')[2]!r}: jobs need a process each, "
                "which can be killed after its time, and dies alone. Leave out --pool, or say --pool prefork",
                setting="CELERY",
            )
        worker.folder()  # before its processes are forked, so that nothing is left of one that is killed
        super().__init__(*args, pool=pool, **options)

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """Report a job of a task that this worker does not know, and only then acknowledge its message."""
        try:
            (document, *_rest), *_more = message.decode()
            one = remote.load_message(document)
        except (SpoolkitError, ValueError, TypeError):  # it is no job of spoolkit's
            super().on_unknown_task(body, message, exc)
            return
        # Of its own: the processes of the pool are forked from this one, and must not share it.
        connection = WorkerConnection(self.app)
        reporter = Reporter(connection, one)
        try:
            reporter.report("unusable", problem=f"the task {one.job.task} is not declared in a worker")
        except Exception as error:
            logger.warning("job %s of a task that is not known here cannot be given back: %s", one.job.id, error)
            message.reject_log_error(logger, self.connection_errors, requeue=True)
        else:
            message.ack_log_error(logger, self.connection_errors)
        finally:
            connection.close()
