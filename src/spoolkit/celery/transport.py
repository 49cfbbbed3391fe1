"""How does the machine that has accepted a job publish it, and hear of it?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery
from kombu import Connection, Consumer, Message, Producer

from spoolkit import application
from spoolkit.attempt import remote
from spoolkit.attempt.remote import Answer, PublishError, Report
from spoolkit.celery import channel
from spoolkit.celery.configuration import celery_app, is_redis
from spoolkit.errors import ConfigurationError, DecodeError
from spoolkit.system import log

T = TypeVar("T")

AT_ONCE = 100
"""Reports that are heard before the next look at anything else."""


class CeleryTransport:
    """Publishes jobs as tasks of Celery, and hears what its workers report. One connection for each of the two."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._out: tuple[Connection, Producer] | None = None
        self._in: Connection | None = None
        self._consumer: Consumer | None = None
        self._handle: Callable[[Report], bool] = lambda report: False

    def publish(self, message: remote.Message) -> None:
        """As :meth:`spoolkit.attempt.remote.Transport.publish`."""
        self._send(lambda producer: channel.publish_message(producer, self._celery, message))

    def _send(self, publish: Callable[[Producer], T]) -> T:
        try:
            if self._out is None:
                connection = channel.connect(self._celery)
                self._out = connection, Producer(connection)
            return publish(self._out[1])
        except Exception as error:  # of kombu, of the broker's client, of the socket
            self._close_out()
            raise PublishError(f"{type(error).__name__}: {error}") from error

    def receive(self, origin: str, handle: Callable[[Report], bool], seconds: float) -> bool:
        """As :meth:`spoolkit.attempt.remote.Transport.receive`."""
        self._handle = handle
        try:
            if self._in is None:
                self._in = self._listen(origin)
            for _ in range(AT_ONCE):
                self._in.drain_events(timeout=seconds)
                seconds = 0.001
        except TimeoutError:
            pass
        except Exception as error:
            log.complain("the reports of workers cannot be heard, and are tried again: %s", error)
            self.close()
            return False
        return True

    def _listen(self, origin: str) -> Connection:
        queue = channel.reports_queue(origin)
        # Redis itself does not know which consumer has a message: kombu keeps those that are not acknowledged under
        # these keys. Nobody else hears this queue, so those of a process that was killed can be taken back at once.
        own = {f"unacked{part}_key": f"{queue.name}.unacked{part}" for part in ("", "_index", "_mutex")}
        connection = channel.connect(self._celery, own if is_redis(self._celery.conf.broker_url) else {})
        try:
            self._consumer = Consumer(connection, [queue], accept=["json"], on_message=self._on_message)
            self._consumer.qos(prefetch_count=AT_ONCE)
            if hasattr(self._consumer.channel, "unacked_index_key"):
                _take_back(self._consumer.channel)
            self._consumer.consume()
        except BaseException:
            _close(connection)
            raise
        return connection

    def echo(self, origin: str, number: int) -> None:
        """As :meth:`spoolkit.attempt.remote.Transport.echo`."""
        self._send(lambda producer: channel.publish_report(producer, origin, Report("echo", "", number, number)))

    def answer(self, answer: Answer) -> None:
        """As :meth:`spoolkit.attempt.remote.Transport.answer`."""
        self._send(lambda producer: channel.publish_answer(producer, answer))

    def leave_mark(self, origin: str, time: float) -> None:
        """As :meth:`spoolkit.attempt.remote.Transport.leave_mark`."""
        self._send(lambda producer: channel.leave_mark(producer, origin, time))

    def latest_mark(self, origin: str) -> float | None:
        """As :meth:`spoolkit.attempt.remote.Transport.latest_mark`."""
        return self._send(lambda producer: channel.latest_mark(producer, origin))

    def _on_message(self, message: Message) -> None:
        try:
            report = remote.load_report(message.decode())
        except DecodeError as error:
            log.complain("a report that cannot be read is dropped: %s", error)
            message.ack()
            return
        is_done = False
        try:
            is_done = self._handle(report)
        finally:
            message.ack() if is_done else message.requeue()

    def close(self) -> None:
        """As :meth:`spoolkit.attempt.remote.Transport.close`."""
        connection, self._in, self._consumer = self._in, None, None
        if connection is not None:
            _close(connection)

    def _close_out(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            _close(out[0])


def _take_back(redis: Any) -> None:
    """Put what was not acknowledged back to where it was in its queue: the oldest is heard first."""
    with redis.conn_or_acquire() as client:
        for tag in client.zrange(redis.unacked_index_key, 0, -1, desc=True):
            redis.qos.restore_by_tag(tag, client)


def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        connection.collect(socket_timeout=1.0)
    with contextlib.suppress(Exception):
        connection.release()


def make() -> CeleryTransport:
    """A transport for the application in force.

    Raises:
        ConfigurationError: There is no application, or it does not configure Celery.
    """
    app = application.current()
    if app is None:
        raise ConfigurationError("there is no application whose configuration names a broker", setting="CELERY")
    return CeleryTransport(celery_app(app))
