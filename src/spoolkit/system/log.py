"""How does spoolkit write to the log, with or without a logging configuration, and without ever failing a job?

A handler, a formatter, a filter or a stream of the site may fail; a job must not. So nothing here raises: a line that
the site's logging does not accept is written to standard error.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from contextvars import ContextVar
from functools import lru_cache

from spoolkit.system.process import PerProcess

LOGGER = "spoolkit"
"""The name of spoolkit's logger."""

COMPLAINT_INTERVAL = 60.0
"""Seconds for which :func:`complain` suppresses a line that it has written."""

_logger = logging.getLogger(LOGGER)
_job: ContextVar[tuple[str, str, str] | None] = ContextVar("spoolkit.logged_job", default=None)
_complaints: PerProcess[dict[str, tuple[float, int]]] = PerProcess(dict)
"""By message: when it was last written, on the monotonic clock, and how often it was suppressed since."""

_has_standard_error: bool | None = None
"""Set once the handlers must not be used any more, also in forked children: whether there still is a standard error."""

# Control characters, line and paragraph separators, marks of text direction, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """Return ``text`` on one line: what could forge another line or control a terminal is escaped."""
    return _UNSAFE.sub(_escape, text)


def block(text: str, indent: str = "") -> str:
    """Return ``text`` with its line breaks and tabs, indented; all else is escaped as in :func:`one_line`."""
    return "\n".join(indent + _UNSAFE.sub(_escape_but_tab, line) for line in text.rstrip("\n").split("\n"))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _escape_but_tab(found: re.Match[str]) -> str:
    return "\t" if found[0] == "\t" else _escape(found)


class about:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """In the ``with`` block, log lines belong to the job with the id ``job``, of the task named ``task``.

    Args:
        job: The id of the job.
        task: The name of its task.
        headers: Those headers of the job that each of its lines has, as text.
    """

    def __init__(self, job: str, task: str, headers: str = "") -> None:
        self._job = job, task, headers

    def __enter__(self) -> None:
        self._token = _job.set(self._job)

    def __exit__(self, *_: object) -> None:
        _job.reset(self._token)


class JobLogFilter(logging.Filter):
    """Gives each log record ``job_id``, ``task_name`` and ``job_headers``: a format can contain ``%(job_id)s``.

    Outside of a job all are ``-``. The headers are those of ``SPOOLKIT_LOG_HEADERS``. Add the filter to a handler: the
    filters of a logger do not see the records of the loggers below it. Threads that a task starts do not belong to its
    job, unless they run in a copy of its context.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to the record; every record passes."""
        record.job_id, record.task_name, headers = _job.get() or ("-", "-", "")
        record.job_headers = headers or "-"
        return True


def debug(message: str, *args: object) -> None:
    """Log ``message % args`` for debugging. As in all functions here, line breaks in the arguments are escaped."""
    try:
        if not _logger.isEnabledFor(logging.DEBUG):
            return  # nearly always: each job has such lines, which must cost no more than this question
    except BaseException:  # noqa: S110 - the site's own code fails here; the line is written to standard error
        pass
    _say(logging.DEBUG, message, args)


def info(message: str, *args: object) -> None:
    """Log ``message % args`` as information."""
    _say(logging.INFO, message, args)


def warning(message: str, *args: object, error: BaseException | None = None, details: str = "") -> None:
    """Log ``message % args`` as a warning, followed by the traceback of ``error`` or by ``details`` (several lines)."""
    _say(logging.WARNING, message, args, error, details)


def error(message: str, *args: object, error: BaseException | None = None, details: str = "") -> None:
    """Log ``message % args`` as an error, followed by the traceback of ``error``, or by ``details`` (several lines)."""
    _say(logging.ERROR, message, args, error, details)


def exception(message: str, *args: object) -> None:
    """Log ``message % args`` as an error, followed by the traceback of the exception that is being handled."""
    _say(logging.ERROR, message, args, sys.exc_info()[1])


def complain(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log an error that may occur again and again: each ``message`` once per :data:`COMPLAINT_INTERVAL` at most."""
    now, complaints = time.monotonic(), _complaints.get()
    last, suppressed = complaints.get(message, (now - COMPLAINT_INTERVAL, 0))
    if now - last < COMPLAINT_INTERVAL:
        complaints[message] = last, suppressed + 1
        return
    complaints[message] = now, 0
    if suppressed:
        message, args = message + " (and %d times more since this was last logged)", (*args, suppressed)
    _say(logging.ERROR, message, args, error)


def unrecorded(error: Exception) -> None:
    """Log that jobs run but cannot be recorded, because of ``error``; once per :data:`COMPLAINT_INTERVAL` at most."""
    complain("jobs run, but cannot be recorded (pid %d): %s (see `flask spool doctor`)", os.getpid(), error)


def distrust_handlers(*, standard_error: bool) -> None:
    """Stop using the site's log handlers in this process: a task has closed descriptors, which may be other files now.

    Args:
        standard_error: Whether standard error is still open; if so, later lines are written there.
    """
    global _has_standard_error
    _has_standard_error = standard_error


def trusts_handlers() -> bool:
    """Whether the site's log handlers can be used in this process, and their buffers be written."""
    return _has_standard_error is None


def _say(
    level: int, message: str, args: tuple[object, ...], error: BaseException | None = None, details: str = ""
) -> None:
    configured = False
    try:
        # Checked each time: the site may configure its logging after it has imported spoolkit.
        configured = trusts_handlers() and _logger.hasHandlers()
        if not _is_enabled(level, configured):
            return
    except BaseException:  # noqa: S110 - the site's own code fails here; the line is written to standard error
        pass
    if (job := _job.get()) is not None and job[2]:
        message, args = (message if args else message.replace("%", "%%")) + " [%s]", (*args, job[2])
    clean = tuple([arg if isinstance(arg, (int, float)) else _text(arg) for arg in args])
    trace = block(details or _traceback(error), indent="  ") if details or error is not None else None
    if configured:
        try:
            _logger.handle(_record(level, message, clean, error, trace))
            return
        except BaseException:  # noqa: S110 - the same
            pass
    _write(level, message, clean, trace)


def _is_enabled(level: int, configured: bool) -> bool:
    if configured or _logger.level:
        return _logger.isEnabledFor(level)
    # No level is configured: the default of the root logger would hide that jobs start and end.
    return level >= logging.INFO and not _logger.disabled and _logger.manager.disable < level


def _record(
    level: int, message: str, args: tuple[object, ...], error: BaseException | None, trace: str | None
) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    try:
        file, line, function, _ = _logger.findCaller(stacklevel=4)
        record = _logger.makeRecord(LOGGER, level, file, line, message, args, exc_info, function)
    except BaseException:  # a record factory of the site, or of a task
        record = logging.LogRecord(LOGGER, level, __file__, 0, message, args, exc_info)
    # Formatters use this text as it is. Their own would contain the raw text of the exception, in which a line break
    # could begin what looks like another record.
    record.exc_text = trace
    return record


def _text(value: object) -> str:
    if type(value) is str and value.isascii() and value.isprintable():
        return value
    try:
        return one_line(str(value))
    except BaseException:  # of its own __str__()
        return f"({type(value).__name__}: cannot be read)"


def _traceback(error: BaseException | None) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # of its own __str__()
        return f"{type(error).__name__}: (its traceback cannot be read)"


def _write(level: int, message: str, args: tuple[object, ...], trace: str | None) -> None:
    """Write a line to descriptor 2, and not to ``sys.stderr``, which a task may have wrapped or closed."""
    if _has_standard_error is False:
        return
    # Formatted by hand, because each job writes two lines: a log record and its formatter take three times as long.
    try:
        second, thousandth = divmod(int(time.time() * 1000), 1000)
        text = message % args if args else message
        job = _job.get()
        where = LOGGER if job is None or job[0] in text else f"{LOGGER} [job {one_line(job[0])}]"
        line = f"{_second(second)},{thousandth:03d} {logging.getLevelName(level)} {where}: {text}"
        # In one write: lines of several processes must not be mixed.
        os.write(2, (f"{line}\n{trace}\n" if trace else f"{line}\n").encode("utf-8", "backslashreplace"))
    except Exception:  # noqa: S110 - there is no other place to say so
        pass


@lru_cache(maxsize=1)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
