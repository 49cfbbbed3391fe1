"""Background writer for rows of thread jobs that are still waiting, so that no caller blocks on SQLite.

A job that starts at once, as most do, writes its row itself and never comes here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable

from spoolkit.errors import StoreUnavailableError
from spoolkit.job import JobSpec
from spoolkit.store import Store
from spoolkit.system import log, task_signals
from spoolkit.system.process import PerProcess

DELAY = 0.02
"""Seconds for which a job may wait before it gets a row: most jobs have started by then."""


class Writer:
    """The waiting jobs of one process that have no row yet, and the thread that writes their rows."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Store, JobSpec]] = {}
        self._added = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._writing = threading.Lock()

    def add(self, store: Store, job: JobSpec) -> None:
        """Write the row of ``job`` into ``store`` soon, unless the job is discarded first."""
        self._waiting[job.id] = (store, job)
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="spoolkit-write-behind", daemon=True)
                # If no thread can be started, a query for the job writes its row.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        self._added.set()

    def discard(self, job: JobSpec) -> None:
        """Write no row for ``job``: it does not wait any more, and its attempt or its loss is recorded instead."""
        self._waiting.pop(job.id, None)

    def flush(self, id: str | None = None) -> None:
        """Write all missing rows now, if that of the job ``id`` is missing (``None``: if any is). Never raises."""
        # A job is removed when its row is written, not before: a query that does not find it here must find the row.
        if not self._waiting if id is None else id not in self._waiting:
            return
        with self._writing:
            for store, jobs in _by_store(list(self._waiting.values())):
                try:
                    store.record_queued(jobs)
                except StoreUnavailableError as error:
                    log.unrecorded(error)
                for job in jobs:
                    self.discard(job)

    def _run(self) -> None:
        # Otherwise this thread might run the handler of a stop signal concurrently with the main thread.
        task_signals.block_in_thread()
        while True:
            self._added.wait()
            time.sleep(DELAY)
            self._added.clear()
            try:
                self.flush()
            except Exception as error:  # otherwise the thread would end, and no row would be written any more
                text = "process %d could not record its thread jobs that are waiting; they run anyway"
                log.complain(text, os.getpid(), error=error)


def _by_store(waiting: Iterable[tuple[Store, JobSpec]]) -> list[tuple[Store, list[JobSpec]]]:
    found: dict[int, tuple[Store, list[JobSpec]]] = {}
    for store, job in waiting:
        found.setdefault(id(store), (store, []))[1].append(job)
    return list(found.values())


_writer = PerProcess(Writer)


def writer() -> Writer:
    """Return the writer of this process."""
    return _writer.get()
