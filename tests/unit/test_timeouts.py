"""How long an attempt may take: a soft limit raised in the task, a hard one that ends its process and tells where."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolkit import JobTimeout
from spoolkit.attempt import timeouts


def endless() -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.001)


def asleep() -> None:
    time.sleep(60)


def reading() -> None:
    os.read(os.pipe()[0], 1)


def busy() -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pass


def in_a_thread(work: Callable[[], object]) -> list[object]:
    """What ``work`` gives in a thread, or the error that it raises."""
    result: list[object] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return result


# Soft


@pytest.mark.parametrize("work", [endless, asleep, reading, busy])
def test_the_soft_limit_interrupts_the_main_thread_whatever_it_does(work: Callable[[], None]) -> None:
    with pytest.raises(JobTimeout, match=r"^the task has run for 0.02 seconds, its timeout$"), timeouts.soft(0.02):
        work()


@pytest.mark.parametrize("work", [endless, busy])
def test_the_soft_limit_interrupts_a_thread_between_two_steps_of_python(work: Callable[[], None]) -> None:
    def limited() -> None:
        with timeouts.soft(0.02):
            work()

    (error,) = in_a_thread(limited)
    assert isinstance(error, JobTimeout)
    assert str(error) == "the task has run for 0.02 seconds, its timeout"


def test_a_task_may_catch_the_soft_limit_and_clean_up() -> None:
    steps = []
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(timeouts.soft(0.2))
            asleep()
        except JobTimeout:  # it may have come before the line above was left
            time.sleep(0.05)
            steps.append("cleaned up")
    assert steps == ["cleaned up"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("seconds", [None, 60])
def test_the_soft_limit_leaves_no_trace_of_a_task_that_is_in_time(seconds: float | None) -> None:
    def handler(signum: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with timeouts.soft(seconds):
            pass
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    threads = threading.active_count()

    def limited() -> str:
        with timeouts.soft(seconds):
            return "done"

    assert in_a_thread(limited) == ["done"]
    assert threading.active_count() - threads <= 1, "its timer is on its way out at most"


def test_without_a_soft_limit_no_alarm_is_set() -> None:
    with timeouts.soft(None):
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_soft_limit_passes_on_errors_of_the_task() -> None:
    with pytest.raises(ValueError, match="own"), timeouts.soft(60):
        raise ValueError("own")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def spin(seconds: float) -> None:
    # In a function: CPython 3.13 does not cover a loop's jump back by the "try" around it.
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def hits() -> int:
    """How often a limit hit what ends about when it does. Whatever comes must come within."""
    hit = 0
    for number in range(60):
        try:
            with timeouts.soft(0.001):
                spin(0.0006 + number * 0.00002)
        except JobTimeout:
            hit += 1
    spin(0.005)
    return hit


def test_the_soft_limit_is_never_raised_after_its_block() -> None:
    hits()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_soft_limit_is_never_raised_after_its_block_in_a_thread() -> None:
    (hit,) = in_a_thread(hits)
    assert isinstance(hit, int), hit


def test_the_soft_limit_that_strikes_before_its_block_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    before, setitimer = signal.getsignal(signal.SIGALRM), signal.setitimer

    def ring_at_once(which: Any, seconds: float) -> Any:
        set_before = setitimer(which, seconds)
        if seconds:
            signal.raise_signal(signal.SIGALRM)
        return set_before

    monkeypatch.setattr(signal, "setitimer", ring_at_once)
    with pytest.raises(JobTimeout), timeouts.soft(60):
        pytest.fail("it was entered")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Finalized:
    """Its finalizer takes longer than the limits here, and its cycle is freed by the garbage collector."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        spin(0.03)


@pytest.mark.parametrize("run", [lambda work: work(), in_a_thread])
@pytest.mark.parametrize("place", ["a finalizer", "a callback of the garbage collector"])
def test_the_soft_limit_that_strikes_where_nothing_is_raised_is_raised_soon_after(
    run: Callable[[Callable[[], object]], object], place: str
) -> None:
    def collected(phase: str, info: object) -> None:
        spin(0.03)

    struck = []

    def work() -> None:
        until = time.monotonic() + 60
        try:
            with timeouts.soft(0.01):
                if place == "a finalizer":
                    Finalized()
                gc.collect()
                while time.monotonic() < until:
                    pass
        except JobTimeout:
            struck.append(place)

    if place != "a finalizer":
        gc.callbacks.append(collected)
    try:
        run(work)
    finally:
        if place != "a finalizer":
            gc.callbacks.remove(collected)
    assert struck == [place]


# Hard

HARD = """
import ctypes, faulthandler, os, signal, sys, time
from spoolkit.attempt import timeouts

def deaf():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def crash():
    ctypes.string_at(0)

def fine():
    pass

what, seconds, path = sys.argv[1:]
fd = os.open(path, os.O_RDWR | os.O_CREAT) if path else -1
with timeouts.hard(float(seconds) if seconds else None, fd):
    {"deaf": deaf, "crash": crash}.get(what, fine)()
print("through", faulthandler.is_enabled(), flush=True)
if what == "fine, then a crash":
    crash()
if what == "fine" and seconds:
    time.sleep(float(seconds) * 3)
    print("alive")
"""


def hard(what: str, seconds: str, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", HARD, what, seconds, path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_hard_limit_ends_a_task_that_ignores_exceptions_and_logs_where_it_was(tmp_path: Path) -> None:
    done = hard("deaf", "0.5", str(tmp_path / "log"))
    assert done.returncode == 1
    left = (tmp_path / "log").read_text()
    assert left.startswith(timeouts.TIMEOUT_MARK)
    assert "in deaf" in left
    assert done.stdout == ""


def test_the_hard_limit_writes_to_standard_error_if_there_is_no_log() -> None:
    done = hard("deaf", "0.5", "")
    assert done.returncode == 1
    assert done.stderr.startswith(timeouts.TIMEOUT_MARK)


@pytest.mark.parametrize("seconds", ["", "60"])
def test_a_crash_logs_where_it_was(tmp_path: Path, seconds: str) -> None:
    done = hard("crash", seconds, str(tmp_path / "log"))
    assert done.returncode == -signal.SIGSEGV
    left = (tmp_path / "log").read_text()
    assert left.startswith(f"{timeouts.CRASH_MARK}Segmentation fault")
    assert "in crash" in left


def test_the_hard_limit_does_not_end_a_task_that_is_in_time(tmp_path: Path) -> None:
    done = hard("fine", "0.5", str(tmp_path / "log"))
    assert (done.returncode, done.stdout) == (0, "through True\nalive\n")
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(("options", "sites"), [((), False), (("-X", "faulthandler"), True)])
def test_after_an_attempt_faulthandler_writes_where_the_site_has_it_write(
    tmp_path: Path, options: tuple[str, ...], sites: bool
) -> None:
    done = hard("fine, then a crash", "", str(tmp_path / "log"), *options)
    assert (done.stdout, done.returncode) == ("through True\n", -signal.SIGSEGV)
    assert (timeouts.CRASH_MARK in done.stderr) == sites
    assert (timeouts.CRASH_MARK in (tmp_path / "log").read_text()) != sites
    assert hard("fine", "", "", *options).stdout == f"through {sites}\n"


def test_the_hard_limit_without_a_file_leaves_faulthandler_alone() -> None:
    before = faulthandler.is_enabled()
    with timeouts.hard(None, -1):
        assert faulthandler.is_enabled() == before
    assert faulthandler.is_enabled() == before


FORKED = """
import faulthandler, os, signal, sys
when = sys.argv[1]
if when == "before the import":
    faulthandler.dump_traceback_later(600)
from spoolkit.attempt import timeouts
if when == "after the import":
    faulthandler.dump_traceback_later(600)
child = os.fork()
if not child:
    signal.alarm(60)  # it would hold the interpreter's lock for ever
    with timeouts.hard(None, -1):
        pass
    if when == "after the import":
        with timeouts.hard(60, -1):
            pass
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("when", ["before the import", "after the import"])
def test_a_child_of_a_process_with_an_armed_watchdog_does_not_hang(when: str) -> None:
    command = [sys.executable, "-c", FORKED, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("faulthandler.dump_traceback_later()" in done.stderr) == (when == "after the import")


LEFT_BEHIND = """
import faulthandler, os, time
from spoolkit.attempt import timeouts

def threads():
    return len(os.listdir("/proc/self/task"))

with timeouts.hard(None, -1):
    faulthandler.dump_traceback_later(600, exit=True)
    before = threads()
deadline = time.monotonic() + 30
while threads() == before and time.monotonic() < deadline:
    time.sleep(0.01)
print(before - threads())
"""


def test_a_watchdog_that_a_task_has_armed_is_cancelled_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")
