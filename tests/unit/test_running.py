"""The file of a running attempt: readable while it runs, kept when its process dies, gone when it is recorded."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from descriptors import descriptors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from life_process import wait_child

from spoolkit.job import Done, JobSpec, Progress, State
from spoolkit.spooldir import running
from spoolkit.spooldir.running import LOG_LIMIT, AttemptFile, delete, read
from spoolkit.store import Store, retention
from spoolkit.system import process

ID = "1" * 32
OTHER = "2" * 32


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def begun(folder: str, id: str = ID) -> AttemptFile:
    """The file of an attempt that has begun."""
    shown = AttemptFile(folder, id)
    shown.begin()
    return shown


def path_of(folder: str) -> str:
    return f"{folder}/running/{os.getpid()}"


def ask_to_stop(folder: str, id: str = ID) -> None:
    running.ask_to_stop(folder, id, os.getpid())


def test_read_gives_progress_and_log_of_a_running_attempt(folder: str) -> None:
    shown = begun(folder)
    assert read(folder, ID) == (None, "")
    shown.write("one\n")
    shown.progress(Progress(1, 2, "parts"))
    shown.write("two\n")
    assert read(folder, ID) == (Progress(1, 2, "parts"), "one\ntwo\n")
    assert shown.log() == "one\ntwo\n"
    shown.progress(Progress(2))
    assert read(folder, ID)[0] == shown.last_progress == Progress(2)


def test_an_attempt_file_and_its_folder_are_private(folder: str) -> None:
    begun(folder)
    assert os.stat(f"{folder}/running").st_mode & 0o777 == 0o700
    assert os.stat(path_of(folder)).st_mode & 0o777 == 0o600


def test_an_attempt_file_outlives_a_killed_process(folder: str) -> None:
    pid = os.fork()
    if not pid:
        shown = begun(folder)
        shown.write("last words")
        shown.progress(Progress(3))
        os.kill(os.getpid(), signal.SIGKILL)
    wait_child(pid)
    assert read(folder, ID) == (Progress(3), "last words")
    delete(folder, ID)
    assert read(folder, ID) == (None, "")
    assert os.listdir(f"{folder}/running") == []


def test_the_next_attempt_starts_without_progress_and_log(folder: str) -> None:
    earlier = begun(folder)
    earlier.write("earlier")
    earlier.progress(Progress(3))
    earlier.close()
    now = begun(folder)
    assert os.listdir(f"{folder}/running") == [str(os.getpid())]
    assert read(folder, ID) == (None, "")
    assert (now.last_progress, now.log()) == (None, "")
    now.write("now")
    assert read(folder, ID) == (None, "now")


def test_nothing_is_left_after_the_attempt_is_recorded(folder: str) -> None:
    shown = begun(folder)
    shown.write("text")
    shown.progress(Progress(1))
    shown.close()
    assert (read(folder, ID), running.job_ids(folder)) == ((None, ""), [])
    shown.close()
    assert (shown.cancel_asked, shown.fd, shown.log()) == (False, -1, "")
    running.leave()
    assert os.listdir(f"{folder}/running") == []


def test_a_closed_attempt_file_ignores_progress_and_log(folder: str) -> None:
    shown = begun(folder)
    shown.write("before")
    shown.close()
    delete(folder, ID)
    shown.write("after")
    shown.progress(Progress(1))
    assert read(folder, ID) == (None, "")


# The stop flag


def test_ask_to_stop_sets_the_flag_of_a_running_attempt(folder: str) -> None:
    shown = begun(folder)
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
    shown = AttemptFile(folder, ID)
    ask_to_stop(folder, ID)
    shown.begin()
    assert shown.cancel_asked


def test_the_next_job_of_the_process_is_not_asked_to_stop(folder: str) -> None:
    shown = begun(folder)
    ask_to_stop(folder, ID)
    shown.close()
    after = begun(folder, OTHER)
    assert not after.cancel_asked
    ask_to_stop(folder, ID)  # by a process that saw the job before run
    assert not after.cancel_asked


def test_only_the_attempts_of_one_job_are_asked_to_stop(folder: str) -> None:
    one, other = begun(folder), begun(folder, OTHER)
    assert sorted(os.listdir(f"{folder}/running")) == [f"{os.getpid()}", f"{os.getpid()}.1"]
    ask_to_stop(folder, OTHER)
    assert (one.cancel_asked, other.cancel_asked) == (False, True)
    assert sorted(running.job_ids(folder)) == [ID, OTHER]


def test_each_job_of_a_process_can_be_asked_to_stop(folder: str) -> None:
    one, other = begun(folder), begun(folder, OTHER)
    ask_to_stop(folder, ID)
    ask_to_stop(folder, OTHER)
    assert (one.cancel_asked, other.cancel_asked) == (True, True)


def test_a_job_that_is_requeued_is_not_asked_to_stop_again(folder: str) -> None:
    shown = begun(folder)
    ask_to_stop(folder, ID)
    shown.close()
    assert not begun(folder, ID).cancel_asked


def test_an_attempt_of_the_version_before_is_read_and_asked_to_stop(folder: str) -> None:
    os.mkdir(f"{folder}/running")
    owner = (b"%d%s" % (os.getppid(), process.identity(os.getppid()))).ljust(128)
    Path(f"{folder}/running/{ID}").write_bytes(b"0" + b'[1, 2, ""]'.ljust(895) + owner + b"its log")
    os.chmod(f"{folder}/running/{ID}", 0o600)
    assert read(folder, ID) == (Progress(1, 2), "its log")
    assert running.is_running(folder, ID)
    running.ask_to_stop(folder, ID, os.getppid())
    assert Path(f"{folder}/running/{ID}").read_bytes()[:1] == b"1"
    delete(folder, ID)
    assert os.listdir(f"{folder}/running") == []


# Files that are used again, and files that are left


def in_a_killed_child(use: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        use()
        os.kill(os.getpid(), signal.SIGKILL)
    wait_child(pid)
    return pid


def test_a_file_that_was_removed_is_made_anew(folder: str) -> None:
    begun(folder).close()
    os.unlink(path_of(folder))
    shown = begun(folder)
    shown.write("text")
    assert read(folder, ID) == (None, "text")


def test_a_file_that_was_cut_is_not_written_through_its_mapping(folder: str) -> None:
    shown = begun(folder)
    shown.close()
    os.truncate(path_of(folder), 0)
    begun(folder).write("text")
    assert read(folder, ID) == (None, "text")


def test_what_the_next_job_of_the_process_shows_is_not_taken_for_that_of_the_one_before(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = begun(folder)
    read_progress = running._progress

    def progress_of_the_next(fd: int) -> Progress | None:
        shown.close()
        begun(folder, OTHER).progress(Progress(1))
        return read_progress(fd)

    monkeypatch.setattr(running, "_progress", progress_of_the_next)
    assert read(folder, ID) == (None, "")


def test_a_file_whose_descriptor_a_task_has_closed_is_not_used_again(folder: str) -> None:
    shown = begun(folder)
    os.close(shown.fd)
    assert shown.is_lost
    shown.write("text")
    shown.progress(Progress(1))
    assert (shown.log(), read(folder, ID)) == ("", (Progress(1), ""))
    shown.close()
    assert not begun(folder).is_lost


def test_a_file_that_a_dead_process_left_without_a_job_is_swept(folder: str) -> None:
    idle = in_a_killed_child(lambda: begun(folder).close())
    busy = in_a_killed_child(lambda: begun(folder))
    mine = begun(folder, OTHER)
    assert len(os.listdir(f"{folder}/running")) == 3
    running.sweep(folder)
    assert sorted(os.listdir(f"{folder}/running")) == sorted([str(busy), str(os.getpid())])
    assert idle != busy
    mine.close()
    running.sweep(folder)
    assert str(os.getpid()) in os.listdir(f"{folder}/running")


def test_a_file_that_is_being_made_is_not_swept(folder: str) -> None:
    os.mkdir(f"{folder}/running")
    Path(path_of(folder)).touch(0o600)
    running.sweep(folder)
    assert os.listdir(f"{folder}/running") == [str(os.getpid())]


def test_the_last_words_of_a_dead_process_are_kept_from_a_later_one_with_its_pid(folder: str) -> None:
    dead = in_a_killed_child(lambda: begun(folder).write("last words"))
    os.rename(f"{folder}/running/{dead}", path_of(folder))
    shown = begun(folder, OTHER)
    assert (read(folder, ID), shown.log()) == ((None, "last words"), "")
    assert sorted(os.listdir(f"{folder}/running")) == [str(os.getpid()), f"{os.getpid()}.1"]


def test_a_log_that_a_crashed_child_of_a_task_wrote_is_not_that_of_the_next_job(folder: str) -> None:
    shown = begun(folder)
    os.write(shown.fd, b"Fatal Python error: Segmentation fault")
    shown.close()
    after = begun(folder, OTHER)
    after.write("text")
    assert after.log() == read(folder, OTHER)[1] == "text"


def test_progress_that_a_child_of_a_task_has_reported_is_not_that_of_the_next_job(folder: str) -> None:
    shown = begun(folder)
    if not (pid := os.fork()):
        shown.progress(Progress(1))
        os._exit(0)
    assert wait_child(pid) == 0
    assert read(folder, ID) == (Progress(1), "")
    shown.close()
    begun(folder, OTHER)
    assert read(folder, OTHER) == (None, "")


def test_what_a_child_shows_that_a_task_has_left_behind_is_not_that_of_the_next_job(folder: str) -> None:
    shown = begun(folder)
    waits, go = os.pipe()
    if not (pid := os.fork()):
        os.read(waits, 1)
        shown.write("of the child")
        shown.progress(Progress(1))
        os._exit(0)
    shown.close()
    after = begun(folder, OTHER)
    os.write(go, b"x")
    assert wait_child(pid) == 0
    after.write("text")
    assert read(folder, OTHER) == (None, "text")


def test_ask_to_stop_does_nothing_without_the_folder(folder: str) -> None:
    ask_to_stop(folder, ID)
    assert os.listdir(folder) == []


# The log


def test_a_long_log_is_cut_to_its_end(folder: str) -> None:
    shown = begun(folder)
    for number in range(60_000):
        shown.write(f"{number}\n")
    for log in (shown.log(), read(folder, ID)[1]):
        lines = log.split("\n")
        assert lines[-2:] == ["59999", ""]
        assert len(log) == LOG_LIMIT
        assert lines[1:-1] == [str(number) for number in range(int(lines[1]), 60_000)]
    assert os.stat(path_of(folder)).st_size < 4096 + 3 * LOG_LIMIT


def test_one_long_text_is_cut_to_its_end(folder: str) -> None:
    shown = begun(folder)
    shown.write("x" * LOG_LIMIT + "y" * LOG_LIMIT)
    assert shown.log() == "y" * LOG_LIMIT
    shown.write("z")
    assert shown.log() == "y" * (LOG_LIMIT - 1) + "z"


def test_progress_stays_when_the_log_is_cut(folder: str) -> None:
    shown = begun(folder)
    shown.progress(Progress(1, 2, "parts"))
    for _ in range(5):
        shown.write("x" * LOG_LIMIT)
    assert read(folder, ID) == (Progress(1, 2, "parts"), "x" * LOG_LIMIT)


def test_read_includes_what_faulthandler_appends_to_the_log(folder: str) -> None:
    shown = begun(folder)
    shown.write("before\n")
    os.write(shown.fd, b"Fatal Python error: Segmentation fault\n")
    assert read(folder, ID)[1] == "before\nFatal Python error: Segmentation fault\n"


def test_text_that_is_not_utf8_is_escaped(folder: str) -> None:
    shown = begun(folder)
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
    shown = begun(folder)
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
    shown = begun(folder)
    os.pwrite(shown.fd, b"[1, 2, ", 1)
    shown.write("log")
    assert read(folder, ID) == (None, "log")


# Where the file cannot be made


def test_an_attempt_file_that_cannot_be_made_shows_nothing_and_raises_nothing(tmp_path: Path) -> None:
    where = tmp_path / "file"
    where.write_text("x")
    shown = begun(str(where))
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
    os.symlink(target, path_of(folder))
    assert read(folder, ID) == (None, "")
    shown = begun(folder)
    shown.write("text")
    ask_to_stop(folder, ID)
    running.ask_to_stop(folder, ID, None)
    assert read(folder, ID) == (None, "text")
    assert target.read_text() == "1 of great value"


def test_read_gives_nothing_for_anything_but_a_file(folder: str) -> None:
    os.makedirs(f"{folder}/running/{ID}")
    assert read(folder, ID) == (None, "")


def test_read_and_ask_to_stop_leave_no_descriptor_open(folder: str) -> None:
    begun(folder).write("text")
    before = len(descriptors())
    read(folder, ID)
    ask_to_stop(folder, ID)
    assert len(descriptors()) == before


def test_child_processes_do_not_inherit_the_descriptor(folder: str) -> None:
    assert not os.get_inheritable(begun(folder).fd)
    running.delete(folder, "nowhere")


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE])
def test_what_a_process_shows_that_was_killed_is_deleted_at_the_next_start_if_the_end_is_recorded(
    folder: str, state: State
) -> None:
    store, job = Store(f"{folder}/spoolkit.db"), JobSpec(ID, "tasks.one")

    def killed() -> None:
        with AttemptFile(folder, ID) as shown:
            store.claim(job, file="file", still_there=lambda: True, max_attempts=3)
            shown.begin()
            shown.write("last words")
            if state is State.DONE:
                store.finish(job, 1, Done())
            os.kill(os.getpid(), signal.SIGKILL)

    in_a_killed_child(killed)
    retention.delete_leftovers(store, folder)
    assert running.job_ids(folder) == ([ID] if state is State.RUNNING else [])
    assert read(folder, ID) == (None, "last words" if state is State.RUNNING else "")
    store.close()
