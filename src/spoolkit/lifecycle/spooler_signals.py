"""A spooler process that is asked to go finishes its job, starts none, and ends; the master starts another.

While a job runs, the signals are noted. Between two jobs nothing is half done: there they end the process at once, also
within uWSGI's C code, where no Python would run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_asked = False
_owner = 0


def idle() -> None:
    """No job runs here."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # By default it leaves a core file. Who has it sent to all, as Ctrl-\ in a terminal does, stops the master as well.
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


def begin() -> None:
    """A job starts here."""
    global _owner
    _owner = os.getpid()
    for signum in SIGNALS:
        signal.signal(signum, _note)


def ask() -> None:
    """This process is to go once :func:`end` is called, as if a signal had said so."""
    global _asked
    _asked = True


def end(farewell: Callable[[], None]) -> None:
    """The job is settled. If this process was asked to go meanwhile, it does, after ``farewell()``."""
    # Blocked: a signal between the two would find neither the handler nor the default, and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    idle()
    if _asked:
        _leave(farewell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _note(signum: int, frame: FrameType | None) -> None:
    global _asked
    if os.getpid() == _owner:
        _asked = True
        return
    # A child that the task forked: for it the signal means what it always does.
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _leave(farewell: Callable[[], None]) -> None:
    try:
        farewell()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        # Not sys.exit(): uWSGI's own end of a spooler waits for threads that a task may have left behind.
        os._exit(0)
