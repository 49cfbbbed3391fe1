"""The rows of jobs that wait in this process, written by a thread: neither a caller nor a look waits for the disk.

A job that starts at once, as most do, writes its row itself and is never noted here.
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

PATIENCE = 0.02
"""Seconds for which a job may wait before it gets a row: most have started by then."""


class Notes:
    """The jobs of this process that have no row yet, and the thread that gives it to them."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Store, JobSpec]] = {}
        self._came = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._writing = threading.Lock()

    def add(self, store: Store, job: JobSpec) -> None:
        """``job`` waits."""
        self._waiting[job.id] = (store, job)
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="spoolkit-notes", daemon=True)
                # Where none is to be had, whoever asks for the job writes its row.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        self._came.set()

    def discard(self, job: JobSpec) -> None:
        """``job`` waits no more: what becomes of it is recorded by whoever sees to that."""
        self._waiting.pop(job.id, None)

    def write(self, id: str | None = None) -> None:
        """Write the rows that are missing, if that of the job ``id`` is (``None``: if any is). Never raises."""
        # A note is removed when its row is written, not before: who finds none must find the row.
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
        # A signal that ends the process is for the main thread.
        task_signals.leave_to_main_thread()
        while True:
            self._came.wait()
            time.sleep(PATIENCE)
            self._came.clear()
            try:
                self.write()
            except Exception as error:  # or no row would be written here any more
                log.complain("the rows of jobs that wait in threads could not be written", error=error)


def _by_store(waiting: Iterable[tuple[Store, JobSpec]]) -> list[tuple[Store, list[JobSpec]]]:
    found: dict[int, tuple[Store, list[JobSpec]]] = {}
    for store, job in waiting:
        found.setdefault(id(store), (store, []))[1].append(job)
    return list(found.values())


_notes: dict[int, Notes] = {}


def here() -> Notes:
    """The notes of this process."""
    # By pid: uWSGI forks without telling Python, and neither the thread nor the jobs come along.
    pid = os.getpid()
    return _notes.get(pid) or _notes.setdefault(pid, Notes())
