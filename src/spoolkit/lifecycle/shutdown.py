"""Graceful shutdown under uWSGI: start no job, let running ones finish within SPOOLKIT_GRACE, interrupt the rest.

The master of uWSGI knows nothing of jobs. Stopped by ``gracefully_kill_them_all`` (see ``uwsgi/recommended.py``) it
waits for its HTTP processes before it kills the spoolers; therefore the HTTP processes wait for the spoolers when they
exit. A thread in each of them makes sure that a request which never ends does not delay the shutdown for longer than
that.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable

from spoolkit import application
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import Progress
from spoolkit.lifecycle import delayed_jobs, hooks
from spoolkit.spooldir import gate, running, spoolers
from spoolkit.store import locations, orphans
from spoolkit.system import log, process, task_signals
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge, master

MASTER_CHECK = 0.5
"""Seconds between two checks by an HTTP process of what its master is doing."""

STOP_SHOWS = 0.2
"""Seconds within which a master that ends an HTTP process shows whether it is stopping itself."""

STOP_SLEEP = 4.0
"""Seconds: a master that sleeps for longer, and starts no process, is stopping (``forkbomb-delay`` is 2)."""

SUCCESSOR_TIME = 10.0
"""Seconds within which an HTTP process exits and gets a successor."""

DEATH_SHOWS = 1.0
"""Seconds within which a killed spooler is seen to be dying, also on a machine that keeps it waiting for the CPU."""

KILL_AFTER_GRACE = 2.0
"""Seconds after the grace period at which an HTTP process that has not exited is killed."""


class _HttpProcess:
    """The state of this HTTP process."""

    #: Whether :func:`_at_exit` was called.
    is_exiting = False


_http_process = PerProcess(_HttpProcess)


@functools.cache  # installed once; forked processes inherit the hooks
def install() -> None:
    """Have the HTTP processes of this uWSGI wait for running jobs when it stops. Does nothing outside uWSGI."""
    if bridge.is_uwsgi():
        bridge.at_end(_at_exit)
        bridge.at_start(_at_start)


def interrupt_jobs(pids: Iterable[int]) -> None:
    """Kill those spoolers of ``pids`` that run a job, and record the attempts as interrupted. Never raises."""
    pids = list(pids)
    try:
        jobs = orphans.interrupt(locations.store(), pids, kill=_kill, read_leftovers=_leftovers)
    except StoreUnavailableError as error:
        log.unrecorded(error)
        _interrupt_unrecorded(pids)
        return
    for job, _, _ in jobs:
        running.delete(locations.spool_dir_of(job.queue), job.id)
        log.warning("job %s was interrupted because the server is stopping; it will run again", job.id)
    orphans.announce(jobs)


def _leftovers(id: str, queue: str | None) -> tuple[Progress | None, str]:
    return running.read(locations.spool_dir_of(queue), id)


def _interrupt_unrecorded(pids: Iterable[int]) -> None:
    for pid in spoolers.busy(locations.spool_dirs(), pids):
        with contextlib.suppress(OSError):
            # In this order: otherwise the next start might take the attempt for a crash of the task.
            spoolers.mark_stopped(locations.spool_dir(), pid)
            _kill(pid)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _busy_spoolers() -> list[int]:
    return spoolers.busy(bridge.directories(), bridge.spooler_pids())


# From here on: in an HTTP process of uWSGI.


def _at_start() -> None:
    _http_process.get()
    if not bridge.respawns() and bridge.spooler_pids():
        for directory in bridge.directories():
            gate.on_start(directory)
    # Block all signals in the thread: otherwise it would run the shutdown handler concurrently with the main thread,
    # and would not wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=_watch_master, name="spoolkit-stop", daemon=True).start()
        delayed_jobs.start(bridge.directories())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_master() -> None:
    """Replace the spoolers that run older code than this new process; then enforce the end of a stop."""
    pid = bridge.master_pid()
    is_new, sleep = bridge.respawns() > 0, _MasterSleep(pid)
    while not master.is_stopping(pid) and not sleep.is_a_stop():
        if is_new and bridge.has_application():
            recycle_old_spoolers()
            is_new = False
        time.sleep(0.05 if is_new else MASTER_CHECK)
    grace = application.settings().grace
    _announce_stop(grace)
    deadline = time.monotonic() + grace
    while not bridge.has_application() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(MASTER_CHECK)
    if not _http_process.get().is_exiting:
        # The signal may have come while this process was starting, and been lost.
        os.kill(os.getpid(), signal.SIGHUP)
    while time.monotonic() < deadline and not master.is_stop_repeated(pid):
        time.sleep(0.1)
    interrupt_jobs(bridge.spooler_pids())
    time.sleep(KILL_AFTER_GRACE)
    log.error(
        "HTTP process %d did not exit within %g s of the stop; it is killed", os.getpid(), grace + KILL_AFTER_GRACE
    )
    os.kill(os.getpid(), signal.SIGKILL)


class _MasterSleep:
    """Finds out whether the master sleeps because it is stopping.

    A stop without a signal (by uWSGI's fifo, for example) shows in nothing else, and a process that is starting may
    have missed the master's own signal.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = time.monotonic()
        self._spawned = bridge.respawns_of_all()

    def is_a_stop(self) -> bool:
        """Whether the master has slept for longer than it does for any other reason. To be called repeatedly."""
        spawned = bridge.respawns_of_all()
        # A master that is stopping starts no process. Where processes die again and again, it sleeps as well, but
        # starts one after each sleep.
        if spawned != self._spawned or not _sleeps_as_in_a_stop(self._pid):
            self._since, self._spawned = time.monotonic(), spawned
        return time.monotonic() - self._since > STOP_SLEEP


def recycle_old_spoolers() -> None:
    """Have the spoolers that run older code finish their job and exit: uWSGI starts others, which load the new code.

    A spooler runs older code if it started before the first HTTP process. When the first HTTP process is being
    replaced, its successor calls this itself.
    """
    first = os.getpid() if bridge.is_first_worker() else bridge.first_worker_pid()
    since = process.started(first)
    for directory in bridge.directories():
        spoolers.publish_generation(directory, first)
    for pid in bridge.spooler_pids():
        born = process.started(pid)
        if since is not None and born is not None and born < since:
            with contextlib.suppress(ProcessLookupError):  # gone meanwhile
                os.kill(pid, signal.SIGTERM)


def wait_for_shutdown(seconds: float) -> None:
    """Sleep before a process exits that could not load its application; if uWSGI stops meanwhile, wait for the jobs.

    Args:
        seconds: How long to sleep.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if bridge.is_worker() and master.is_stopping(bridge.master_pid()):
            _at_exit()
            return
        time.sleep(0.05)


def _at_exit() -> None:
    """Wait for running jobs if uWSGI is stopping; called by uWSGI before this HTTP process exits."""
    http_process = _http_process.peek()
    if http_process is None:
        return  # uWSGI calls this in the master and the spoolers as well, and in processes that a request has forked
    http_process.is_exiting = True
    # A second signal would call this function again, and cut the first call short.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*task_signals.STOP_SIGNALS, signal.SIGHUP))
    grace = application.settings().grace
    deadline = time.monotonic() + grace
    stops = _is_server_stopping()
    if stops:
        _announce_stop(grace)
    # First: uWSGI's idle kills a process that takes three seconds to exit. A delayed job that a hook enqueues calls the
    # spoolers by itself.
    delayed_jobs.stop(bridge.directories())
    # At a reload as well. A hook may still use uWSGI, to enqueue a job for example: the wait below covers such a job.
    hooks.run_end_hooks()
    if not stops and bridge.is_last_worker():
        # Where all are replaced at once (fifo r), a stop would find no HTTP process that waits for jobs. So the last
        # one exits later than the others; not the first one, whose successor brings the spoolers to the new code.
        process.wait_until_gone(
            lambda: [] if master.is_stopping(bridge.master_pid()) else _workers_if_none_serves(), deadline
        )
    if not stops and master.is_stopping(bridge.master_pid()):
        # The stop came while this process was exiting for a reload. Where all are replaced at once, no other process
        # waits for jobs.
        stops, deadline = True, time.monotonic() + grace
        _announce_stop(grace)
    if stops:
        pid, spawned = bridge.master_pid(), bridge.respawns_of_all()
        process.wait_until_gone(
            _busy_spoolers, deadline, lambda: master.is_stop_repeated(pid) or bridge.respawns_of_all() != spawned
        )
        # A master that is stopping starts no process: if it has started one, it slept for another reason.
        if bridge.respawns_of_all() == spawned:
            # Among them, those that the master has killed already, if it does not wait.
            interrupt_jobs(bridge.spooler_pids())
            if any(called.spooler_stop for _, called in application.all_callbacks()):
                _end_spoolers(deadline)
        else:
            for directory in bridge.directories():
                gate.withdraw_stop(directory)
    elif not bridge.other_workers():
        _leave_watcher()


def _end_spoolers(deadline: float) -> None:
    """Have the spoolers, which are idle now, run what the application does at their end: the master would kill them."""
    master_pid = bridge.master_pid()
    # A master that is stopping reaps no spooler, so these pids belong to no other process. If the master was killed,
    # they may: then its spoolers are children of another process.
    pids = [pid for pid in bridge.spooler_pids() if process.parent(pid) == master_pid]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    process.wait_until_gone(
        lambda: [pid for pid in pids if not master.is_dying(pid)],
        deadline,
        lambda: master.is_stop_repeated(master_pid),
    )


def _leave_watcher() -> None:
    """Leave a child process that looks after the jobs until the only HTTP process has a successor.

    A stop that comes meanwhile finds no HTTP process that waits for the jobs, and kills the spoolers at once. So this
    function marks the spoolers beforehand as killed by a stop, and the next start will not count the attempts; the
    child removes the marks again. The child also speeds up the reload: the master checks for dead processes once a
    second, and a signal makes it do so at once.
    """
    pid, master_pid, spool_dir = os.getpid(), bridge.master_pid(), locations.spool_dir()
    spooler_pids = bridge.spooler_pids()
    # Not by the child: it may be killed with the rest of this server at the very moment of the stop.
    # Idle spoolers are marked as well: they may start a job.
    for spooler in spooler_pids:
        with contextlib.suppress(OSError):
            spoolers.mark_stopped(spool_dir, spooler)
    with warnings.catch_warnings():
        # Python warns of a fork beside threads: the child uses nothing that belongs to them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return
    try:
        os.closerange(3, 1024)  # the listening sockets among them
        if not _stops_before_successor(pid, master_pid, spooler_pids):
            for spooler in spooler_pids:
                spoolers.unmark_stopped(spool_dir, spooler)
    finally:
        os._exit(0)


def _stops_before_successor(pid: int, master_pid: int, spooler_pids: list[int]) -> bool:
    """Whether uWSGI stops before the HTTP process ``pid`` has a successor."""
    until, parent_is_alive = time.monotonic() + SUCCESSOR_TIME, True
    while time.monotonic() < until:
        if master.is_stopping(master_pid):
            return True
        if process.started(master_pid) is None:
            # A master without HTTP processes kills the spoolers at once: by now both are gone. If only the master is
            # gone, the master itself was killed: that is no stop, and the spoolers continue their jobs.
            return not process.wait_until_gone(
                lambda: [pid for pid in spooler_pids if not master.is_dying(pid)], time.monotonic() + DEATH_SHOWS
            )
        if parent_is_alive and os.getppid() != pid:
            parent_is_alive = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(master_pid, signal.SIGUSR1)  # interrupts its sleep; it also logs statistics
        if bridge.first_worker_pid() not in (0, pid):
            return False
        time.sleep(0.005)
    return False


def _workers_if_none_serves() -> list[int]:
    """The other HTTP processes if none of them serves: each is exiting, or still starting. Else none."""
    others = bridge.other_workers()
    # An exiting HTTP process blocks these signals, as a stopping master does.
    serves = (served and process.started(pid) is not None and not master.is_stopping(pid) for pid, served in others)
    return [] if any(serves) else [pid for pid, _ in others]


def _announce_stop(grace: float) -> None:
    for directory in bridge.directories():
        gate.publish_stop(directory, grace)


def _sleeps_as_in_a_stop(pid: int) -> bool:
    """Whether the master sleeps, as it does while it stops, and not because it ends idle HTTP processes."""
    return master.is_sleeping(pid) and not bridge.is_ending_idle_workers()


def _is_server_stopping() -> bool:
    """Whether uWSGI is stopping, and not only this process.

    If the master has killed the spoolers already, this records their attempts as interrupted and returns ``False``:
    there is nothing to wait for.
    """
    pid, spooler_pids, until = bridge.master_pid(), bridge.spooler_pids(), time.monotonic() + STOP_SHOWS
    while time.monotonic() < until:
        if master.is_stopping(pid) or _sleeps_as_in_a_stop(pid):
            return True
        if spooler_pids and all(map(master.is_dying, spooler_pids)):
            interrupt_jobs(spooler_pids)
            return False
        time.sleep(0.02)
    return False
