"""Which process of gunicorn is this one: the arbiter, which only forks, or a worker, which serves requests?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def is_loaded() -> bool:
    """Whether gunicorn runs in this process."""
    return "gunicorn.arbiter" in sys.modules


def is_arbiter() -> bool:
    """Whether this is called in gunicorn's master process, outside the workers that it forks."""
    return bool(functions := _arbiter_functions()) and "spawn_worker" not in functions


def is_worker() -> bool:
    """Whether this is called in a worker's main thread."""
    # However deep the call is within a worker, the worker itself runs inside the arbiter's spawn_worker().
    return "spawn_worker" in _arbiter_functions()


def at_worker_start(start: Callable[[], None]) -> None:
    """Call ``start()`` in each worker: now if this is one, else after the fork (``--preload``)."""
    if is_worker():
        start()
        return
    arbiter = os.getpid()

    def forked() -> None:
        # A process that a worker forks is no worker, wherever the worker forks it.
        if os.getppid() == arbiter and is_worker():
            start()

    os.register_at_fork(after_in_child=forked)


def _arbiter_functions() -> set[str]:
    """The functions of gunicorn's arbiter in the current call stack."""
    found, frame = set(), sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            found.add(frame.f_code.co_name)
        frame = frame.f_back
    return found
