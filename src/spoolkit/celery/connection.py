"""How does a worker process speak with the machines whose jobs it runs? Over one connection, for one job after another.

It reports, asks and hears the answers. Each process has a queue of its own for them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from weakref import WeakKeyDictionary

from celery import Celery
from kombu import Connection, Consumer, Message, Producer

from spoolkit.attempt import remote
from spoolkit.attempt.remote import Report, Says
from spoolkit.celery import channel
from spoolkit.errors import DecodeError
from spoolkit.system import log
from spoolkit.system.process import PerProcess

PATIENCE = 5.0
"""Seconds for which a worker waits for an answer: while uWSGI reloads, another process of the origin listens soon."""

LITTLE_PATIENCE = 0.5
"""The same for an origin that has not answered just now: its jobs must not hold up those of others."""

SILENT = 30.0
"""Seconds for which such an origin is remembered."""

REMEMBERED = 1000
"""Questions without an answer that are remembered at most."""

AGAIN = 1.0
"""Seconds after which a question is asked once more."""


class WorkerConnection:
    """The connection of a process that runs one job at a time. Of its threads, one speaks or listens at a time."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._answers: dict[str, Says] = {}
        """What was answered, by the run."""
        self._silent_until: dict[str, float] = {}
        """Until when an origin counts as silent, on the monotonic clock."""
        self._unanswered: dict[str, str] = {}
        """The origins of the runs for which no answer came in time. One that comes late shows that it is only slow."""

    def new_run(self) -> str:
        """Return a name for the next attempt that this process asks for: see :attr:`Report.run`."""
        return f"{self._name}.{next(self._numbers)}"

    def report(self, origin: str, report: Report) -> None:
        """Return once the broker has the report. Raises what kombu raises."""
        with self._lock:
            was_open = self._connection is not None
            try:
                self._publish(origin, report)
            except Exception:
                if not was_open:
                    raise
                self._publish(origin, report)  # it was idle for long, perhaps, and the network has forgotten it

    def _publish(self, origin: str, report: Report) -> None:
        try:
            if self._producer is None:
                self._connection = channel.connect(self._celery)
                queue = channel.replies_queue(self._name)
                consumer = Consumer(
                    self._connection, [queue], accept=["json"], no_ack=True, on_message=self._on_message
                )
                consumer.consume()
                self._producer = Producer(self._connection)
            channel.publish_report(self._producer, origin, report)
        except BaseException:
            self._close()
            raise

    def ask(self, origin: str, report: Report) -> Says | None:
        """Ask whether an attempt may start.

        Returns:
            The answer; ``None``: there was none in time. Raises what kombu raises.
        """
        self._answers.clear()
        now = time.monotonic()
        is_silent = self._silent_until.get(origin, 0.0) > now
        deadline = now + (LITTLE_PATIENCE if is_silent else PATIENCE)
        while True:
            self.report(origin, report)
            again = time.monotonic() + AGAIN
            while (left := min(again, deadline) - time.monotonic()) > 0:
                self.listen(left)
                if (says := self.take_answer(report.run)) is not None:
                    self._silent_until.pop(origin, None)
                    return says
            if time.monotonic() >= deadline:
                self._silent_until[origin] = time.monotonic() + SILENT
                self._unanswered[report.run] = origin
                if len(self._unanswered) > REMEMBERED:
                    del self._unanswered[next(iter(self._unanswered))]
                return None

    def listen(self, seconds: float) -> None:
        """Wait for an answer to whatever this process has asked. Raises what kombu raises."""
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.drain_events(timeout=seconds)
            except TimeoutError:
                pass
            except Exception:
                self._close()
                raise

    def take_answer(self, run: str) -> Says | None:
        """Return the latest answer about a run, once; ``None``: there is none."""
        return self._answers.pop(run, None)

    def _on_message(self, message: Message) -> None:
        try:
            answer = remote.load_answer(message.decode())
        except DecodeError as error:
            log.complain("an answer that cannot be read is dropped: %s", error)
        else:
            self._answers[answer.run] = answer.says
            if (origin := self._unanswered.pop(answer.run, None)) is not None:
                # With little patience for it, hardly any job would start, and the questions alone would keep it slow.
                self._silent_until.pop(origin, None)

    def close(self) -> None:
        """Close the connection. The next report opens another one."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect(socket_timeout=1.0)
            with contextlib.suppress(Exception):
                connection.release()


_connections: PerProcess[WeakKeyDictionary[Celery, WorkerConnection]] = PerProcess(WeakKeyDictionary)
"""A forked process must not share the connection."""


def of(celery: Celery) -> WorkerConnection:
    """Return the connection of this process."""
    known = _connections.get()
    if (found := known.get(celery)) is None:
        found = known[celery] = WorkerConnection(celery)
    return found
