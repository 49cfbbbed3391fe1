"""What spoolkit logs: readable without a configuration, safe against any text and against logging that fails."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import spool, thread
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import log
from spoolkit.system.process import PerProcess

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


def said(code: str) -> str:
    """What a process that has no logging configured writes to standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


class Records(logging.Handler):
    """Keeps the records, and what the standard formatter makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(logging.Formatter("%(levelname)s %(message)s").format(record))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger, as a site configures it."""
    logger = logging.getLogger(log.LOGGER)
    before = logger.handlers[:], logger.level, logger.propagate, logger.filters[:], logger.disabled
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers[:], logger.level, logger.propagate, logger.filters[:], logger.disabled = before
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def seen(logger: logging.Logger) -> Records:
    """What the site's handler gets."""
    handler = Records()
    logger.addHandler(handler)
    return handler


# Where nothing is configured.


def test_without_a_configuration_a_line_has_time_level_logger_and_job() -> None:
    code = (
        "from spoolkit.system import log\n"
        "with log.about('abc', 'shop.pay'):\n"
        "    log.info('job %s starts', 'abc'); log.error('trouble')\n"
        "log.warning('outside')"
    )
    first, second, third = said(code).splitlines()
    assert re.fullmatch(LINE + r" INFO spoolkit: job abc starts", first)
    assert re.fullmatch(LINE + r" ERROR spoolkit \[job abc\]: trouble", second)
    assert re.fullmatch(LINE + r" WARNING spoolkit: outside", third)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("logging.basicConfig(format='%(message)s')", "warned\n"),
        ("logging.basicConfig(format='%(message)s', level='INFO')", "informed\nwarned\n"),
        ("logging.getLogger('spoolkit').addHandler(logging.NullHandler())", ""),
        ("logging.disable(logging.CRITICAL)", ""),
        (
            "import logging.config; logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,"
            " 'formatters': {'plain': {'format': '%(message)s'}}, 'root': {'handlers': ['out']},"
            " 'handlers': {'out': {'class': 'logging.StreamHandler', 'formatter': 'plain'}}})",
            "warned\n",
        ),
    ],
)
def test_a_line_goes_only_where_the_site_has_configured_it(configuration: str, expected: str) -> None:
    code = (
        f"import logging; from spoolkit.system import log\n{configuration}\nlog.info('informed'); log.warning('warned')"
    )
    assert said(code) == expected


def test_a_configured_level_is_respected_without_a_handler() -> None:
    code = (
        "import logging; from spoolkit.system import log\n"
        "logging.getLogger('spoolkit').setLevel('ERROR'); log.warning('no'); log.error('yes')"
    )
    assert said(code).endswith("ERROR spoolkit: yes\n")
    assert "no" not in said(code)


def test_logging_before_the_site_configures_it_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging; from spoolkit.system import log\n"
        "log.warning('before'); assert not logging.getLogger().handlers\n"
        "logging.basicConfig(format='%(message)s'); log.warning('after')"
    )
    before, after = said(code).splitlines()
    assert before.endswith("WARNING spoolkit: before")
    assert after == "after"


# Whatever the text is.


@given(st.text())
def test_one_line_makes_any_text_one_printable_line(text: str) -> None:
    line = log.one_line(text)
    assert len(line.splitlines()) <= 1
    line.encode()
    assert not set(line) & set("\x00\x1b\r\n\t\u202e\u2066\u2028\x9b")
    assert log.one_line(line) == line


@given(st.text())
def test_block_keeps_lines_and_none_looks_like_a_record(text: str) -> None:
    block = log.block(text, indent="  ")
    assert all(line.startswith("  ") for line in block.split("\n"))
    assert not set(block) & set("\x00\x1b\r\u202e\u2066\u2028\x9b")
    assert block.count("\n") == text.rstrip("\n").count("\n")


FORGED = "\r\n2026-01-01 00:00:00,000 INFO root: all is well\x1b[2J\u202e\u2028end"


def test_the_text_of_an_error_cannot_forge_a_line(seen: Records) -> None:
    error = ValueError(FORGED)
    log.error("job %s is dead: %s", f"id{FORGED}", error, error=error)
    (text,) = seen.lines
    head, *rest = text.split("\n")
    assert head.startswith(r"ERROR job id\r\n2026-01-01")
    assert rest
    assert all(line.startswith("  ") for line in rest), "indented, a line of the text looks like no record"
    assert not set(text) & set("\x1b\r\u202e\u2028")


def test_a_record_holds_its_exception_once_for_sentry_and_json(seen: Records) -> None:
    error = ValueError("boom")
    log.error("failed: %s", error, error=error)
    (record,) = seen.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "Traceback" not in record.getMessage()
    assert seen.lines[0].count("ValueError: boom") == 1
    assert (record.funcName, record.filename) == (
        "test_a_record_holds_its_exception_once_for_sentry_and_json",
        "test_log.py",
    )


def test_details_are_logged_after_the_line(seen: Records) -> None:
    log.error("the process died", details="Fatal Python error: Aborted\n  File x\n")
    assert seen.lines == ["ERROR the process died\n  Fatal Python error: Aborted\n    File x"]


# Whatever logging does.


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Raises(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it fails")


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_a_line_whose_handler_raises_goes_to_standard_error(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    logger.addHandler(Raises(error))
    log.error("the line", error=ValueError("boom"))
    err = capfd.readouterr().err
    assert "ERROR spoolkit: the line\n" in err
    assert "ValueError: boom" in err


def test_a_line_is_written_although_filter_formatter_or_record_factory_raise(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.addHandler(handler := logging.StreamHandler(io.StringIO()))
    monkeypatch.setattr(handler, "format", _raise)
    log.error("with a formatter")  # which logging itself survives
    logger.addFilter(_raise)
    log.error("with a filter")
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_raise)
    try:
        log.error("with a factory")
    finally:
        logging.setLogRecordFactory(factory)
    err = capfd.readouterr().err
    assert "with a filter" in err
    assert "with a factory" in err


def test_a_closed_stream_is_no_error(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)  # where logging would report that its handler failed
    logger.addHandler(logging.StreamHandler(closed))
    log.error("nowhere")


def test_arguments_and_errors_that_cannot_be_shown_are_no_error(seen: Records) -> None:
    log.error("odd: %s", Odd(), error=Odd())
    assert seen.lines[0].startswith("ERROR odd: (Odd: cannot be read)\n")
    log.error("too %s few %s", 1)
    log.error("after")
    assert seen.lines[-1] == "ERROR after"


def test_a_process_that_distrusts_handlers_writes_to_standard_error_only() -> None:
    code = (
        "import logging, os; from spoolkit.system import log\n"
        "logging.basicConfig(filename=os.devnull); log.distrust_handlers(standard_error=True); log.error('said')\n"
        "log.distrust_handlers(standard_error=False); log.error('not said')"
    )
    assert said(code).endswith("ERROR spoolkit: said\n")


# Complaints.


def test_complain_logs_the_same_message_once_a_minute(seen: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    monkeypatch.setattr(log, "_complaints", PerProcess(dict))
    for number in range(500):
        log.complain("the file %s stays", number)
    log.complain("another one")
    assert seen.lines == ["ERROR the file 0 stays", "ERROR another one"]
    now += log.COMPLAINT_INTERVAL
    log.complain("the file %s stays", "x")
    assert seen.lines[2:] == ["ERROR the file x stays (and 499 times more since this was last logged)"]


# The site's own lines.


def test_the_filter_adds_the_job_to_lines_of_the_site() -> None:
    logger, stream = logging.Logger("shop"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(job_id)s %(task_name)s %(message)s"))
    handler.addFilter(log.JobLogFilter())
    logger.addHandler(handler)
    logger.warning("outside")
    with log.about("abc", "shop.pay"):
        logger.warning("inside")
    assert stream.getvalue() == "- - outside\nabc shop.pay inside\n"


@spool
def noop() -> None: ...


def test_a_job_that_cannot_be_settled_is_logged_once_a_minute(
    directory: str, seen: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_complaints", PerProcess(dict))

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(spoolfile, "finish", refuse)
    noop()
    for _ in range(20):
        Spooler(directory).run_due()
    assert len([record for record in seen.records if record.exc_info]) == 1


def test_the_handler_for_uwsgi_never_raises_and_logs_once_a_minute() -> None:
    code = (
        "from spoolkit.spooling import handler\n"
        "handler.serve = lambda *_: 1 / 0\n"
        "for _ in range(20): assert handler.on_spool({'spooler_task_name': b'a file'}) == -1"
    )
    lines = [line for line in said(code).splitlines() if not line.startswith(" ")]
    assert len(lines) == 1, lines
    assert "the spool file a file could not be processed and is tried again" in lines[0]


@pytest.mark.parametrize("engine", ["spool", "thread"])
def test_the_filter_knows_the_id_of_the_running_job(directory: str, engine: str) -> None:
    logger, stream = logging.getLogger("shop.lines"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(job_id)s %(task_name)s %(message)s"))
    handler.addFilter(log.JobLogFilter())
    logger.addHandler(handler)
    try:
        job = (logs_in_spool if engine == "spool" else logs_in_thread)()
        Spooler(directory).run_due()
        assert job.wait(timeout=60)
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == f"{job.id} {job.task} inside\n"


@spool
def logs_in_spool() -> None:
    logging.getLogger("shop.lines").warning("inside")


@thread
def logs_in_thread() -> None:
    logging.getLogger("shop.lines").warning("inside")
