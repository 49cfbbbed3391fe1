"""Tasks that write down what happened to them, one line each, into the file that HISTORY names."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from flask import current_app, has_request_context
from history import record, runs_so_far

from spoolkit import SPOOL_IGNORE, SPOOL_RETRY, Retry, current_job, spool, thread


@spool
def note(word: str) -> None:
    record("note", word)


@spool
def work(name: str, seconds: float) -> None:
    record("start", name)
    time.sleep(seconds)
    record("end", name)


@spool
def holds(name: str) -> None:
    record("start", name)
    while not os.path.exists(f"{os.environ['HISTORY']}.release"):
        time.sleep(0.01)
    record("end", name)


@thread
def holds_in_thread(name: str) -> None:
    holds.run(name)


@spool(memory=64 << 20, retries=0)
def takes(size: int | None) -> int:
    if size is not None:
        return len(bytearray(size))
    small: list[object] = []
    while True:
        small.append([])


@spool(backoff=0.2)
def flaky(how: str, failures: int) -> object:
    record("flaky", how)
    if runs_so_far(f"flaky {how}") > failures:
        return None
    if how == "returned":
        return SPOOL_RETRY
    if how == "ignored":
        return SPOOL_IGNORE
    if how == "asked":
        raise Retry(delay=1.5)
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(how)


@spool
def returns(value: int) -> int:
    record("returned", value)
    return value


@spool
def weigh(data: bytes) -> None:
    record("weighed", len(data), hashlib.sha256(data).hexdigest())


@spool
def circumstances() -> None:
    record("circumstances", current_app.name, has_request_context(), os.getcwd(), current_job().id)


@spool
def named(at: float, body: bytes, id: int, args: list[int], self: str, priority: str, spooler: str) -> None:
    record("named", at, body, id, args, self, priority, spooler)


@spool
def uwsgi_style(duration: int, body: bytes, untyped) -> None:  # type: ignore[no-untyped-def]
    record("uwsgi_style", repr(duration), body, untyped)


@spool(retries=2, backoff=0.2)
def forks(how: str) -> str:
    """The child comes back from the task, as if it were the spooler."""
    record("forks", how)
    if os.fork() == 0:
        if how == "exit":
            sys.exit(0)
        if how == "raise":
            raise ValueError("in the child")
        return "in the child"
    time.sleep(0.5)  # were the child to tell how the job ended, it would be first
    return how


@spool(retries=2, backoff=0.2)
def closes_everything() -> None:
    record("closes")
    os.closerange(3, 1000)


@spool(retries=0)
def signals_children() -> None:
    record("children", *ends_of_children())


@thread
def thread_signals_children() -> None:
    record("children", *ends_of_children())


def ends_of_children() -> list[int]:
    """Exit codes of forked processes, then of started programs, each ended by another signal."""
    found = []
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        ready, writer = os.pipe()
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=lambda fd=writer: (os.write(fd, b"!"), time.sleep(60)))
        child.start()
        os.read(ready, 1)
        os.kill(child.pid, signum)
        child.join(20)
        found.append(0 if child.exitcode is None else child.exitcode)
        child.kill()
        with subprocess.Popen(["sleep", "60"]) as program:
            program.send_signal(signum)
            try:
                found.append(program.wait(20))
            except subprocess.TimeoutExpired:
                found.append(0)
                program.kill()
    return found


@thread
def in_thread(word: str) -> None:
    record("thread", word, current_app.name, has_request_context(), current_job().id)


@thread
def thread_fails() -> None:
    raise ValueError("the thread's own trouble")
