"""Where a running job is now: its process is asked for its stack, and goes on."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import current_app
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import Job, JobStateError, spool, thread
from spoolkit.admin.stack import stack
from spoolkit.spooldir import running, stacks
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import polling
from spoolkit.uwsgi import master

reached, released, told = os.pipe(), os.pipe(), os.pipe()


def waits() -> str:
    os.write(reached[1], b".")
    return os.read(released[0], 1).decode()


@spool(retries=0)
def in_a_system_call() -> str:
    return waits()


@spool(retries=0)
def in_c_code() -> str:
    """The interpreter's lock is held meanwhile."""
    os.write(reached[1], b".")
    buffer = ctypes.create_string_buffer(1)
    ctypes.PyDLL(None).read(released[0], buffer, 1)
    return buffer.raw.decode()


@spool(retries=0)
def beside_a_thread() -> str:
    event = threading.Event()
    helper = threading.Thread(target=event.wait, args=(60,))
    helper.start()
    other = threading.Thread(target=helps, args=(event,))
    other.start()
    try:
        return waits()
    finally:
        event.set()
        helper.join(60)
        other.join(60)


def helps(event: threading.Event) -> None:
    event.wait(60)


@spool(retries=0)
def without_the_handler() -> str:
    signal.signal(stacks.SIGNAL, signal.SIG_DFL)
    return waits()


@spool(retries=0)
def without_descriptors() -> str:
    keep = {*reached, *released, *told, 0, 1, 2}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass
    return waits()


@spool(retries=0)
def with_a_child() -> str:
    if not (child := os.fork()):
        os.write(told[1], b"%d " % os.getpid())
        os.read(released[0], 1)
        os._exit(0)
    try:
        return waits()
    finally:
        wait_child(child)


event = threading.Event()


@thread
def in_a_thread() -> None:
    os.write(reached[1], b".")
    event.wait(60)


def read(fd: int, size: int = 1) -> bytes:
    assert polling.readable([fd], 60), "the job did not come so far"
    return os.read(fd, size)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, an answer may take longer than people want to wait."""
    monkeypatch.setattr(stacks, "TIMEOUT", 60)


children: list[int] = []


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        wait_child(pid)
    children.clear()


class Running:
    """A job that runs in a child of this process, until it is released."""

    def __init__(self, directory: str, job: Job[str]) -> None:
        self.job = job
        self.pid = os.fork()
        if not self.pid:
            try:
                Spooler(directory).run_due()
            finally:
                os._exit(0)
        children.append(self.pid)
        read(reached[0])

    def release(self, readers: int = 1) -> int:
        """Let the job end, and return the status with which its process exited."""
        os.write(released[1], b"x" * readers)
        wait_until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, timeout=60)
        children.remove(self.pid)
        return wait_child(self.pid)


def functions(job: Job[str]) -> list[str]:
    return [frame.function for frame in stack(job.id).frames]


@pytest.mark.parametrize(("task", "where"), [(in_a_system_call, "waits"), (in_c_code, "in_c_code")])
def test_a_job_tells_where_it_is_and_goes_on(directory: str, task: Callable[[], Job[str]], where: str) -> None:
    running = Running(directory, task())
    found = stack(running.job.id)
    assert (found.job, found.attempt, found.pid) == (running.job.id, 1, running.pid)
    assert {frame.file for frame in found.frames} == {__file__}
    assert all(frame.own for frame in found.frames)
    assert found.frames[-1].function == where
    assert found.others == []
    assert stack(running.job.id).frames[-1].function == where
    assert running.release() == 0
    assert running.job.result == "x"
    with pytest.raises(JobStateError, match="does not run: it is done"):
        stack(running.job.id)


def test_a_waiting_job_is_nowhere(directory: str) -> None:
    with pytest.raises(JobStateError, match="does not run: it is queued"):
        stack(in_a_system_call().id)


def test_threads_of_the_task_are_shown_too(directory: str) -> None:
    running = Running(directory, beside_a_thread())
    assert functions(running.job) == ["beside_a_thread", "waits"]
    wait_until(lambda: stack(running.job.id).others, timeout=60)
    (other,) = stack(running.job.id).others
    assert [frame.function for frame in other if frame.own] == ["helps"]
    running.release()


@pytest.mark.parametrize(
    ("task", "says"), [(without_the_handler, "has no handler"), (without_descriptors, "has closed the descriptor")]
)
def test_a_task_that_cannot_be_asked_is_left_alone(directory: str, task: Callable[[], Job[str]], says: str) -> None:
    running = Running(directory, task())
    with pytest.raises(JobStateError, match=says):
        stack(running.job.id)
    assert running.release() >= 0, "it was killed by the signal"


def test_a_process_that_stands_still_does_not_answer(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(directory, in_a_system_call())
    monkeypatch.setattr(stacks, "TIMEOUT", 0.1)
    os.kill(running.pid, signal.SIGSTOP)
    with pytest.raises(JobStateError, match="did not answer within"):
        stack(running.job.id)
    os.kill(running.pid, signal.SIGCONT)
    monkeypatch.setattr(stacks, "TIMEOUT", 60)
    # The answer to the first question may come amid that to the second one.
    assert [frame.function for frame in stack(running.job.id).frames] == ["in_a_system_call", "waits"]
    running.release()


def test_a_child_of_a_task_does_not_answer_in_its_name(directory: str) -> None:
    running = Running(directory, with_a_child())
    child = int(read(told[0], 100))
    assert master.has_handler(running.pid, stacks.SIGNAL)
    assert not master.has_handler(child, stacks.SIGNAL)
    running.release(readers=2)


def test_a_thread_job_tells_where_its_thread_is(directory: str) -> None:
    event.clear()
    job = in_a_thread()
    read(reached[0])
    try:
        found = stack(job.id)
        assert found.pid == os.getpid()
        assert found.frames[0].function == "in_a_thread"
        assert found.others == []
    finally:
        event.set()
    job.wait(60)


def test_show_prints_the_stack(directory: str) -> None:
    running = Running(directory, in_a_system_call())
    invoke = current_app.test_cli_runner().invoke
    shown = invoke(args=["spool", "show", running.job.id, "--stack"]).output
    assert f"> {__file__}:" in shown
    assert " in waits\n" in shown
    found = json.loads(invoke(args=["spool", "show", running.job.id, "--stack", "--json"]).output)
    assert [frame["function"] for frame in found["frames"]] == ["in_a_system_call", "waits"]
    running.release()


def test_the_file_is_private_and_removed_after_its_process(directory: str) -> None:
    running_job = Running(directory, in_a_system_call())
    path = Path(directory, stacks.FOLDER, str(running_job.pid))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stack(running_job.job.id)
    assert path.read_bytes() == b""
    running.sweep(directory)
    assert path.exists()
    running_job.release()
    running.sweep(directory)
    assert not path.exists()


def test_a_process_of_the_version_before_cannot_answer(directory: str) -> None:
    """Its file is named after the job, and the log begins where the thread is now."""
    job = in_a_system_call()
    (path,) = Path(directory).glob("uwsgi_spoolfile_on_*")
    locations.store().claim(job, file=path.name, still_there=lambda: True, max_attempts=1)
    head = b"".ljust(running._OWNER) + running._own_name().ljust(running._OWNER_END - running._OWNER)
    Path(directory, running.FOLDER).mkdir()
    Path(directory, running.FOLDER, job.id).write_bytes(head + b"a line of its log\n" * 300)
    with pytest.raises(JobStateError, match="its process cannot answer"):
        stack(job.id)


ALL = """\
Thread 0x00007f4906ba16c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f49075fcb80 [MainThread] (most recent call first):
  File "/srv/my shop/shop.py", line 7 in <module>
  File "/srv/my shop/shop.py", line 99 in f\\xfc
"""
ONE = """\
Stack (most recent call first):
  File "/srv/shop.py", line 7 in inner
  File "/srv/shop.py", line 9 in outer
"""


@pytest.mark.parametrize("answer", [ALL, ONE])
def test_an_answer_is_complete_once_the_next_one_has_begun(answer: str) -> None:
    whole = stacks.parse(2 * answer)
    assert whole is not None
    for length in range(len(answer)):
        assert stacks.parse(answer[:length]) is None
    assert stacks.parse(answer) is None
    for length in range(len(answer), 2 * len(answer) + 1):
        assert stacks.parse((2 * answer)[:length]) in (None, whole)
    for length in range(len(answer)):
        assert stacks.parse(answer[length:] + 2 * answer) is not None, "the file was emptied amid an answer"
    assert whole[0][0].line == 7


def test_the_thread_that_answers_comes_first() -> None:
    assert stacks.parse(2 * ALL) == [
        [("/srv/my shop/shop.py", 7, "<module>"), ("/srv/my shop/shop.py", 99, "f\\xfc")],
        [("/usr/lib/python3.11/threading.py", 982, "run")],
    ]
