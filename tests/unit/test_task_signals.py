"""Signals in threads, in greenlets, and in what a job forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from life_process import wait_child

from spoolkit.system import task_signals


def mask() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def in_child(act: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return wait_child(pid) == 0


def test_block_in_thread_blocks_signals_until_unblock_in_thread() -> None:
    found = []

    def work() -> None:
        task_signals.block_in_thread()
        found.append(mask())
        task_signals.unblock_in_thread()
        found.append(mask())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert signal.SIGTERM in found[0]
    assert found[1] == set()


def test_unblock_in_thread_leaves_a_pending_signal_to_the_main_thread() -> None:
    # In a process of its own: any thread of the test runner might take the signal.
    code = """
import os, signal, threading
from spoolkit.system import task_signals
task_signals.PENDING_TIME = 0.05
signal.signal(signal.SIGTERM, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def work():
    task_signals.block_in_thread()
    os.kill(os.getpid(), signal.SIGTERM)
    task_signals.unblock_in_thread()
    print(*map(int, signal.sigpending()))
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == [str(int(signal.SIGTERM))]


def test_block_in_thread_does_nothing_in_the_main_thread() -> None:
    before = mask()
    task_signals.block_in_thread()  # as gevent runs it: in the main thread
    assert mask() == before


def test_a_fork_within_a_job_keeps_the_tasks_own_handlers() -> None:
    def own(signum: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR2, own), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with task_signals.job():
            assert in_child(lambda: signal.getsignal(signal.SIGUSR2) is own)
            assert in_child(lambda: signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGUSR2, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_a_fork_outside_of_a_job_keeps_all_handlers() -> None:
    before = {signum: signal.getsignal(signum) for signum in task_signals.HARMLESS}
    task_signals.ignore_harmless()
    try:
        assert in_child(lambda: signal.getsignal(signal.SIGHUP) is task_signals._nothing)
        with task_signals.job():
            assert in_child(lambda: signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
