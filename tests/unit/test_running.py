"""What a running attempt shows of itself: seen while it runs, left behind when it dies, gone when it is over."""

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


def test_progress_and_log_are_seen_while_it_runs(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    assert read(folder, ID) == (None, "")
    shown.write("one\n")
    shown.progress(Progress(1, 2, "parts"))
    shown.write("two\n")
    assert read(folder, ID) == (Progress(1, 2, "parts"), "one\ntwo\n")
    assert shown.log() == "one\ntwo\n"
    shown.progress(Progress(2))
    assert read(folder, ID)[0] == shown.last_progress == Progress(2)


def test_they_are_its_owners_alone(folder: str) -> None:
    AttemptFile(folder, ID)
    assert os.stat(f"{folder}/running").st_mode & 0o777 == 0o700
    assert os.stat(f"{folder}/running/{ID}").st_mode & 0o777 == 0o600


def test_they_outlive_a_process_that_is_killed(folder: str) -> None:
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


def test_the_next_attempt_begins_anew(folder: str) -> None:
    earlier = AttemptFile(folder, ID)
    earlier.write("earlier")
    earlier.progress(Progress(3))
    now = AttemptFile(folder, ID)
    assert read(folder, ID) == (None, "")
    assert (now.last_progress, now.log()) == (None, "")
    now.write("now")
    assert read(folder, ID) == (None, "now")


def test_nothing_is_left_once_it_is_recorded(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    fd = shown.fd
    shown.close()
    delete(folder, ID)
    assert os.listdir(f"{folder}/running") == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    shown.close()
    assert shown.cancel_asked is False


def test_it_may_report_and_write_when_it_is_over(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("before")
    shown.close()
    delete(folder, ID)
    shown.write("after")
    shown.progress(Progress(1))
    assert read(folder, ID) == (None, "")


# The word to stop


def test_the_word_to_stop_is_heard(folder: str) -> None:
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


def test_the_word_to_stop_may_come_first(folder: str) -> None:
    os.mkdir(f"{folder}/running")
    ask_to_stop(folder, ID)
    assert os.stat(f"{folder}/running/{ID}").st_mode & 0o777 == 0o600
    assert AttemptFile(folder, ID).cancel_asked


def test_where_nothing_runs_the_word_to_stop_is_lost(folder: str) -> None:
    ask_to_stop(folder, ID)
    assert os.listdir(folder) == []


# The log


def test_of_a_long_log_the_end_is_kept(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    for number in range(60_000):
        shown.write(f"{number}\n")
    for log in (shown.log(), read(folder, ID)[1]):
        lines = log.split("\n")
        assert lines[-2:] == ["59999", ""]
        assert len(log) == LOG_LIMIT
        assert lines[1:-1] == [str(number) for number in range(int(lines[1]), 60_000)]
    assert os.stat(shown.path).st_size < 1024 + 3 * LOG_LIMIT


def test_of_one_long_text_the_end_is_kept(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("x" * LOG_LIMIT + "y" * LOG_LIMIT)
    assert shown.log() == "y" * LOG_LIMIT
    shown.write("z")
    assert shown.log() == "y" * (LOG_LIMIT - 1) + "z"


def test_progress_stands_when_the_log_is_cut(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.progress(Progress(1, 2, "parts"))
    for _ in range(5):
        shown.write("x" * LOG_LIMIT)
    assert read(folder, ID) == (Progress(1, 2, "parts"), "x" * LOG_LIMIT)


def test_what_others_write_behind_the_log_is_part_of_it(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    shown.write("before\n")
    os.write(shown.fd, b"Fatal Python error: Segmentation fault\n")
    assert read(folder, ID)[1] == "before\nFatal Python error: Segmentation fault\n"


def test_text_that_is_no_utf8_is_kept_as_can_be(folder: str) -> None:
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
def test_whatever_is_reported_is_seen_and_a_long_note_is_cut(
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


def test_a_line_that_is_half_written_is_none(folder: str) -> None:
    shown = AttemptFile(folder, ID)
    os.pwrite(shown.fd, b"[1, 2, ", 1)
    shown.write("log")
    assert read(folder, ID) == (None, "log")


# Where it cannot be


def test_where_it_cannot_be_made_nothing_is_shown_and_the_job_runs(tmp_path: Path) -> None:
    where = tmp_path / "file"
    where.write_text("x")
    shown = AttemptFile(str(where), ID)
    shown.progress(Progress(1))
    shown.write("text")
    assert (shown.fd, shown.cancel_asked, shown.last_progress, shown.log()) == (-1, False, Progress(1), "")
    shown.close()
    assert read(str(where), ID) == (None, "")


def test_a_link_is_not_followed(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("1 of great value")
    os.mkdir(f"{folder}/running")
    os.symlink(target, f"{folder}/running/{ID}")
    shown = AttemptFile(folder, ID)
    shown.write("text")
    ask_to_stop(folder, ID)
    assert read(folder, ID) == (None, "")
    assert target.read_text() == "1 of great value"


def test_to_look_at_what_is_no_file_is_no_error(folder: str) -> None:
    os.makedirs(f"{folder}/running/{ID}")
    assert read(folder, ID) == (None, "")


def test_to_look_and_to_ask_leaves_no_descriptor(folder: str) -> None:
    AttemptFile(folder, ID).write("text")
    before = len(os.listdir("/proc/self/fd"))
    read(folder, ID)
    ask_to_stop(folder, ID)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_descriptor_does_not_reach_what_the_task_starts(folder: str) -> None:
    assert not os.get_inheritable(AttemptFile(folder, ID).fd)
    running.delete(folder, "nowhere")
