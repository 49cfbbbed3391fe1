"""How does the output of a task get into the log of its job, and still to where it went before?"""

from __future__ import annotations

import _thread
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cached_property
from typing import Any, TextIO

from spoolkit.errors import JobTimeout

Sink = Callable[[str], None]
"""Takes a piece of text for the log of a job."""

RecordFactory = Callable[..., logging.LogRecord]

WRAPPERS = 8
"""How many calls may lie between a logging handler and the stream: sites wrap streams, as colorama does."""

_context_sink: ContextVar[Sink | None] = ContextVar("spoolkit.output", default=None)
_format = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s").format


class _Capture:
    """Whose output is captured in this process."""

    def __init__(self) -> None:
        #: The sink of the job that the main thread runs.
        self.main_sink: Sink | None = None
        #: Threads that ran before the job of the main thread started: their output does not belong to it.
        self.other_threads: list[threading.Thread] = []
        #: How many jobs run; the first one replaces the streams, the last one puts them back.
        self.users = 0
        #: Held while ``users`` changes.
        self.lock = threading.Lock()
        #: What was put in place of the streams, by name; used again for as long as the streams stay the same.
        self.tees: dict[str, _Tee] = {}
        #: What was put in place of the record factory, which is used again likewise, and the factory before it.
        self.factories: tuple[RecordFactory, RecordFactory] | None = None


_capture = _Capture()


class to:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """Give ``sink`` a copy of what this context prints and logs in the ``with`` block.

    In the main thread, where one job runs at a time, ``sink`` also gets what threads print that the task has started.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        self._token = _context_sink.set(self._sink)
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            # Nearly always there are none, and to make a list of that costs as much as to replace the streams.
            others = threading.enumerate() if _thread._count() else []
            _capture.main_sink, _capture.other_threads = self._sink, others
        with _capture.lock:
            _capture.users += 1
            if _capture.users == 1:
                _install()

    def __exit__(self, *_: object) -> None:
        with _capture.lock:
            _capture.users -= 1
            if not _capture.users:
                _uninstall()
        if self._is_main:
            _capture.main_sink, _capture.other_threads = None, []
        _context_sink.reset(self._token)


def _install() -> None:
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name, None)) is not None:
            tee = _capture.tees.get(name)
            if tee is None or tee.stream is not stream:
                tee = _capture.tees[name] = _Tee(stream)
            setattr(sys, name, tee)
    # A record factory and not a handler: a handler at the root logger would disable basicConfig() and the handler of
    # last resort, and would not see the records of loggers that do not propagate.
    factory = logging.getLogRecordFactory()
    if _capture.factories is None or _capture.factories[1] is not factory:
        _capture.factories = _copying(factory), factory
    logging.setLogRecordFactory(_capture.factories[0])


def _uninstall() -> None:
    # A task may have replaced them for good.
    if _capture.factories is not None and logging.getLogRecordFactory() is _capture.factories[0]:
        logging.setLogRecordFactory(_capture.factories[1])
    for name, tee in _capture.tees.items():
        if getattr(sys, name, None) is tee:
            setattr(sys, name, tee.stream)


def _copy(text: str) -> None:
    sink = _context_sink.get()
    if sink is None and threading.current_thread() not in _capture.other_threads:
        sink = _capture.main_sink
    if sink is not None:
        sink(text)


def _copying(factory: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        try:
            _copy(_format(record) + "\n")
            # The formatting above has stored the traceback's text in the record. Handlers may format it differently.
            record.exc_text = None
        except JobTimeout:
            raise  # the alarm goes off only once
        except Exception:  # noqa: S110 - arguments that do not fit the message: logging itself reports those
            pass
        return record

    return make


def _from_logging() -> bool:
    """Whether a logging handler writes: then the text was copied when the record was made."""
    frame = sys._getframe(1).f_back
    for _ in range(WRAPPERS):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


class _Writing(threading.local):
    """Whether this thread is writing to a stream that is copied."""

    now = False


_writing = _Writing()


class _Tee:
    """A text stream that copies what is written to it, and that nobody but its owner can close.

    A task may wrap it in a stream that stays after the job. Text that then passes two of these is copied once, by the
    first.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if _writing.now:
            return self.stream.write(text)
        _writing.now = True
        try:
            written = self.stream.write(text)
        finally:
            _writing.now = False
        if not _from_logging():
            _copy(text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        # Under uWSGI standard output and error are one file: if a task closed it, nothing here could write any more.
        self.flush()

    def flush(self) -> None:
        self.stream.flush()

    @cached_property
    def buffer(self) -> Any:
        # A text stream that wraps it, as for another encoding, closes it when it is garbage-collected.
        return _UnclosableBuffer(self.stream.buffer)

    def detach(self) -> Any:
        self.flush()
        return self.buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _UnclosableBuffer:
    """The binary buffer of a standard stream, which is copied and cannot be closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> Any:
        written = self._stream.write(data)
        if not _writing.now and not _from_logging():
            _copy(bytes(data).decode("utf-8", "replace"))
        return written

    def close(self) -> None:
        self._stream.flush()

    def detach(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
