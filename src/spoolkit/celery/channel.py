"""On which queues do messages and reports travel, and how is one published?

Jobs go where Celery's own settings route a task of that name. Reports go to a queue of the machine that has accepted
the job, on the same broker: durable, so that what happened while that machine was away is there when it is back.
Answers go to a queue of the worker process that has asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from celery import Celery
from kombu import Connection, Producer, Queue

from spoolkit.attempt import remote
from spoolkit.attempt.remote import Answer, Message, Report
from spoolkit.celery.configuration import SOCKET_TIME

HIDDEN = "(…)"
"""What monitors show in place of the arguments, which may be secret."""

UNUSED = 3600.0
"""Seconds after which the broker deletes the queue of a worker process that is gone."""


def reports_queue(origin: str) -> Queue:
    """The queue with the reports for the machine whose spool directory is called ``origin``."""
    return Queue(f"spoolkit.{origin}", durable=True, auto_delete=False)


def replies_queue(name: str) -> Queue:
    """The queue with the answers for the worker process ``name``."""
    return Queue(f"spoolkit.worker.{name}", durable=True, auto_delete=False, expires=UNUSED)


def publish_report(producer: Producer, origin: str, report: Report) -> None:
    """Return once the broker has the report. Raises what kombu raises."""
    _publish(producer, reports_queue(origin), remote.dump_report(report))


def publish_answer(producer: Producer, answer: Answer) -> None:
    """Return once the broker has the answer. Raises what kombu raises."""
    _publish(producer, replies_queue(remote.reply_name(answer.run)), answer._asdict())


def _publish(producer: Producer, queue: Queue, document: remote.Document) -> None:
    producer.publish(
        document,
        serializer="json",
        exchange="",
        routing_key=queue.name,
        delivery_mode="persistent",
        declare=[queue],
        confirm_timeout=SOCKET_TIME,
        retry=False,
    )


def publish_message(producer: Producer, celery: Celery, message: Message) -> None:
    """Return once the broker has the message. Raises what kombu raises."""
    celery.send_task(
        message.job.task,
        args=(remote.dump_message(message),),
        task_id=message.job.id,
        time_limit=message.hard_limit,
        producer=producer,
        ignore_result=True,
        argsrepr=HIDDEN,
        confirm_timeout=SOCKET_TIME,
        retry=False,
    )


def connect(celery: Celery, options: Mapping[str, object] | None = None) -> Connection:
    """Return a new connection to the broker, of the caller's own.

    Args:
        celery: The Celery application.
        options: More options of its transport.
    """
    connection = celery.connection_for_write(heartbeat=0, transport_options=dict(options or {}))
    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=SOCKET_TIME)
    return connection


def leave_mark(producer: Producer, origin: str, time: float) -> None:
    """Publish a mark, and then remove the earlier ones. Raises what kombu raises."""
    _publish(producer, _marks_queue(origin), {"time": time})
    latest_mark(producer, origin)


def latest_mark(producer: Producer, origin: str) -> float | None:
    """Return the latest mark, and leave it alone in the broker; ``None``: there is none. Raises what kombu raises."""
    queue = _marks_queue(origin)(producer.channel)
    queue.declare()
    found = []
    while (message := queue.get(accept=["json"])) is not None:
        found.append((float(message.decode()["time"]), message))
    if not found:
        return None
    latest, kept = max(found, key=lambda one: one[0])
    kept.requeue()
    for _, message in found:
        if message is not kept:
            message.ack()
    return latest


def _marks_queue(origin: str) -> Queue:
    return Queue(f"spoolkit.{origin}.mark", durable=True, auto_delete=False)
