"""What a signal to exit does to a spooler of uWSGI whose application has hooks for the end."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

import pytest
from life_process import wait_child

from spoolkit.lifecycle import shutdown, spooler_signals
from spoolkit.uwsgi import bridge

LAST, SECOND_JOB = b"last", b"job"
NOT_ENDED = 7
"""The exit status of a spooler that a signal has not ended."""


def in_spooler(body: Callable[[int], None]) -> tuple[bytes, int]:
    """Call ``body(fd)`` in a fork; return what it wrote to ``fd``, and the exit status."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            body(writer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(NOT_ENDED)
    os.close(writer)
    with open(reader, "rb") as file:
        written = file.read()
    return written, wait_child(pid)


def first_job(fd: int) -> Callable[[], None]:
    """Run the first job of this process, at the start of which its hooks have run. Returns what runs at its end."""

    def last() -> None:
        os.write(fd, LAST)

    spooler_signals.begin()
    spooler_signals.job_starts()
    spooler_signals.run_at_exit(last)
    return last


def test_a_signal_to_an_idle_process_runs_the_hooks_of_its_end() -> None:
    def body(fd: int) -> None:
        last = first_job(fd)
        spooler_signals.job_ended(last)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(300)

    assert in_spooler(body) == (LAST, 0)


def test_a_signal_during_a_job_ends_the_process_after_it() -> None:
    def body(fd: int) -> None:
        last = first_job(fd)
        os.kill(os.getpid(), signal.SIGTERM)
        os.write(fd, SECOND_JOB)
        spooler_signals.job_ended(last)

    assert in_spooler(body) == (SECOND_JOB + LAST, 0)


def test_a_signal_that_another_thread_gets_at_the_end_of_a_job_is_not_lost() -> None:
    def body(fd: int) -> None:
        last = first_job(fd)
        other = threading.Thread(target=time.sleep, args=(300,), daemon=True)
        other.start()
        busy = spooler_signals._busy

        class Busy:
            acquire = busy.acquire

            def release(self) -> None:
                signal.pthread_kill(other.ident or 0, signal.SIGTERM)
                time.sleep(0.3)  # the thread that waits for signals finds this process busy
                busy.release()

        spooler_signals._busy = Busy()  # type: ignore[assignment]
        spooler_signals.job_ended(last)
        threading.Event().wait(60)

    assert in_spooler(body) == (LAST, 0)


def test_a_process_whose_descriptor_a_task_has_closed_is_replaced() -> None:
    def body(fd: int) -> None:
        last = first_job(fd)
        os.close(spooler_signals._spooler.wakeup)
        spooler_signals.job_ended(last)

    assert in_spooler(body) == (LAST, 0)


def test_without_hooks_there_is_neither_a_thread_nor_a_descriptor() -> None:
    def body(fd: int) -> None:
        spooler_signals.begin()
        spooler_signals.job_starts()
        spooler_signals.job_ended(lambda: None)
        own = threading.active_count() == 1, signal.set_wakeup_fd(-1) == -1, signal.getsignal(signal.SIGTERM)
        os.write(fd, repr(own == (True, True, signal.SIG_DFL)).encode())

    assert in_spooler(body) == (b"True", NOT_ENDED)


def test_a_stop_asks_the_children_of_the_master_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (child := os.fork()):
        time.sleep(300)
        os._exit(NOT_ENDED)
    asked: list[int] = []

    def kill(pid: int, signum: int) -> None:
        asked.append(pid)
        kill_really(child, signum)

    kill_really = os.kill
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(bridge, "master_pid", os.getpid)
    monkeypatch.setattr(bridge, "spooler_pids", lambda: [child, os.getppid(), 1 << 30])
    shutdown._end_spoolers(time.monotonic() + 60)
    assert asked == [child]
    assert wait_child(child) == -signal.SIGTERM
