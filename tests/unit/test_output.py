"""What a task prints and logs is noted once, and goes where it went before."""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spoolkit.attempt import output


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What was noted, piece by piece."""
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    yield []
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before, "all is as it was"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("shop", logging.INFO)  # with no handler but what the test gives it
    yield logger
    logger.handlers.clear()


def text(log: list[str]) -> str:
    return "".join(log)


def test_printed_text_is_captured_and_still_printed(log: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    print("before")
    with output.to(log.append):
        print("hello", 1)
        print("oh", file=sys.stderr, end="")
        sys.stdout.writelines(["a\n", "b\n"])
        assert sys.stdout.write("four") == 4
    print("after")
    assert text(log) == "hello 1\noha\nb\nfour"
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("before\nhello 1\na\nb\nfourafter\n", "oh")


def test_logged_records_are_captured_without_a_handler(log: list[str], logger: logging.Logger) -> None:
    with output.to(log.append):
        logger.info("%s of %s", 1, 2)
        logger.debug("not that much")
    assert text(log).endswith(" INFO shop: 1 of 2\n")
    assert text(log).count("\n") == 1


def test_a_record_is_captured_once_however_many_handlers_there_are(
    log: list[str], logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with output.to(log.append):
        logger.addHandler(logging.StreamHandler())  # of sys.stderr as it is now
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.warning("once")
        print("printed")
    assert text(log).count("once") == 1
    assert "printed" in text(log)
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("once\nprinted\n", "once\n")


def test_a_logged_exception_has_its_traceback_and_handlers_format_it_themselves(
    log: list[str], logger: logging.Logger
) -> None:
    class Formatter(logging.Formatter):
        def formatException(self, ei: Any) -> str:
            return "in its own way"

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter())
    logger.addHandler(handler)
    with output.to(log.append):
        try:
            raise ValueError("oh")
        except ValueError:
            logger.exception("failed")
    assert "Traceback" in text(log)
    assert text(log).endswith("ValueError: oh\n")
    assert stream.getvalue() == "failed\nin its own way\n"


def test_a_record_whose_arguments_do_not_fit_is_left_to_logging(log: list[str], logger: logging.Logger) -> None:
    with output.to(log.append):
        logger.info("%d", "text")
        logger.info("fits")
    assert text(log).endswith("fits\n")
    assert text(log).count("\n") == 1


def test_basic_config_works_within_a_task() -> None:
    code = (
        "import logging; from spoolkit.attempt import output as capture; log = []\n"
        "with capture.to(log.append):\n"
        "    logging.basicConfig(format='%(message)s'); logging.warning('hello')\n"
        "assert len(log) == 1 and log[0].endswith('WARNING root: hello\\n'), log\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "hello\n")


def test_without_a_handler_the_handler_of_last_resort_writes() -> None:
    code = (
        "import logging; from spoolkit.attempt import output as capture; log = []\n"
        "with capture.to(log.append):\n    logging.warning('hello')\nassert len(log) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "WARNING:root:hello\n")


def test_output_of_threads_that_a_task_starts_is_captured(log: list[str]) -> None:
    with output.to(log.append):
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join(60)
    assert text(log) == "from a thread\n"


def test_the_output_of_jobs_in_threads_is_kept_apart() -> None:
    logs: dict[str, list[str]] = {name: [] for name in "abc"}
    together = threading.Barrier(len(logs))

    def job(name: str) -> None:
        with output.to(logs[name].append):
            together.wait(60)
            for _ in range(100):
                print(name)
            together.wait(60)

    before = sys.stdout
    threads = [threading.Thread(target=job, args=(name,)) for name in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: text(log) for name, log in logs.items()} == {name: f"{name}\n" * 100 for name in logs}
    assert sys.stdout is before


def test_output_outside_a_job_is_not_captured_beside_a_thread_job(log: list[str]) -> None:
    begun, go = threading.Event(), threading.Event()

    def job() -> None:
        with output.to(log.append):
            begun.set()
            go.wait(60)
            print("of the job")

    thread = threading.Thread(target=job)
    thread.start()
    begun.wait(60)
    print("of somebody else")
    go.set()
    thread.join(60)
    assert text(log) == "of the job\n"


def test_output_of_a_thread_that_runs_in_a_copied_context_is_captured(log: list[str]) -> None:
    other: list[str] = []

    def within() -> None:
        with output.to(other.append):
            print("inner")

    with output.to(log.append):
        contextvars.copy_context().run(print, "copied")
        thread = threading.Thread(target=within)
        thread.start()
        thread.join(60)
        print("outer")
    assert (text(log), text(other)) == ("copied\nouter\n", "inner\n")


def test_an_error_ends_the_capture(log: list[str]) -> None:
    def interrupted() -> None:
        print("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), output.to(log.append):
        interrupted()
    assert text(log) == "so far\n"


def test_a_stream_that_the_task_installs_stays_after_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    mine = io.StringIO()
    log: list[str] = []
    try:
        with output.to(log.append):
            sys.stdout = mine
            print("mine")
        assert sys.stdout is mine
        assert (mine.getvalue(), log) == ("mine\n", [])
    finally:
        sys.stdout = before


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_missing_standard_stream_is_not_captured(log: list[str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    with output.to(log.append):
        assert getattr(sys, name) is None
        print("elsewhere", file=sys.stderr if name == "stdout" else sys.stdout)
    assert text(log) == "elsewhere\n"
    monkeypatch.undo()


def test_other_attributes_come_from_the_stream_itself(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with output.to(log.append):
        assert sys.stdout is not stream
        assert (sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.buffer.readable()) == ("latin-1", False, True)
        assert list(sys.stdout) == ["one\n", "two\n"]
        with pytest.raises(AttributeError):
            _ = sys.stdout.nothing_like_that  # type: ignore[attr-defined]
    monkeypatch.undo()


def test_text_that_the_stream_refuses_raises_and_is_not_captured(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with output.to(log.append), pytest.raises(UnicodeEncodeError):
        sys.stdout.write("\u00e9")
    assert log == []
    monkeypatch.undo()


@contextlib.contextmanager
def standard_output() -> Iterator[io.BytesIO]:
    """Within it, what standard output gets. Not a fixture: pytest sets the stream anew between that and the test."""
    data, before = io.BytesIO(), sys.stdout
    sys.stdout = stream = io.TextIOWrapper(data, encoding="utf-8", write_through=True)
    try:
        yield data
        assert not stream.closed
    finally:
        sys.stdout = before
        if not data.closed:
            stream.detach()


def test_a_task_that_wraps_the_stream_does_not_close_it() -> None:
    log: list[str] = []
    with standard_output() as out, output.to(log.append):
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("\u00fc")
        sys.stdout = io.StringIO()  # the wrapper is collected, and closes what it wraps
        assert (out.getvalue(), text(log)) == ("\u00fc\n".encode(), "\u00fc\n")


@pytest.mark.parametrize("close", [lambda: sys.stdout.close(), lambda: sys.stdout.detach().close()])
def test_a_task_that_closes_the_stream_can_still_print(close: Any) -> None:
    log: list[str] = []
    with standard_output() as out:
        with output.to(log.append):
            close()
            with sys.stdout:
                print("still")
            print("here")
        print("after")
        assert (out.getvalue(), text(log)) == (b"still\nhere\nafter\n", "still\nhere\n")


class Wrapper:
    """A stream around another one, such as colorama's."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return int(self.stream.write(text))

    def flush(self) -> None:
        self.stream.flush()


def test_streams_that_are_wrapped_again_in_each_job_capture_each_line_once(logger: logging.Logger) -> None:
    with standard_output() as out:
        for number in range(4):
            log: list[str] = []
            with output.to(log.append):
                sys.stdout = Wrapper(sys.stdout)
                handler = logging.StreamHandler(sys.stdout)
                logger.addHandler(handler)
                print("printed", number)
                logger.warning("logged")
                logger.removeHandler(handler)
            assert text(log).count("printed") == 1
            assert text(log).count("logged") == 1
            assert out.getvalue().decode().count("printed") == number + 1
