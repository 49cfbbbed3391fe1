"""Waiting for the end of a job: woken by the process that settles it, and never past the end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from descriptors import descriptors
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit.spooldir import waiting

ID = "1" * 32


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def woken_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting process does not check by itself."""
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 1000)


def answers(*given: bool) -> Callable[[], bool]:
    """Return a function that gives these answers, one after the other."""
    left = list(given)
    return lambda: left.pop(0)


def waiter(folder: str, finished: Callable[[], bool]) -> int:
    """Return the pid of a process that waits and sleeps; it exits with 0 if it is woken within a minute."""
    pid = os.fork()
    if not pid:
        os._exit(0 if waiting.wait(finished, folder, ID, 60) else 1)
    path = f"{folder}/waiting/{ID}"

    def has_it_open() -> bool:
        opened = []
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                opened.append(os.readlink(fd))
        return path in opened

    wait_until(has_it_open)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")
    return pid


def exit_code(pid: int) -> int:
    return wait_child(pid)


@pytest.mark.parametrize("timeout", [None, 0, 10])
def test_wait_returns_at_once_for_a_finished_job(folder: str, woken_only: None, timeout: float | None) -> None:
    assert waiting.wait(lambda: True, folder, ID, timeout)


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_wait_returns_false_at_its_timeout(folder: str, timeout: float) -> None:
    asked: list[float] = []

    def finished() -> bool:
        asked.append(time.monotonic())
        return False

    begun = time.monotonic()
    assert waiting.wait(finished, folder, ID, timeout) is False
    assert time.monotonic() - begun >= timeout
    assert asked, "it checks at least once"


def test_wake_waiters_wakes_a_waiting_process(folder: str, woken_only: None, tmp_path: Path) -> None:
    done = tmp_path / "done"
    pids = [waiter(folder, done.exists) for _ in range(3)]
    done.touch()
    waiting.wake_waiters(folder, ID)
    assert [exit_code(pid) for pid in pids] == [0, 0, 0]


def test_wait_goes_on_after_a_wake_up_that_comes_too_early(folder: str, woken_only: None, tmp_path: Path) -> None:
    done = tmp_path / "done"
    pid = waiter(folder, done.exists)
    waiting.wake_waiters(folder, ID)
    wait_until(lambda: os.path.exists(f"{folder}/waiting/{ID}"))
    done.touch()

    def is_over() -> bool:
        waiting.wake_waiters(folder, ID)  # more than once: the process may be just about to sleep
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    wait_until(is_over)
    assert exit_code(pid) == 0


def test_wait_does_not_miss_an_end_between_the_check_and_the_sleep(folder: str, woken_only: None) -> None:
    asked: list[bool] = []

    def finished() -> bool:
        asked.append(True)
        if len(asked) == 1:
            waiting.wake_waiters(folder, ID)  # settled just after the check
            return False
        return True

    assert waiting.wait(finished, folder, ID, 10)
    assert len(asked) == 2


def test_wait_checks_by_itself_if_nobody_wakes_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 0.001)
    assert waiting.wait(answers(False, False, True), folder, ID, None)


def test_wait_polls_if_the_pipe_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert waiting.wait(answers(False, True), str(tmp_path / "file"), ID, 10)
    assert not waiting.wait(lambda: False, str(tmp_path / "file"), ID, 0.01)


def test_the_pipe_is_private_and_leaves_no_descriptor_open(folder: str) -> None:
    before = descriptors()
    assert not waiting.wait(lambda: False, folder, ID, 0)
    assert os.stat(f"{folder}/waiting").st_mode & 0o777 == 0o700
    assert os.stat(f"{folder}/waiting/{ID}").st_mode & 0o777 == 0o600
    assert len(descriptors()) == len(before)


def test_wake_waiters_removes_the_pipe(folder: str) -> None:
    assert not waiting.wait(lambda: False, folder, ID, 0)
    waiting.wake_waiters(folder, ID)
    assert os.listdir(f"{folder}/waiting") == []


@pytest.mark.parametrize("given", [(True,), (False, True)])
def test_wait_leaves_no_pipe(folder: str, given: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 0.001)
    assert waiting.wait(answers(*given), folder, ID, 10)
    assert not os.path.exists(f"{folder}/waiting") or os.listdir(f"{folder}/waiting") == []


def test_wake_waiters_makes_nothing_if_nobody_waits(folder: str) -> None:
    waiting.wake_waiters(folder, ID)
    assert os.listdir(folder) == []


def test_the_pipe_is_not_opened_through_a_link(folder: str, tmp_path: Path) -> None:
    os.mkdir(f"{folder}/waiting")
    target = tmp_path / "target"
    os.mkfifo(target)
    reader = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    os.symlink(target, f"{folder}/waiting/{ID}")
    waiting.wake_waiters(folder, ID)
    assert target.exists()
    assert os.listdir(f"{folder}/waiting") == []
    os.close(reader)
