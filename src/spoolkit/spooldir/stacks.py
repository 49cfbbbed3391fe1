"""Where is a running job now? The process that runs it writes its stack into its file in ``stacks/``, when it is asked.

It is asked by a signal to the thread that runs the job. The handler is C code of faulthandler: it also answers while
the thread waits in a system call or in C code, and the system call goes on. The stack has files, lines and the names of
functions, and no values.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from spoolkit.system import files, process
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import master

FOLDER = "stacks"

SIGNAL = signal.SIGRTMIN + 7
"""No library and no server uses it: uWSGI's own signals go through a socket."""

TIMEOUT = 2.0
"""Seconds to wait for an answer."""

LIMIT = 256 * 1024
"""Bytes of an answer that are read, at most."""

_LOWEST_FD = 100
"""A task that closes all descriptors, and then opens files of its own, gets lower numbers."""


class Frame(NamedTuple):
    """A call that has not returned."""

    #: The path of the file, as Python was given it.
    file: str
    #: The line in it.
    line: int
    #: The name of the function.
    function: str


class Address(NamedTuple):
    """Where to ask a process, and where it answers."""

    #: The path of its file.
    path: str
    #: Its descriptor of the file.
    fd: int


class NoAnswerError(Exception):
    """The process did not answer; the message says why, as far as that is known."""


_address: PerProcess[Address] = PerProcess()
_lock: PerProcess[threading.Lock] = PerProcess(threading.Lock)


def answer(spool_dir: str, name: str) -> Address | None:
    """Have this process answer from now on; once per process. Never raises ``OSError``.

    Args:
        spool_dir: The spool directory.
        name: A name that no other living process has in it: its pid, with a number.

    Returns:
        Where it answers; ``None``: it cannot.
    """
    with _lock.get():
        if (known := _address.peek()) is not None and os.path.lexists(known.path):
            return known
        if callable(signal.getsignal(SIGNAL)):
            return None  # the application's own
        path = os.path.join(spool_dir, FOLDER, name)
        try:
            fd = _open(path)
        except OSError:
            return None
        # First: a forked child has its parent's, or seems to.
        faulthandler.unregister(SIGNAL)
        # Other threads of an HTTP process come and go meanwhile, and have nothing to do with the job.
        faulthandler.register(SIGNAL, fd, all_threads=threading.current_thread() is threading.main_thread())
        address = Address(path, fd)
        _address.set(address)
        return address


def _open(path: str) -> int:
    files.remove(path)  # of a dead process with the same pid
    try:
        fd = files.create(path)
    except FileNotFoundError:
        files.make_folder(os.path.dirname(path))
        fd = files.create(path)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # the process that asks empties it
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    except BaseException:
        files.remove(path)
        raise
    finally:
        os.close(fd)


def leave() -> None:
    """Remove the file of this process, which exits. Never raises ``OSError``."""
    if (address := _address.peek()) is not None:
        files.remove(address.path)


def sweep(spool_dir: str) -> None:
    """Remove the files of dead processes. Never raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            pid = name.partition(".")[0]
            if pid.isdigit() and process.started(int(pid)) is None:
                files.remove(os.path.join(folder, name))


def ask(pid: int, identity: bytes, thread: int, address: Address) -> list[list[Frame]]:
    """Ask a process for its stack, or for those of all its threads if it has no other work than its job.

    Args:
        pid: The process.
        identity: Its :func:`spoolkit.system.process.identity`.
        thread: The thread that runs the job, as the kernel numbers it.
        address: Where it answers.

    Returns:
        The stack of that thread, then those of others, each from the inside out.

    Raises:
        NoAnswerError: It did not answer within :data:`TIMEOUT` seconds, or does not handle the signal.
        PermissionError: This user may not ask it.
        OSError: Its file cannot be read.
    """
    deadline = time.monotonic() + TIMEOUT
    with _asking(address.path, deadline) as fd:
        os.ftruncate(fd, 0)
        if not process.is_alive(pid, identity):
            raise NoAnswerError("its process is gone")
        if not master.has_handler(pid, SIGNAL):
            raise NoAnswerError("its process has no handler of the signal any more")
        if not _is_its_file(pid, address.fd, fd):
            raise NoAnswerError("its task has closed the descriptor to which its process answers")
        try:
            # Twice: signals of this kind are queued, and handled one after the other. So the first answer is complete
            # once the second one has begun.
            for _ in range(2):
                process.signal_thread(pid, thread, SIGNAL)
        except ProcessLookupError:
            raise NoAnswerError("the thread that ran it is gone") from None
        while time.monotonic() < deadline:
            if (found := parse(os.pread(fd, LIMIT, 0).decode("utf-8", "replace"))) is not None:
                return found
            time.sleep(0.005)
    raise NoAnswerError(f"its process did not answer within {TIMEOUT:g} s: it is stopped, or waits for a disk")


@contextlib.contextmanager
def _asking(path: str, deadline: float) -> Iterator[int]:
    """Be the only one that asks a process: yields a descriptor of its file."""
    fd = files.open_regular(path, os.O_RDWR)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoAnswerError("others are asking its process all the time") from None
                time.sleep(0.01)
        yield fd
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _is_its_file(pid: int, its_fd: int, fd: int) -> bool:
    try:
        about = os.stat(f"/proc/{pid}/fd/{its_fd}")
    except FileNotFoundError:
        return False
    except OSError:
        return True  # where uWSGI has changed its user, its own user may not look: the number is out of the way
    return (about.st_dev, about.st_ino) == process.file_of(fd)


_HEAD = re.compile(r"(Current thread|Thread|Stack)(?: (0x[0-9a-f]+))?.* \(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


def parse(text: str) -> list[list[Frame]] | None:
    """Return the first answer in ``text``, which may hold several, and of the last one only a part.

    Returns:
        The stack of the thread that answered, then those of other threads; ``None`` if the answer is not complete.
    """
    threads = dict[str, list[Frame]]()
    current, frames = "", list[Frame]()
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            thread = head[2] or ""
            if thread in threads and current in threads:
                return [threads.pop(current), *threads.values()]
            if thread in threads:  # the file was emptied amid an answer to an earlier question
                threads.clear()
            frames = threads[thread] = []
            if head[1] != "Thread":
                current = thread
        elif frame := _FRAME.fullmatch(line):
            frames.append(Frame(frame[1], int(frame[2]), frame[3]))
    return None
