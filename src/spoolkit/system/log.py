"""What spoolkit writes to the log: readable where the site configures no logging, and never in the way of a job.

A handler, a formatter, a filter or a stream of the site may fail; a job must not. So nothing here raises: what the
site's logging does not take is written to standard error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

LOGGER = "spoolkit"
"""The logger's name."""

PAUSE = 60.0
"""Seconds between two lines with the same complaint."""

_logger = logging.getLogger(LOGGER)
_job: ContextVar[tuple[str, str] | None] = ContextVar("spoolkit.logged_job", default=None)
_complaints: dict[tuple[int, str], tuple[float, int]] = {}
"""By process and complaint: when, on the monotonic clock, it was last written, and how often it came up since."""
_distrusted: dict[int, bool] = {}
"""The process whose handlers must not be used any more, with whether it still has its standard error."""

# Controls, line and paragraph separators, what turns the direction of text, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """``text`` on one line, with escapes for what would forge a line or steer a terminal."""
    return _UNSAFE.sub(_escape, text)


def block(text: str, indent: str = "") -> str:
    """``text`` with its line breaks and tabs, and escapes for all else as in :func:`one_line`."""
    return "\n".join(indent + _UNSAFE.sub(_escape_but_tab, line) for line in text.rstrip("\n").split("\n"))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _escape_but_tab(found: re.Match[str]) -> str:
    return "\t" if found[0] == "\t" else _escape(found)


@contextlib.contextmanager
def about(job: str, task: str) -> Iterator[None]:
    """Within it, what is logged is about the job ``job`` of the task ``task``."""
    token = _job.set((job, task))
    try:
        yield
    finally:
        _job.reset(token)


class JobLogFilter(logging.Filter):
    """Gives each record ``job_id`` and ``task_name``, so that a format can have ``%(job_id)s``.

    Outside of a job both are ``-``. Add it to a handler (a logger's filters do not see the records of the loggers below
    it). Threads that a task starts do not belong to its job, unless they run in a copy of its context.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes; every record passes."""
        record.job_id, record.task_name = _job.get() or ("-", "-")
        return True


def debug(message: str, *args: object) -> None:
    """Log what only somebody who searches for a fault wants to see."""
    _say(logging.DEBUG, message, args)


def info(message: str, *args: object) -> None:
    """Log ``message % args``, as all of these do. The arguments are put on one line."""
    _say(logging.INFO, message, args)


def warning(message: str, *args: object, error: BaseException | None = None, details: str = "") -> None:
    """Log a warning, with the traceback of ``error``, or with ``details`` of several lines."""
    _say(logging.WARNING, message, args, error, details)


def error(message: str, *args: object, error: BaseException | None = None, details: str = "") -> None:
    """Log an error, with the same."""
    _say(logging.ERROR, message, args, error, details)


def exception(message: str, *args: object) -> None:
    """Log an error, with the traceback of the exception that is being handled."""
    _say(logging.ERROR, message, args, sys.exc_info()[1])


def complain(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log an error that may come up again and again: the same ``message`` once in :data:`PAUSE` seconds."""
    now, key = time.monotonic(), (os.getpid(), message)
    last, suppressed = _complaints.get(key, (now - PAUSE, 0))
    if now - last < PAUSE:
        _complaints[key] = last, suppressed + 1
        return
    _complaints[key] = now, 0
    if suppressed:
        message, args = message + " (and %d times more since this was last logged)", (*args, suppressed)
    _say(logging.ERROR, message, args, error)


def unrecorded(error: Exception) -> None:
    """Log that jobs run without a record because of ``error``: now and then, not for each job."""
    complain("jobs run without being recorded, pid %d: %s (see `flask spool doctor`)", os.getpid(), error)


def distrust_handlers(*, standard_error: bool) -> None:
    """Use none of the site's handlers in this process any more: their descriptors may be another file's by now.

    What is left to say goes to standard error, if this process still has it.
    """
    _distrusted[os.getpid()] = standard_error


def trusts_handlers() -> bool:
    """Whether the site's handlers, and what they buffer, can be written."""
    return os.getpid() not in _distrusted


def _say(
    level: int, message: str, args: tuple[object, ...], error: BaseException | None = None, details: str = ""
) -> None:
    configured = False
    try:
        # Asked each time: the site may configure its logging after it has imported us.
        configured = trusts_handlers() and _logger.hasHandlers()
        if not _is_enabled(level, configured):
            return
    except BaseException:  # noqa: S110 - what fails here is the site's own; then the line is written as below
        pass
    clean = tuple(arg if isinstance(arg, (int, float)) else _text(arg) for arg in args)
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
    # Nobody chose a level: the root's default would keep from everybody that jobs start and end.
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
    # Set here, formatters take it as it is. Their own would write the exception's text raw, and a line break in that
    # begins what looks like another record.
    record.exc_text = trace
    return record


def _text(value: object) -> str:
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
    """Write a line to standard error; not by way of ``sys.stderr``, which a task may have wrapped or closed."""
    if not _distrusted.get(os.getpid(), True):
        return
    # Made by hand, as a job has two of them: a record and its formatting take three times as long.
    with contextlib.suppress(Exception):
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now % 1 * 1000):03d}"
        text = message % args if args else message
        job = _job.get()
        where = LOGGER if job is None or job[0] in text else f"{LOGGER} [job {one_line(job[0])}]"
        line = f"{stamp} {logging.getLevelName(level)} {where}: {text}"
        # In one piece: lines of several processes must not be mixed.
        os.write(2, (line + (f"\n{trace}\n" if trace else "\n")).encode("utf-8", "backslashreplace"))
