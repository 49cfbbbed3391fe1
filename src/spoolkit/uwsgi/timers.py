"""How does a uWSGI timer fire once, although each process registers it while it imports the application?

The same goes for crons, file monitors and signals. uWSGI keeps them in tables that all its processes share, 64 entries
of each kind, and never removes an entry (core/signal.c of 2.0.31). With ``lazy-apps`` each HTTP process imports the
application and would add its own entries: a timer would fire once per process, after enough reloads an import would
fail, and after a reload uWSGI would call the handler of a process that is gone. A spooler or a mule must not register
anything.

Therefore the first process that registers a timer adds the entry and writes it into the ledger (``ledger.py``). Every
other process finds it there and registers only its own handler.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from spoolkit.system import log, process
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import ledger
from spoolkit.uwsgi.ledger import SIGNALS, Entry, Ledger

TABLES = ("add_timer", "add_ms_timer", "add_rb_timer", "add_cron", "add_file_monitor")
"""The functions of uWSGI that add to a shared table."""

ONLY_HERE = ("register_signal", "register_rpc", *TABLES)
"""The functions that uWSGI refuses in a spooler and in a mule."""

WORKING_TARGETS = ("", "worker", "worker0")
"""The targets of a signal that work if an HTTP process registers it: the master does not learn of any other target."""


def replace_functions(uwsgi: Any, directory: str | None) -> Registrations:
    """Replace the functions of the module ``uwsgi`` that register something, in this process and those that it forks.

    Args:
        uwsgi: The module ``uwsgi``, which exists only in processes of uWSGI.
        directory: The spool directory that holds the ledger; ``None``: each HTTP process adds its own entries.

    Returns:
        The registrations of this process: each HTTP process must call :meth:`~Registrations.begin` after its fork.
    """
    registrations = Registrations(uwsgi, directory)
    for name in ONLY_HERE:
        if hasattr(uwsgi, name):
            setattr(uwsgi, name, registrations.wrapped(name))
    uwsgi.signal_registered = registrations.is_registered
    registrations.begin()
    return registrations


class Registrations:
    """What this process has registered with uWSGI so far."""

    def __init__(self, uwsgi: Any, directory: str | None) -> None:
        self._uwsgi = uwsgi
        self._directory = directory
        self._real = {name: getattr(uwsgi, name) for name in ONLY_HERE if hasattr(uwsgi, name)}
        self._is_registered = uwsgi.signal_registered
        # A forked process inherits what the master has registered.
        self._registered_by_master = self._registered() if uwsgi.worker_id() == 0 else set()
        self._begun = PerProcess[bool]()
        self._ledger: Ledger | None = None
        self._handlers: dict[int, tuple[str, Any]] = {}
        self._reported_free: set[int] = set()
        self._repeats: dict[str, int] = {}

    def begin(self) -> None:
        """In a new HTTP process, clear what its predecessor has left in its part of uWSGI's table of signals."""
        if self._uwsgi.worker_id() == 0 or self._begun.peek():
            return
        self._begun.set(True)
        self._handlers, self._reported_free, self._repeats = {}, set(), {}
        master_pid = self._uwsgi.masterpid()
        if self._directory is None or not master_pid:
            return
        # A full reload keeps the process and empties its tables.
        stamp = f"{process.identity(master_pid).decode().strip()} {self._uwsgi.started_on}"
        self._ledger = Ledger(ledger.path(self._directory, master_pid), stamp)
        with _errors_logged():
            registered = self._registered()
            if not self._uwsgi.workers()[self._uwsgi.worker_id() - 1]["respawn_count"]:
                self._ledger.reserve(registered)  # no predecessor: the master has registered these
                return
            for number in registered - self._registered_by_master - self._ledger.reserved():
                # Otherwise uWSGI would call a function at an address of the predecessor.
                self._real["register_signal"](number, "", _ignore)

    def wrapped(self, name: str) -> Callable[..., Any]:
        """Return the replacement of uWSGI's function ``name``."""

        def register(*args: Any) -> Any:
            if self._uwsgi.worker_id() == 0:
                if self._uwsgi.masterpid() not in (0, os.getpid()):
                    log.debug("pid %d skips uwsgi.%s%r: only HTTP processes register it", os.getpid(), name, args)
                    return None
                result = self._real[name](*args)  # all forked processes inherit it
                if name == "register_signal":
                    self._registered_by_master.add(args[0])
                return result
            self.begin()
            if name == "register_signal":
                return self._register_signal(*args)
            return self._add(name, *args) if name in TABLES else self._real[name](*args)

        register.__name__ = name
        return register

    def is_registered(self, number: int) -> bool:
        """Whether the signal ``number`` is in use, as ``uwsgi.signal_registered`` says."""
        if self._uwsgi.worker_id() == 0:
            return bool(self._is_registered(number))
        self.begin()
        if self._ledger is None:
            return bool(self._is_registered(number))
        if number in self._handlers:
            return True
        with _errors_logged():
            if number in self._registered_by_master | self._ledger.numbers():
                return True
        self._reported_free.add(number)
        return False

    def _registered(self) -> set[int]:
        return {number for number in SIGNALS if self._is_registered(number)}

    def _register_signal(self, number: int, target: str, handler: Any) -> Any:
        result = self._real["register_signal"](number, target, handler)
        self._handlers[number] = target, handler
        if target not in WORKING_TARGETS:
            name = _name(handler)
            log.warning(
                "%s: the target %r has no effect, because an HTTP process registers it (lazy-apps): the signal goes to "
                "the first idle HTTP process. Remove the target; to run it in a spooler, call a @spool task",
                name,
                target,
            )
            if self._ledger is not None:
                with _errors_logged():
                    self._ledger.record_ineffective_target(name, target)
        return result

    def _add(self, table: str, number: int, *schedule: Any) -> Any:
        if self._ledger is None:
            return self._real[table](number, *schedule)
        target, handler = self._handlers.get(number, ("", None))
        # The application chose the number itself: one number may have several schedules, and get its handler later.
        is_fixed = handler is None or number not in self._reported_free
        name = f"signal {number}" if is_fixed else _name(handler)
        key = (table, *map(str, schedule), name)
        repeated = self._repeats[repr(key)] = self._repeats.get(repr(key), 0) + 1
        entry: Entry | None = None
        taken = set(self._handlers)
        with _errors_logged(), self._ledger.entry((*key, repeated), number, fixed=is_fixed, taken=taken) as found:
            entry = found
            if entry.is_new:
                self._call(table, entry.number, schedule, name)
        if entry is None:
            self._call(table, number, schedule, name)
        elif entry.number != number:
            self._real["register_signal"](entry.number, target, handler)
            self._handlers[entry.number] = self._handlers.pop(number)
            self._real["register_signal"](number, "", _ignore)  # this number is free for the next entry
        return None

    def _call(self, table: str, number: int, schedule: tuple[Any, ...], name: str) -> None:
        try:
            self._real[table](number, *schedule)
        except ValueError as error:
            raise ValueError(
                f"{error} of {name}: uWSGI has room for 64 of each kind, and keeps those that the code no longer has: "
                "restart it, which empties its tables"
            ) from error


def _ignore(signum: int) -> None:
    log.debug("uWSGI signal %d is ignored: the current code has no function for it", signum)


def _name(function: Any) -> str:
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}.{owner.__qualname__}"


@contextlib.contextmanager
def _errors_logged() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _complain(error)


def _complain(error: OSError) -> None:
    log.complain(
        "uWSGI timers that process %d registers may fire more than once, because the file that lists the registered "
        "timers cannot be read or written: %s",
        os.getpid(),
        error,
    )
