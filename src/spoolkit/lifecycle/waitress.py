"""Under waitress, started by its command: its one process serves, and must exit through Python's own shutdown."""

from __future__ import annotations

import signal
import sys
import threading


def is_serving() -> bool:
    """Whether waitress's command is loading the application in this process, which will serve it."""
    frame = sys._getframe().f_back
    while frame is not None:
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "waitress.runner":
            return True
        frame = frame.f_back
    return False


def install_signal_handlers() -> None:
    """Under waitress's command, let SIGTERM end the server as Ctrl-C does: it has no handler of its own."""
    if (
        "waitress.runner" in sys.modules
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and is_serving()
    ):
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
