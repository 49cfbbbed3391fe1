"""A spool directory, a broker in memory and a worker, all in this process and one step at a time."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from celery import Celery
from celery.exceptions import Retry
from flask import Flask

from spoolkit import SpoolKit
from spoolkit.attempt import remote
from spoolkit.celery import connection, worker
from spoolkit.celery.connection import WorkerConnection
from spoolkit.celery.consumer import Consumer
from spoolkit.spooling.returns import Returns
from spoolkit.spooling.standalone import Spooler


def settings(**more: object) -> dict[str, object]:
    """Celery's settings with a broker that no other test has."""
    queue = f"jobs-{uuid.uuid4().hex}"
    return {
        "broker_url": "memory://",
        "task_default_queue": queue,
        "broker_transport_options": {"polling_interval": 0.001},
        **more,
    }


@contextmanager
def app_in(folder: Path, name: str) -> Iterator[Flask]:
    """An application whose jobs run in workers, with its spool directory in this folder; it is in force meanwhile."""
    (folder / "spool").mkdir(mode=0o700)
    app = Flask(name, root_path=str(folder))
    app.config.update(SPOOLKIT_SPOOL=folder / "spool", SPOOLKIT_ENGINE="celery", CELERY=settings())
    SpoolKit(app)
    with app.app_context():
        yield app


class CelerySite:
    """What ``flask spool run`` and a worker do, when they are told to."""

    def __init__(self, app: Flask | None, spool_dir: str) -> None:
        assert app is not None
        self.celery: Celery = worker.with_tasks(app)
        self.returns = Returns(spool_dir, wait=0.01)
        self._spooler = Spooler(spool_dir)
        self._one_hears = threading.Lock()

    def run_due(self) -> None:
        """Let all that is due run: publish it, run it, hear of it."""
        self.publish()
        self.work()
        self.hear()

    def publish(self) -> None:
        """What a spooler does."""
        self._spooler.run_due()

    def consumer(self) -> Consumer:
        """What takes the messages from the queue in a worker, without its connection."""
        consumer = Consumer.__new__(Consumer)
        consumer.app, consumer.connection_errors = self.celery, ()
        return consumer

    def take(self, *, acknowledges: bool = True) -> list[Any]:
        """The messages that wait for a worker; none waits afterwards."""
        found = []
        with self.celery.connection_for_read() as connection:
            queue = connection.SimpleQueue(self.celery.conf.task_default_queue)
            while queue.qsize():
                message = queue.get(timeout=1)
                if acknowledges:
                    message.ack()
                found.append(message)
            queue.close()
        return found

    def work(self) -> None:
        """What a worker does with all messages."""
        for message in self.take():
            self.run(message)

    def run(self, message: Any, *, patience: float | None = None) -> None:
        """What a worker does with a message. The origin answers while it waits; without any patience it is away."""
        task = self.celery.tasks[message.headers["task"]]
        task.push_request(id=message.headers["id"], called_directly=False)
        listen = WorkerConnection.listen

        def wait(connection: WorkerConnection, seconds: float) -> None:
            self.hear()
            listen(connection, seconds)

        patience = connection.PATIENCE if patience is None else patience
        short = {"PATIENCE": patience, "LITTLE_PATIENCE": patience}
        try:
            # After a Retry, the message of the next attempt is in the broker.
            with patch.object(WorkerConnection, "listen", wait), patch.multiple(connection, **short), suppress(Retry):
                task.run(*message.decode()[0])
        finally:
            task.pop_request()

    def hear(self) -> None:
        """What the process does that hears the reports."""
        with self._one_hears:  # also where a task of a test waits, and an attempt is reported as running meanwhile
            assert self.returns.step() == 0.0


def message_of(message: Any) -> remote.Message:
    """The message of spoolkit in one of the broker."""
    return remote.load_message(message.decode()[0][0])
