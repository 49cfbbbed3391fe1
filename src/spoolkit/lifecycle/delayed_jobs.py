"""How do delayed jobs come into the spool directory under uWSGI? By a thread of one of its HTTP processes.

Every HTTP process has the thread, and the lock in ``later/`` decides which one moves the jobs; if that process ends, in
any way, another one follows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from spoolkit.spooldir import mover
from spoolkit.system import log
from spoolkit.uwsgi import bridge


def start(spool_dirs: Sequence[str]) -> None:
    """Start the thread in this HTTP process. The caller has blocked all signals, which the thread inherits."""
    # Without enable-threads it would run only during requests, and keep the lock from a process that can do better.
    if spool_dirs and bridge.has_threads():
        threading.Thread(target=_run, args=(spool_dirs,), name="spoolkit-later", daemon=True).start()


def _run(spool_dirs: Sequence[str]) -> None:
    movers = [mover.Mover(spool_dir) for spool_dir in spool_dirs]
    while True:
        try:
            seconds = min([one.step() for one in movers])
            mover.wait(movers, seconds)
        except Exception as error:
            log.complain("delayed jobs could not be moved, and are tried again", error=error)
            time.sleep(mover.ELECTION)
