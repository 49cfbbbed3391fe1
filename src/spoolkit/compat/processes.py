"""What do ``thread``, ``postfork`` and ``lock`` of uwsgidecorators do without uWSGI?"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from spoolkit import application, callables
from spoolkit.errors import ConfigurationError
from spoolkit.lifecycle import hooks
from spoolkit.store import locations
from spoolkit.system import files, locks, log
from spoolkit.system.process import PerProcess

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

FOLDER = "compat"
"""The folder of the lock's file in the spool directory."""


class thread(Generic[P]):  # noqa: N801 - the name of uwsgidecorators
    """Have each call run in a daemon thread of its own. The thread ends with its process, whatever it does."""

    def __init__(self, f: Callable[P, Any]) -> None:
        #: The function itself.
        self.f = f

    def __call__(self, *args: Any) -> Callable[P, Any]:
        """Start the thread, and return the function."""
        threading.Thread(target=self.f, args=args, daemon=True).start()
        return self.f


# Called in each process that serves

at_fork: list[Callable[[], Any]] = []
"""The functions that are declared with :func:`postfork`."""


class _Called:
    """Those that a process has called."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], Any]] = []
        #: Held during the calls, so that no other request goes on before they are over.
        self.lock = threading.RLock()


_called = PerProcess(_Called)


def postfork(f: F) -> F:
    """Have ``f()`` called once in each process that serves requests, before the first, and in each one that runs jobs.

    Raises:
        ConfigurationError: ``f`` is the number of a worker: without uWSGI, processes have none.
    """
    if not callable(f):
        raise ConfigurationError(
            f"@postfork({f!r:.80}) is for one worker of uWSGI, and other servers do not number theirs: write "
            "@postfork, or, for work of one process, SpoolKit.add_thread(thread, where='one process')",
            setting="postfork",
        )
    at_fork.append(f)
    if len(at_fork) == 1:
        hooks.before_requests(_call_all)
    elif _called.peek() is not None:
        _call_all()  # this process serves already
    return f


def _call_all() -> None:
    called = _called.get()
    with called.lock:
        for f in at_fork:
            if f not in called.functions:
                called.functions.append(f)
                try:
                    f()
                except Exception:
                    log.exception(
                        "%s, which is declared with @postfork, failed in process %d", callables.name(f), os.getpid()
                    )


# One call at a time


class _Holder(threading.local):
    """What a thread knows of itself."""

    #: The process in which it holds the lock; 0: it does not. A forked process does not hold that of its parent.
    pid = 0


_holder = _Holder()


def lock(f: Callable[P, R]) -> Callable[P, R]:
    """Have one call at a time run, of all functions that are declared so, in all processes of the site.

    A call within such a call runs at once. The lock ends with its process, however that ends.
    """

    @functools.wraps(f)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        if _holder.pid == os.getpid():
            return f(*args, **kwargs)
        spool_dir = locations.spool_dir(application.settings())
        try:
            folder = os.path.join(spool_dir, FOLDER)
            files.make_spool_directory(spool_dir)
            files.make_folder(folder)
            file = locks.LockedFile(files.open_or_create(os.path.join(folder, "lock")))
        except OSError as error:
            raise files.unavailable(spool_dir, error) from error
        with file:
            locks.lock(file.fileno())
            _holder.pid = os.getpid()
            try:
                return f(*args, **kwargs)
            finally:
                _holder.pid = 0

    return locked
