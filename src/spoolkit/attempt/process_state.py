"""What has a task changed in its process, and can it be restored for the next job?

A process that runs one job after the other must be the same for each. Signal handlers, timers, the umask, the
environment and the like are restored. What cannot be undone (a lowered hard limit, another user, a session of its own,
file descriptors that are used up) makes the process unfit for another job.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal makes an enum of each answer: ten times the time
import _thread
import ctypes
import errno
import faulthandler
import fcntl
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from operator import eq
from types import ModuleType
from typing import Any, NamedTuple

from spoolkit.attempt import timeouts
from spoolkit.system import log, process
from spoolkit.system.process import PerProcess

SPARE = 32
"""File descriptors that must be free for the next job."""

CLOSED = "it closed descriptors that are not its own"
STANDARD_OUTPUT = "standard output was closed"
STANDARD_ERROR = "standard error was closed"

_DUPLICATES = 100
"""The lowest number for the duplicates of standard output and error, so that they are not in a task's way."""

# Without the real-time signals, which do nothing in any library unless there is a handler.
_SIGNALS = tuple(signum for signum in range(1, 32) if signum not in (signal.SIGKILL, signal.SIGSTOP))
_FAULTS = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV})
"""The signals that faulthandler handles, which stays on between two jobs: see :class:`~.timeouts.hard`."""

_TIMERS = ((signal.SIGVTALRM, signal.ITIMER_VIRTUAL), (signal.SIGPROF, signal.ITIMER_PROF))
_LIMITS = tuple(
    sorted(
        getattr(resource, f"RLIMIT_{name}")
        for name in ("AS", "CPU", "DATA", "FSIZE", "NOFILE")
        if hasattr(resource, f"RLIMIT_{name}")
    )
)

_NAMES: tuple[tuple[ModuleType, str], ...] = (
    *((sys, name) for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")),
    *((sys, name) for name in ("argv", "excepthook", "unraisablehook", "displayhook", "breakpointhook")),
    (os, "environ"),
    (threading, "excepthook"),
    (logging, "raiseExceptions"),
    (logging, "lastResort"),
)
"""Names in modules that must refer to the same object after the job."""


def _objects() -> tuple[object, ...]:
    """What :data:`_NAMES` refer to."""
    try:
        # Written out: getattr() with each name takes six times as long.
        return (
            *(sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__),
            *(sys.argv, sys.excepthook, sys.unraisablehook, sys.displayhook, sys.breakpointhook),
            *(os.environ, threading.excepthook, logging.raiseExceptions, logging.lastResort),
        )
    except AttributeError:  # somebody has deleted one
        return tuple(getattr(module, name, None) for module, name in _NAMES)


class _Value(NamedTuple):
    """Something that belongs to the process and can be read and set."""

    #: What it is called in messages.
    name: str
    #: Reads it.
    get: Callable[[], Any]
    #: Sets it to what ``get`` has returned.
    put: Callable[[Any], object]
    #: ``fits(now, before)``: whether the next job may find ``now`` in place of ``before``.
    fits: Callable[[Any, Any], bool] = eq


def _put_mask(mask: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wakeup_fd() -> int:
    if (fd := _signal.set_wakeup_fd(-1)) != -1:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    return fd  # type: ignore[no-any-return]


def _umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


def _environment() -> dict[bytes, bytes]:
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _reserved(now: dict[bytes, bytes], before: dict[bytes, bytes]) -> list[bytes]:
    return [name for name in now.keys() - before.keys() if name == b"TZ" or name.startswith(b"SPOOLKIT_")]


def _environment_fits(now: dict[bytes, bytes], before: dict[bytes, bytes]) -> bool:
    # Added variables stay: a library that is imported for the first time by this job sets them once per process.
    return before.items() <= now.items() and not _reserved(now, before)


def _put_environment(variables: dict[bytes, bytes]) -> None:
    zone = os.environ.get("TZ")
    for name in _reserved(_environment(), variables):
        del os.environb[name]
    for name, value in variables.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
    if os.environ.get("TZ") != zone:
        time.tzset()


def _path_fits(now: tuple[str, ...], before: tuple[str, ...]) -> bool:
    # Added folders stay, for the same reason; a folder that each job adds again does not pile up.
    return tuple(folder for folder in now if folder in before) == before


def _put_path(path: tuple[str, ...]) -> None:
    sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]


_OF_PYTHON = (
    _Value("signal mask", partial(_signal.pthread_sigmask, _signal.SIG_BLOCK, ()), _put_mask),
    _Value("wakeup descriptor", _wakeup_fd, lambda fd: signal.set_wakeup_fd(fd, warn_on_full_buffer=False)),
    _Value("environment", _environment, _put_environment, _environment_fits),
    _Value("sys.path", lambda: tuple(sys.path), _put_path, _path_fits),
    _Value("level of logging.disable()", lambda: logging.root.manager.disable, logging.disable),
    _Value("record factory", logging.getLogRecordFactory, logging.setLogRecordFactory),
    _Value("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Value("switch interval", sys.getswitchinterval, sys.setswitchinterval),
    _Value("garbage collection", gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
    _Value("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
)
"""What belongs to Python."""


def _limits() -> list[tuple[int, int]]:
    return list(map(resource.getrlimit, _LIMITS))


def _put_limits(limits: list[tuple[int, int]]) -> None:
    for which, (soft, hard) in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(which) != (soft, hard):
            try:
                resource.setrlimit(which, (soft, hard))
            except ValueError:  # not without privileges: as much of it as possible, so that the job can be settled
                resource.setrlimit(which, (resource.getrlimit(which)[1],) * 2)


def _users() -> tuple[Any, ...] | None:
    # Only root can change its user.
    return (os.getresuid(), os.getresgid(), os.getgroups()) if _was_root.get() else None


_was_root = PerProcess(lambda: 0 in os.getresuid())


def _put_users(users: tuple[Any, ...]) -> None:
    (uids, gids, groups) = users
    os.seteuid(uids[1])  # first: a process that can become root again can do the rest
    os.setgroups(groups)
    os.setresgid(*gids)
    os.setresuid(*uids)


_libc = ctypes.CDLL(None)
# Not by Python, which decodes the names of all twelve categories, one character after the other: four times the time.
_libc.setlocale.restype = ctypes.c_char_p


def _put_locale(name: bytes) -> None:
    locale.setlocale(locale.LC_ALL, os.fsdecode(name))


_OF_KERNEL = (
    _Value("umask", _umask, os.umask),
    _Value("resource limits", _limits, _put_limits),
    _Value("user", _users, _put_users),
    # A new session changes the group as well, and cannot be undone: its leader cannot join another group.
    _Value("process group or session", os.getpgrp, lambda group: os.setpgid(0, group)),
    _Value("nice", partial(os.getpriority, os.PRIO_PROCESS, 0), partial(os.setpriority, os.PRIO_PROCESS, 0)),
    _Value("locale", partial(_libc.setlocale, locale.LC_ALL, None), _put_locale),
)
"""What belongs to the process as a whole. It is restored before all else."""

_GET_OF_PYTHON = tuple(value.get for value in _OF_PYTHON)
_GET_OF_KERNEL = tuple(value.get for value in _OF_KERNEL)


class _Seen(NamedTuple):
    """What one look at this process saw."""

    #: What the functions of :data:`_OF_KERNEL` read.
    of_kernel: list[Any]
    #: The handlers of :data:`_SIGNALS`.
    handlers: list[Any]
    #: What :data:`_NAMES` refer to.
    objects: tuple[object, ...]
    #: What the functions of :data:`_OF_PYTHON` read.
    of_python: list[Any]


def _look() -> _Seen:
    handlers = list(map(_signal.getsignal, _SIGNALS))
    return _Seen([get() for get in _GET_OF_KERNEL], handlers, _objects(), [get() for get in _GET_OF_PYTHON])


class State:
    """How this process was before a job. Made and restored in the main thread."""

    def __init__(self) -> None:
        self._process = _process.get()
        self._threads = _thread._count()
        # Before each job: a debugger or a profiler may be started between two.
        self._tracing = sys.gettrace(), sys.getprofile()

    def restore(self) -> list[str]:
        """Restore what can be restored. Never raises.

        Returns:
            What cannot be restored, in words.
        """
        for _ in range(3):  # a signal handler of the task's may raise here, before it is removed
            try:
                if (sys.gettrace(), sys.getprofile()) != self._tracing:
                    sys.settrace(self._tracing[0])
                    sys.setprofile(self._tracing[1])
                return self._process.restore()
            except BaseException:  # noqa: S112
                continue
        return ["its state cannot be restored"]

    def stop_alarm(self) -> None:
        """Stop the timer that sends SIGALRM, which would go off in what follows the task."""
        _signal.setitimer(_signal.ITIMER_REAL, 0)

    def threads_left(self) -> list[str]:
        """Return the names of threads that the job has left running, which cannot be ended from outside."""
        if _thread._count() <= self._threads:
            return []
        ours = (threading.main_thread().name, "spoolkit")
        return [thread.name for thread in threading.enumerate() if not thread.name.startswith(ours)]


class _Process:
    """How this process was before its first job. What jobs may add to it becomes a part of that."""

    def __init__(self) -> None:
        timeouts.watch_reports()  # otherwise each job with a time limit would leave something to be restored
        self._before = _look()
        self._actions = _Actions()
        self._streams = {fd: (process.file_of(fd), _duplicate(fd)) for fd in (1, 2)}
        self._last = os.sysconf("SC_OPEN_MAX") - SPARE
        self._lowest = _lowest_free()

    def restore(self) -> list[str]:
        lost = [] if self._is_as_before() else self._restore()
        self._actions.restore()
        for fd, (identity, duplicate) in self._streams.items():
            if process.file_of(fd) == identity:
                continue
            # The duplicate may be closed as well, and its number may belong to another file by now.
            if identity is not None and process.file_of(duplicate) == identity:
                os.dup2(duplicate, fd)
            else:
                lost.append(STANDARD_OUTPUT if fd == 1 else STANDARD_ERROR)
        if _is_closed(sys.__stdout__) or _is_closed(sys.__stderr__):
            lost.append("standard streams are closed")
        if self._are_descriptors_used_up():
            lost.append("no descriptors are left")
        return lost

    def _is_as_before(self) -> bool:
        # Almost always it is: one comparison of all takes a tenth of the time of one for each.
        try:
            return _look() == self._before
        except Exception:  # os.environ is none any more, or what a task has left cannot be compared
            return False

    def _restore(self) -> list[str]:
        # First: under other limits, or as another user, the rest may fail.
        lost = _restore(_OF_KERNEL, self._before.of_kernel)
        self._restore_handlers()
        for (module, name), before in zip(_NAMES, self._before.objects, strict=True):
            setattr(module, name, before)
        lost += _restore(_OF_PYTHON, self._before.of_python)
        self._before = self._before._replace(of_python=[get() for get in _GET_OF_PYTHON])
        return lost

    def _are_descriptors_used_up(self) -> bool:
        """Whether too few file descriptors are free for another job, and more were free before the first one."""
        lowest = _lowest_free()
        return lowest is None or 0 < self._last < lowest != self._lowest

    def _restore_handlers(self) -> None:
        # Blocked: for a moment a signal has the handler that Python knows, which may be the one that ends the process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for signum, handler in zip(_SIGNALS, self._before.handlers, strict=True):
                if _signal.getsignal(signum) is handler:
                    continue
                if signum in _FAULTS:
                    faulthandler.disable()  # so that the next attempt sets its handlers anew
                for rung_by, timer in _TIMERS:
                    if signum == rung_by:
                        signal.setitimer(timer, 0)
                if handler is not None:
                    signal.signal(signum, handler)
            self._actions.restore()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_log_handlers_if_closed(damage: Collection[str]) -> None:
    """Stop the site's log handlers in this process if ``damage`` says that the task closed file descriptors.

    The descriptors that they write to may belong to other files by now, to the database of the next job for instance.
    """
    if CLOSED in damage or STANDARD_ERROR in damage:
        log.distrust_handlers(standard_error=STANDARD_ERROR not in damage)


def _is_closed(stream: object) -> bool:
    return getattr(stream, "closed", False) is True


def _restore(values: tuple[_Value, ...], before: list[Any]) -> list[str]:
    lost = []
    for (name, get, put, fits), wanted in zip(values, before, strict=True):
        try:
            if not fits(get(), wanted):
                put(wanted)
                if not fits(get(), wanted):
                    lost.append(f"{name} changed")
        except (OSError, ValueError, TypeError, locale.Error):
            lost.append(f"{name} changed")
    return lost


class _Actions:
    """The signals whose handler Python does not know: uWSGI sets its own in C, after Python has started."""

    def __init__(self) -> None:
        self._known = {}
        for signum in sorted(set(_SIGNALS) - _FAULTS):
            action = ctypes.create_string_buffer(512)  # larger than a struct sigaction, which begins with the handler
            handler = _signal.getsignal(signum)
            if callable(handler) or _libc.sigaction(signum, None, action) != 0:
                continue
            if handler is None or int(handler) != (ctypes.c_void_p.from_buffer(action).value or 0):
                self._known[signum] = action

    def restore(self) -> None:
        """Set these handlers again: Python's table does not show whether a task has changed one."""
        for signum, action in self._known.items():
            if not callable(_signal.getsignal(signum)):
                _libc.sigaction(signum, action, None)


_process = PerProcess(_Process)


def _duplicate(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _DUPLICATES)
    except OSError:
        return -1


def _lowest_free() -> int | None:
    """Return the lowest free file descriptor; ``None`` if there is none."""
    try:
        fd = os.dup(2)
    except OSError as error:
        return None if error.errno == errno.EMFILE else 2
    os.close(fd)
    return fd
