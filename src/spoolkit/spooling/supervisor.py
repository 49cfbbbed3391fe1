"""How are several spooler processes kept running without uWSGI, and how are they stopped?"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from spoolkit import application
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import State
from spoolkit.lifecycle import shutdown, spooler_signals
from spoolkit.spooldir import gate, mover, spoolers
from spoolkit.spooling import recycling
from spoolkit.spooling.service_report import ServiceReport
from spoolkit.spooling.standalone import GUARDED, StopRequest, run_spooler
from spoolkit.store import locations
from spoolkit.system import log, polling, task_signals
from spoolkit.system.service_manager import ServiceManager
from spoolkit.system.task_signals import STOP_SIGNALS

Run = Callable[[str, int], None]
"""What a process does: it gets a spool directory and the read end of a pipe that the supervisor holds open."""

once: list[Run] = []
"""What further processes do that a site has, each of them once, whatever the number of its spool directories."""

RESPAWN_PAUSE = 1.0
"""Seconds before a process that died is started again, so that a job that kills it is not run in a tight loop."""


def supervise(
    processes: Mapping[str, int],
    *,
    until_eof: int | None = None,
    run: Run = run_spooler,
    beside: Sequence[Run] = (),
    manager: ServiceManager | None = None,
) -> int:
    """Keep spooler processes running until a signal asks to stop, and replace those that die.

    The signals are SIGTERM, SIGINT, SIGQUIT and SIGHUP, this one unless it was ignored at the start, as by ``nohup``.
    After a signal, and if this process dies, each spooler process finishes its job and exits. Those that have not
    finished within ``SPOOLKIT_GRACE`` seconds, or at a second signal more than a second later, are killed, and their
    jobs are recorded as interrupted.

    Args:
        processes: How many processes there are, by spool directory.
        until_eof: A file descriptor whose end has the effect of a signal.
        run: What each process does.
        beside: What one more process does for each spool directory.
        manager: The service manager that is to know how the processes are; ``None``: there is none.

    Returns:
        The exit status: 1 if jobs were interrupted, else 0.
    """
    return _Supervisor(list(processes), until_eof, manager).keep(processes, run, beside)


class _Supervisor:
    """Starts the spooler processes, replaces those that die, and stops them."""

    def __init__(
        self,
        spool_dirs: list[str],
        until_eof: int | None,
        manager: ServiceManager | None,
    ) -> None:
        self._spool_dirs = spool_dirs
        self._until_eof = until_eof
        self._report = ServiceReport(manager, spool_dirs)
        self._movers = [mover.Mover(os.path.realpath(spool_dir)) for spool_dir in spool_dirs]
        self._children: dict[int, str] = {}
        """The spool directory of each process, by its pid."""
        self._runs: dict[int, Run] = {}
        """What each process does, by its pid."""
        self._missing: list[tuple[float, str, Run]] = []
        """When the missing processes are started, on the monotonic clock, for which spool directory, and what to do."""
        self._stopping = False
        self._stop_request = StopRequest()
        self._announced = False
        self._interrupted: set[int] = set()
        """The processes that were killed while they ran a job."""
        self._deadline: float | None = None
        """When the processes that have not exited are killed, on the monotonic clock."""
        # Each child has the read end, and this process alone has the write end, which closes even at its kill -9.
        self._leash, self._leash_held = os.pipe()
        self._wakeup, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_write, False)

    def keep(self, processes: Mapping[str, int], run: Run, beside: Sequence[Run]) -> int:
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        task_signals.ignore_harmless()
        signal.signal(signal.SIGUSR1, lambda signum, frame: None)
        for signum in STOP_SIGNALS if ignores_hangup else (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(signum, self._on_stop_signal)
        for spool_dir in self._spool_dirs:
            gate.on_start(spool_dir)
        now = time.monotonic()
        self._missing = [(now, spool_dir, run) for spool_dir in Counter(processes).elements()]
        self._missing += [(now, spool_dir, one) for spool_dir in self._spool_dirs for one in beside]
        self._missing += [(now, self._spool_dirs[0], one) for one in once]
        while True:
            if not self._stopping:
                self._start_missing()
            elif not self._children:
                return int(bool(self._interrupted))
            elif self._deadline is not None and time.monotonic() >= self._deadline:
                self._interrupt()
            else:
                self._announce()
            self._report.send(self._children, sum(processes.values()), is_stopping=self._stopping)
            self._wait()
            self._reap()

    def _wait(self) -> None:
        ends = [self._wakeup] if self._until_eof is None else [self._wakeup, self._until_eof]
        soonest = self._deadline if self._stopping else min((at for at, _, _ in self._missing), default=None)
        left = min([*(one.step() for one in self._movers), self._report.left])
        if soonest is not None:
            left = min(left, max(0.0, soonest - time.monotonic()))
        ends += [one.pipe for one in self._movers if one.pipe is not None]
        ready = polling.readable(ends, left)
        if self._wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
        if self._until_eof in ready and not os.read(self._until_eof, 4096):
            self._until_eof = None
            self._stop()

    def _reap(self) -> None:
        # One by one, by pid: the application may have other children in this process and wait for those itself.
        for pid in sorted(self._children):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # the application has waited for it
                found, status = pid, 0
            if not found:
                continue
            spool_dir, run, exit_code = self._children.pop(pid), self._runs.pop(pid), os.waitstatus_to_exitcode(status)
            if exit_code in (0, recycling.EXIT_STATUS):
                self._interrupted.discard(pid)  # it had finished before it was killed
            if not self._stopping and exit_code == recycling.EXIT_STATUS:
                self._missing.append((time.monotonic(), spool_dir, run))
            elif not self._stopping:
                reason = f"by signal {-exit_code}" if exit_code < 0 else f"with status {exit_code}"
                log.error("spooler process %d ended %s and is started again", pid, reason)
                self._missing.append((time.monotonic() + RESPAWN_PAUSE, spool_dir, run))

    def _on_stop_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_request.again():
            self._deadline = 0.0
        self._stop()

    def _stop(self) -> None:
        # The children are asked by the pipe and not by a signal: to stop a whole service, systemd signals each child as
        # well, and a second signal would interrupt its job.
        if not self._stopping:
            self._stopping = True
            self._deadline = time.monotonic() + application.settings().grace
            self._report.hurry()
            os.close(self._leash_held)

    def _announce(self) -> None:
        """Log, once, which jobs this process waits for."""
        if self._announced:
            return
        self._announced = True
        try:
            recorded = locations.store().statuses(states=[State.RUNNING])
        except StoreUnavailableError:
            return
        running = [status for status in recorded if status.pid in self._children]
        if running:
            jobs = ", ".join(f"{status.id} of {status.task}" for status in running)
            wait = application.settings().grace
            log.warning("waiting up to %g s for job %s; another signal interrupts it, and it runs again", wait, jobs)

    def _interrupt(self) -> None:
        self._deadline = None
        self._interrupted = set(spoolers.busy(self._spool_dirs, self._children))
        shutdown.interrupt_jobs(self._children)
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start_missing(self) -> None:
        now = time.monotonic()
        due = [(spool_dir, run) for at, spool_dir, run in self._missing if at <= now]
        self._missing = [one for one in self._missing if one[0] > now]
        for spool_dir, run in due:
            # A signal between the fork and the next statement would miss this child, or be handled by it.
            signal.pthread_sigmask(signal.SIG_BLOCK, GUARDED)
            try:
                if not self._stopping:
                    pid = self._spawn(spool_dir, run)
                    self._children[pid], self._runs[pid] = spool_dir, run
            except OSError as error:
                log.error(
                    "a spooler process could not be started, and is tried again in %g s: %s", RESPAWN_PAUSE, error
                )
                self._missing.append((now + RESPAWN_PAUSE, spool_dir, run))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, GUARDED)

    def _spawn(self, spool_dir: str, run: Run) -> int:
        _flush()  # or the child would write the buffered text a second time
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            self._become_child()
            run(spool_dir, self._leash)
            status = recycling.EXIT_STATUS if spooler_signals.is_exit_requested() else 0
        except BaseException:
            log.exception("spooler process %d exits because of an error", os.getpid())
        finally:
            # Not sys.exit(): the parent's exit handlers must not run in the child.
            try:
                logging.shutdown()
                _flush()
            finally:
                os._exit(status)

    def _become_child(self) -> None:
        # A process group of its own: Ctrl-C in a terminal then reaches the parent alone, which passes it on once.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # The guarded signals stay blocked until the spooler handles them.
        os.close(self._leash_held)
        for one in self._movers:
            one.close()
        # Outside the terminal's process group, a task that reads from the terminal would be stopped for ever. And the
        # input may be until_eof, which belongs to the parent.
        devnull = os.open(os.devnull, os.O_RDONLY)
        if devnull != 0:  # it is 0 if there was no standard input
            os.dup2(devnull, 0)
            os.close(devnull)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # none, or closed
            stream.flush()
