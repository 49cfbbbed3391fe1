"""How does a process run the jobs of a spool directory without uWSGI? By the same files, locks and code."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType

from spoolkit.lifecycle import hooks, spooler_signals, sweeping
from spoolkit.spooldir import chunks, gate, mover, priorities, spoolfile
from spoolkit.spooling import handler, store_version
from spoolkit.system import clock, log, polling, task_signals

FREQUENCY = 1.0
"""Seconds between two scans of the spool directory if no signal arrives."""

GUARDED = (*task_signals.STOP_SIGNALS, *task_signals.HARMLESS, signal.SIGUSR1)
"""Signals that are blocked in a new process until it handles them: each would end it."""


class Spooler:
    """Runs the jobs of one spool directory, one at a time, in the main thread of this process.

    SIGUSR1 makes it scan at once. After SIGTERM, SIGINT or SIGQUIT it exits as soon as the running job has finished; a
    second one, more than a second later, ends it at once.

    Args:
        spool_dir: The spool directory.
        leash: The read end of a pipe: once no process holds the write end any more, the running job is the last one.
    """

    def __init__(self, spool_dir: str, leash: int | None = None) -> None:
        self.spool_dir = os.path.realpath(spool_dir)
        self._leash = leash
        self._stopping = False
        self._stop_request = StopRequest()
        self._lookahead = priorities.Lookahead(self.spool_dir)
        self._wakeup = self._wakeup_write = -1
        """The ends of a pipe that interrupts the wait for jobs; there is none before :meth:`run`."""

    def run(self) -> None:
        """Run jobs until :meth:`stop` is called, a signal asks this process to exit, or the leash is let go."""
        self._wakeup, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_write, False)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        task_signals.ignore_harmless()
        signal.signal(signal.SIGUSR1, lambda signum, frame: None)
        for signum in task_signals.STOP_SIGNALS:
            signal.signal(signum, self._on_stop_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GUARDED)
        handler.start(self.spool_dir)
        while not self._should_exit():
            self.run_due()
            if not self._should_exit():
                self._wait()
        handler.end()

    def stop(self) -> None:
        """Let the running job finish and start no other. May be called from any thread."""
        self._stopping = True
        if self._wakeup_write != -1:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wakeup_write, b"\0")

    def run_due(self) -> None:
        """Run all jobs that are due, by priority, and the oldest first."""
        mover.move_all_due(self.spool_dir)
        if sweeping.is_due(self.spool_dir):
            sweeping.run(self.spool_dir)
        paths = self._pending()
        if expandable := [path for path in paths if chunks.is_chunk(path)]:
            self._serve_due(expandable)
            paths = self._pending()
        self._serve_due(paths)

    def _pending(self) -> list[str]:
        if gate.is_paused(self.spool_dir) or store_version.is_newer():
            return []  # not even listed: there may be 100,000 of them, and a paused spooler asks every second
        try:
            return spoolfile.scanned(self.spool_dir)
        except OSError as error:
            text = "spooler process %d cannot read the spool directory %s, and tries again in %g s: %s"
            log.complain(text, os.getpid(), self.spool_dir, FREQUENCY, error)
            handler.replace_if_out_of_descriptors(error)
            return []

    def _serve_due(self, paths: list[str]) -> None:
        for path in paths:
            if self._should_exit():
                return
            if not spoolfile.is_due(path):
                continue
            while priorities.is_used() and (urgent := self._lookahead.first_before(path)) is not None:
                if not self._serve(urgent) or self._should_exit():
                    return
            if not self._serve(path):
                return

    def _should_exit(self) -> bool:
        # Checked between two jobs and not by a thread: every task that forks would then fork a threaded process.
        if self._leash is not None and not self._stopping:
            self._stopping = bool(polling.readable([self._leash], 0))
        return self._stopping or spooler_signals.is_exit_requested()

    def _serve(self, path: str) -> bool:
        """Run the job of a file, if no other process does. Returns whether others may start after it."""
        with spoolfile.claim_to_run(path) as fd:
            if fd is None or (env := handler.read_locked(fd, path, self.spool_dir)) is None:
                return True
            try:
                return handler.serve(env, path, self.spool_dir) is not None
            except Exception as error:
                log.complain("the spool file %s could not be processed and is tried again", path, error=error)
                handler.replace_if_out_of_descriptors(error)
                return True

    def _wait(self) -> None:
        ends = [self._wakeup] if self._leash is None else [self._wakeup, self._leash]
        if self._wakeup in polling.readable(ends, min(FREQUENCY, self._until_next())):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _until_next(self) -> float:
        """Return the seconds until the next scheduled job is due."""
        now, soonest = clock.now(), FREQUENCY
        for path in self._pending():
            with contextlib.suppress(OSError):
                ahead = os.lstat(path).st_mtime - now
                if 0 < ahead < soonest:
                    soonest = ahead
        return soonest

    def _on_stop_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_request.again():
            os._exit(128 + signum)  # the lock goes with the process: the job runs again
        self.stop()


class StopRequest:
    """Remembers when a signal asked this process to stop."""

    def __init__(self) -> None:
        self._at: float | None = None

    def again(self) -> bool:
        """Note a signal, and return whether it is a second request.

        A terminal signals the whole process group, and the parent passes the signal on: two signals within a second are
        one request.
        """
        now = time.monotonic()
        if self._at is None:
            self._at = now
        return now - self._at > clock.SAME_SIGNAL


def run_spooler(spool_dir: str, leash: int) -> None:
    """Run the jobs of a spool directory as long as another process holds the write end of the pipe ``leash``."""
    hooks.run_start_hooks()
    Spooler(spool_dir, leash).run()
    hooks.run_end_hooks()  # the supervisor ends this process by os._exit(), without Python's own exit
