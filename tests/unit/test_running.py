"""The file of a running attempt: readable while it runs, kept when its process dies, gone when it is recorded."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spoolkit.job import Progress
from spoolkit.spooldir import running
from spoolkit.spooldir.running import LOG_LIMIT, AttemptFile, ask_to_stop, delete, read

ID = "1" * 32


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def test_read_gives_progress_and_log_of_a_running_attempt(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    assert read(folder, ID) == (None, "")
    shown.write("one\n")
    shown.progress(Progress(1, 2, "parts"))
    shown.write("two\n")
    assert read(folder, ID) == (Progress(1, 2, "parts"), "one\ntwo\n")
    assert shown.log() == "one\ntwo\n"
    shown.progress(Progress(2))
    assert read(folder, ID)[0] == shown.last_progress == Progress(2)


def test_an_attempt_file_and_its_folder_are_private(folder: str) -> None:
    AttemptFile(folder, ID)
    assert os.stat(f"{folder}/running").st_mode & 0o777 == 0o700
    assert os.stat(f"{folder}/running/{ID}").st_mode & 0o777 == 0o600


def test_an_attempt_file_outlives_a_killed_process(folder: str) -> None:
    pid = os.fork()
    if not pid:
        shown = AttemptFile(folder, ID)
        shown.write("last words")
        shown.progress(Progress(3))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert read(folder, ID) == (Progress(3), "last words")
    delete(folder, ID)
    assert read(folder, ID) == (None, "")
    assert os.listdir(f"{folder}/running") == []


def test_the_next_attempt_starts_without_progress_and_log(folder: str) -> None:
    earlier = AttemptFile(folder, ID)
    earlier.write("earlier")
    earlier.progress(Progress(3))
    now = AttemptFile(folder, ID)
    assert read(folder, ID) == (None, "")
    assert (now.last_progress, now.log()) == (None, "")
    now.write("now")
    assert read(folder, ID) == (None, "now")


def test_nothing_is_left_after_the_attempt_is_recorded(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    fd = shown.fd
    shown.close()
    delete(folder, ID)
    assert os.listdir(f"{folder}/running") == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    shown.close()
    assert shown.cancel_asked is False


def test_a_closed_attempt_file_ignores_progress_and_log(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("before")
    shown.close()
    delete(folder, ID)
    shown.write("after")
    shown.progress(Progress(1))
    assert read(folder, ID) == (None, "")


# The stop flag


def test_ask_to_stop_sets_the_flag_of_a_running_attempt(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    assert not shown.cancel_asked
    shown.progress(Progress(1))
    assert not shown.cancel_asked
    ask_to_stop(folder, ID)
    assert shown.cancel_asked
    shown.progress(Progress(2))
    shown.write("text")
    assert shown.cancel_asked
    assert read(folder, ID) == (Progress(2), "text")


def test_ask_to_stop_also_works_before_the_attempt_starts(folder: str) -> None:
    os.mkdir(f"{folder}/running")
    ask_to_stop(folder, ID)
    assert os.stat(f"{folder}/running/{ID}").st_mode & 0o777 == 0o600
    assert AttemptFile(folder, ID).cancel_asked


def test_ask_to_stop_does_nothing_without_the_folder(folder: str) -> None:
    ask_to_stop(folder, ID)
    assert os.listdir(folder) == []


# The log


def test_a_long_log_is_cut_to_its_end(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    for number in range(60_000):
        shown.write(f"{number}\n")
    for log in (shown.log(), read(folder, ID)[1]):
        lines = log.split("\n")
        assert lines[-2:] == ["59999", ""]
        assert len(log) == LOG_LIMIT
        assert lines[1:-1] == [str(number) for number in range(int(lines[1]), 60_000)]
    assert os.stat(shown.path).st_size < 1024 + 3 * LOG_LIMIT


def test_one_long_text_is_cut_to_its_end(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("x" * LOG_LIMIT + "y" * LOG_LIMIT)
    assert shown.log() == "y" * LOG_LIMIT
    shown.write("z")
    assert shown.log() == "y" * (LOG_LIMIT - 1) + "z"


def test_progress_stays_when_the_log_is_cut(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.progress(Progress(1, 2, "parts"))
    for _ in range(5):
        shown.write("x" * LOG_LIMIT)
    assert read(folder, ID) == (Progress(1, 2, "parts"), "x" * LOG_LIMIT)


def test_read_includes_what_faulthandler_appends_to_the_log(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("before\n")
    os.write(shown.fd, b"Fatal Python error: Segmentation fault\n")
    assert read(folder, ID)[1] == "before\nFatal Python error: Segmentation fault\n"


def test_text_that_is_not_utf8_is_escaped(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("\udcff \u00e9")
    assert shown.log() == r"\udcff" + " \u00e9"
    os.write(shown.fd, b"\xff")
    assert shown.log().endswith("\ufffd")


# Progress

numbers = st.integers() | st.floats(allow_nan=False)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(numbers, st.none() | numbers, st.text())
@example(0, None, "x" * 5000)
@example(1, 2, "\u20ac" * 400)
@example(1, 2, '"\\' * 300)
def test_progress_is_read_as_reported_and_a_long_note_is_cut(
    folder: str, done: float, total: float | None, note: str
) -> None:
    shown = AttemptFile(folder, ID)
    try:
        shown.write("log")
        shown.progress(Progress(1, 2, "y" * 900))
        shown.progress(Progress(done, total, note))
        seen, log = read(folder, ID)
        assert log == "log"
        assert seen is not None
        assert (seen.done, seen.total) == (done, total)
        assert note.startswith(seen.note)
        assert seen.note == note or len(seen.note) >= 40
    finally:
        shown.close()


def test_read_ignores_a_progress_line_that_is_half_written(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    os.pwrite(shown.fd, b"[1, 2, ", 1)
    shown.write("log")
    assert read(folder, ID) == (None, "log")


# Where the file cannot be made


def test_an_attempt_file_that_cannot_be_made_shows_nothing_and_raises_nothing(tmp_path: Path) -> None:
    where = tmp_path / "file"
    where.write_text("x")
    shown = AttemptFile(str(where), ID)
    shown.progress(Progress(1))
    shown.write("text")
    assert (shown.fd, shown.cancel_asked, shown.last_progress, shown.log()) == (-1, False, Progress(1), "")
    shown.close()
    assert read(str(where), ID) == (None, "")


def test_an_attempt_file_does_not_follow_a_link(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("1 of great value")
    os.mkdir(f"{folder}/running")
    os.symlink(target, f"{folder}/running/{ID}")
    shown = AttemptFile(folder, ID)
    shown.write("text")
    ask_to_stop(folder, ID)
    assert read(folder, ID) == (None, "")
    assert target.read_text() == "1 of great value"


def test_read_gives_nothing_for_anything_but_a_file(folder: str) -> None:
    os.makedirs(f"{folder}/running/{ID}")
    assert read(folder, ID) == (None, "")


def test_read_and_ask_to_stop_leave_no_descriptor_open(folder: str) -> None:
    AttemptFile(folder, ID).write("text")
    before = len(os.listdir("/proc/self/fd"))
    read(folder, ID)
    ask_to_stop(folder, ID)
    assert len(os.listdir("/proc/self/fd")) == before


def test_child_processes_do_not_inherit_the_descriptor(folder: str) -> None:
    assert not os.get_inheritable(AttemptFile(folder, ID).fd)
    running.delete(folder, "nowhere")
