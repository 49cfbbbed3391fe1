"""Which code of the application runs for so long that a person should hear of it?

One thread of a process looks each second, and only while there is something to look at: to start a timer for each call
would cost more than most of the calls.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from spoolkit.system import log, task_signals
from spoolkit.system.process import PerProcess

LIMIT = 30.0
"""Seconds after which a call is named in the log."""

PAUSE = 1.0
"""Seconds between two looks."""


class watching:  # noqa: N801 - a function would be a generator, whose frames take longer
    """Log a warning if the ``with`` block takes longer than a limit. It is not ended.

    Args:
        what: What runs, for the log.
        seconds: The limit.
    """

    def __init__(self, what: str, seconds: float | None = None) -> None:
        #: What runs.
        self.what = what
        #: The limit in seconds.
        self.seconds = LIMIT if seconds is None else seconds
        #: When it is reached, on the monotonic clock.
        self.due = time.monotonic() + self.seconds

    def __enter__(self) -> None:
        _watcher.get().add(self)

    def __exit__(self, *_: object) -> None:
        _watcher.get().remove(self)


class _Watcher:
    """What runs in one process, and the thread that looks at it."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may make a call while this thread is in here.
        self._lock = threading.RLock()
        self._running: set[watching] = set()
        self._thread: threading.Thread | None = None

    def add(self, call: watching) -> None:
        with self._lock:
            self._running.add(call)
            if self._thread is None:
                thread = threading.Thread(target=self._look, name="spoolkit-watch", daemon=True)
                with contextlib.suppress(RuntimeError):  # no thread can be started: nobody looks
                    thread.start()
                    self._thread = thread

    def remove(self, call: watching) -> None:
        with self._lock:
            self._running.discard(call)

    def _look(self) -> None:
        # Otherwise a stop could reach this thread while the main thread blocks it, just to change its handler.
        task_signals.block_in_thread()
        while True:
            time.sleep(PAUSE)
            with self._lock:
                if not self._running:
                    self._thread = None
                    return
                now = time.monotonic()
                late = [call for call in self._running if call.due <= now]
                self._running.difference_update(late)
            for call in late:
                text = "%s has been running for %g s in process %d, which does nothing else meanwhile"
                log.warning(text, call.what, call.seconds, os.getpid())


_watcher = PerProcess(_Watcher)
