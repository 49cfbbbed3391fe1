"""A spooler process in plain Python, for where uWSGI is not: the same files, the same lock, the same ``serve``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

from spoolkit import bridge, clock, packet, spoolfile
from spoolkit.engines import spool
from spoolkit.errors import DecodeError
from spoolkit.job import Dead, Failure
from spoolkit.runner import Ended, log

FREQUENCY = 1.0
"""Seconds between two looks at the directory when nobody signals."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

RESPAWN_PAUSE = 1.0
"""Seconds before a process that died is started again: a job that kills it must not spin."""


class Spooler:
    """Runs the jobs of one directory, one at a time, in the main thread of this process.

    SIGUSR1 has it look at once. SIGTERM or SIGINT lets the running job finish; a second one does not.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)
        self._stopping = False
        self._wakeup, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_write, False)

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR1, lambda signum, frame: None)
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._on_stop_signal)
        spool.start(self.directory)
        while not self._stopping:
            self.run_due()
            if not self._stopping:
                self._wait()
        spool.leave()

    def stop(self) -> None:
        """Finish the running job and start no other. May be called from any thread."""
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._wakeup_write, b"\0")

    def run_due(self) -> None:
        """Run every job that is due, oldest first within its priority."""
        try:
            paths = spoolfile.pending(self.directory)
        except OSError as error:
            log.error("the spool directory %s cannot be read: %s", self.directory, error)
            return
        for path in paths:
            if self._stopping:
                return
            if spoolfile.is_due(path):
                self._serve(path)

    def _serve(self, path: str) -> None:
        with spoolfile.claim(path) as fd:
            if fd is None or os.fstat(fd).st_size < 4:
                return
            try:
                content = packet.load(spoolfile.read(fd))
            except DecodeError as error:
                spool.settle(path, self.directory, Ended(Dead(Failure(str(error)))))
                return
            if packet.MARKER not in content.fields:
                return  # another library's: only uWSGI can run it
            env: bridge.Env = {
                **content.fields,
                "spooler_task_name": os.fsencode(os.path.basename(path)),
                "body": content.body,
            }
            try:
                spool.serve(env, path, self.directory)
            except OSError:
                log.exception("the job of %s could not be settled and will run again", path)

    def _wait(self) -> None:
        ready, _, _ = select.select([self._wakeup], [], [], min(FREQUENCY, self._until_next()))
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _until_next(self) -> float:
        """Seconds until the next job in the future is due."""
        now, soonest = clock.now(), FREQUENCY
        with contextlib.suppress(OSError):
            for path in spoolfile.pending(self.directory):
                with contextlib.suppress(OSError):
                    ahead = os.lstat(path).st_mtime - now
                    if 0 < ahead < soonest:
                        soonest = ahead
        return soonest

    def _on_stop_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stopping:
            os._exit(128 + signum)  # the lock goes with the process: the job runs again
        self.stop()


def supervise(directory: str, processes: int, *, run: Callable[[str], None]) -> None:
    """Keep ``processes`` children, each in ``run(directory)``, until SIGTERM or SIGINT, which they are passed."""
    children: set[int] = set()
    stopping = False

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def spawn() -> None:
        # A signal between the fork and the note of it would stop every child but this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            if not stopping:
                children.add(_spawn(directory, run))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    for signum in STOP_SIGNALS:
        signal.signal(signum, pass_on)
    for _ in range(processes):
        spawn()
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if not stopping:
            log.error("spooler process %d ended with status %d and is started again", pid, status)
            time.sleep(RESPAWN_PAUSE)
            spawn()


def _spawn(directory: str, run: Callable[[str], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    # A group of its own: Ctrl-C in a terminal reaches the parent alone, which passes it on once.
    os.setpgid(0, 0)
    status = 1
    try:
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        run(directory)
        status = 0
    finally:
        os._exit(status)
