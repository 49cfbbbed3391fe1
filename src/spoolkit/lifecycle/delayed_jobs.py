"""How do delayed jobs come into the spool directory under uWSGI? By a thread of one of its HTTP processes.

Every HTTP process has the thread, and the lock in ``later/`` decides which one moves the jobs; if that process ends, in
any way, another one follows. The thread sweeps as well, see ``sweeping.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from spoolkit.lifecycle import sweeping
from spoolkit.spooldir import later, mover
from spoolkit.system import log
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

MAX_WAIT = 1.0
"""Seconds that an exiting process waits for its thread, which may be moving jobs."""


class _Movers:
    """What the thread of this HTTP process does."""

    def __init__(self, spool_dirs: Sequence[str]) -> None:
        self._spool_dirs = spool_dirs
        self._movers = [mover.Mover(spool_dir) for spool_dir in spool_dirs]
        self._step = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="spoolkit-later", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                with self._step:
                    if self._is_stopped:
                        break
                    seconds = min([one.step() for one in self._movers])
                for spool_dir in filter(sweeping.is_due, self._spool_dirs):
                    if bridge.has_application():  # before, not all is declared; and it may not be able to load its code
                        sweeping.run(spool_dir)
                mover.wait(self._movers, seconds)
            except Exception as error:
                log.complain("delayed jobs could not be moved, and are tried again", error=error)
                time.sleep(mover.ELECTION)
        for one in self._movers:
            one.close()

    def stop(self) -> None:
        """Let another process be elected."""
        if not self._step.acquire(timeout=MAX_WAIT):
            return
        self._is_stopped = True
        elected = [one for one in self._movers if one.pipe is not None]
        self._step.release()
        # The thread itself closes the pipe: the kernel keeps it open as long as another thread waits for it.
        for one in elected:
            one.interrupt()
        if elected:
            self._thread.join(MAX_WAIT)


_own: PerProcess[_Movers] = PerProcess()


def start(spool_dirs: Sequence[str]) -> None:
    """Start the thread in this HTTP process. The caller has blocked all signals, which the thread inherits."""
    # Without enable-threads it would run only during requests, and keep the lock from a process that can do better.
    if spool_dirs and bridge.has_threads():
        _own.set(_Movers(spool_dirs))


def stop(spool_dirs: Sequence[str]) -> None:
    """Leave the delayed jobs to another HTTP process or, if none follows, as with uWSGI's ``idle``, to the spoolers."""
    # In this order: a spooler that finds an elected process removes the file by which it is called.
    if (movers := _own.peek()) is not None:
        movers.stop()
    for spool_dir in spool_dirs:
        later.call_spoolers(spool_dir)
