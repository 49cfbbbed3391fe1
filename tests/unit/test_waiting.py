"""Waiting for the end of a job: woken by who settles it, and sure to see it all the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from spoolkit.spooldir import waiting

ID = "1" * 32


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def told_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits does not look by itself."""
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 1000)


def answers(*given: bool) -> Callable[[], bool]:
    """Gives these, one after the other."""
    left = list(given)
    return lambda: left.pop(0)


def waiter(folder: str, finished: Callable[[], bool]) -> int:
    """A process that waits, asleep by now; its exit code is 0 if it was so within ten seconds."""
    pid = os.fork()
    if not pid:
        os._exit(0 if waiting.wait(finished, folder, ID, 10) else 1)
    path = f"{folder}/waiting/{ID}"
    wait_until(lambda: any(fd.is_symlink() and os.readlink(fd) == path for fd in Path(f"/proc/{pid}/fd").iterdir()))
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("timeout", [None, 0, 10])
def test_what_is_finished_is_not_waited_for(folder: str, told_only: None, timeout: float | None) -> None:
    assert waiting.wait(lambda: True, folder, ID, timeout)


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_a_wait_has_an_end(folder: str, timeout: float) -> None:
    asked: list[float] = []

    def finished() -> bool:
        asked.append(time.monotonic())
        return False

    begun = time.monotonic()
    assert waiting.wait(finished, folder, ID, timeout) is False
    assert time.monotonic() - begun >= timeout
    assert asked, "it looks at least once"


def test_who_waits_is_woken(folder: str, told_only: None, tmp_path: Path) -> None:
    done = tmp_path / "done"
    pids = [waiter(folder, done.exists) for _ in range(3)]
    done.touch()
    waiting.wake_waiters(folder, ID)
    assert [exit_code(pid) for pid in pids] == [0, 0, 0]


def test_who_is_woken_too_early_waits_on(folder: str, told_only: None, tmp_path: Path) -> None:
    done = tmp_path / "done"
    pid = waiter(folder, done.exists)
    waiting.wake_waiters(folder, ID)
    wait_until(lambda: os.path.exists(f"{folder}/waiting/{ID}"))
    done.touch()

    def is_over() -> bool:
        waiting.wake_waiters(folder, ID)  # more than once: it may be just about to sleep
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    wait_until(is_over)
    assert exit_code(pid) == 0


def test_an_end_between_the_question_and_the_sleep_is_not_missed(folder: str, told_only: None) -> None:
    asked: list[bool] = []

    def finished() -> bool:
        asked.append(True)
        if len(asked) == 1:
            waiting.wake_waiters(folder, ID)  # settled just after it was looked at
            return False
        return True

    assert waiting.wait(finished, folder, ID, 10)
    assert len(asked) == 2


def test_who_is_not_called_looks_by_himself(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 0.001)
    assert waiting.wait(answers(False, False, True), folder, ID, None)


def test_where_there_is_no_room_for_a_pipe_it_looks_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert waiting.wait(answers(False, True), str(tmp_path / "file"), ID, 10)
    assert not waiting.wait(lambda: False, str(tmp_path / "file"), ID, 0.01)


def test_the_pipe_is_its_owners_alone_and_leaves_no_descriptor(folder: str) -> None:
    before = os.listdir("/proc/self/fd")
    assert not waiting.wait(lambda: False, folder, ID, 0)
    assert os.stat(f"{folder}/waiting").st_mode & 0o777 == 0o700
    assert os.stat(f"{folder}/waiting/{ID}").st_mode & 0o777 == 0o600
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_who_settles_a_job_clears_the_pipe_away(folder: str) -> None:
    assert not waiting.wait(lambda: False, folder, ID, 0)
    waiting.wake_waiters(folder, ID)
    assert os.listdir(f"{folder}/waiting") == []


@pytest.mark.parametrize("given", [(True,), (False, True)])
def test_who_has_waited_leaves_no_pipe(folder: str, given: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 0.001)
    assert waiting.wait(answers(*given), folder, ID, 10)
    assert not os.path.exists(f"{folder}/waiting") or os.listdir(f"{folder}/waiting") == []


def test_where_nobody_waits_nothing_is_announced(folder: str) -> None:
    waiting.wake_waiters(folder, ID)
    assert os.listdir(folder) == []


def test_a_link_is_not_followed(folder: str, tmp_path: Path) -> None:
    os.mkdir(f"{folder}/waiting")
    target = tmp_path / "target"
    os.mkfifo(target)
    reader = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    os.symlink(target, f"{folder}/waiting/{ID}")
    waiting.wake_waiters(folder, ID)
    assert target.exists()
    assert os.listdir(f"{folder}/waiting") == []
    os.close(reader)
