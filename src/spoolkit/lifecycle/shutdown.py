"""A stop that waits: no job starts any more, those that run finish, and what the grace does not suffice for is cut off.

The master of uWSGI knows nothing of jobs. Stopped by ``gracefully_kill_them_all`` (see recommended.py) it waits for its
HTTP processes before it kills the spoolers; so the HTTP processes wait for the spoolers as they end. A thread in each
of them sees to it that a request which never ends does not hold up the stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable

from spoolkit import application
from spoolkit.errors import StoreUnavailableError
from spoolkit.lifecycle import hooks
from spoolkit.spooldir import gate, running
from spoolkit.spooldir import spoolers as presence
from spoolkit.store import interruption, locations
from spoolkit.system import log, process
from spoolkit.uwsgi import bridge, master

LOOK = 0.5
"""Seconds between two looks of an HTTP process at its master."""

SURE = 0.2
"""Seconds in which a master that ends an HTTP process shows why."""

SLEEP = 4.0
"""Seconds for which a master does not sleep, and start no process, unless it stops (``forkbomb-delay`` is 2)."""

WATCH = 10.0
"""Seconds in which an HTTP process ends, and has a successor."""

DYING = 1.0
"""Seconds in which it shows that a spooler has been killed, on a machine that lets it wait for the processor."""

LAST_WORD = 2.0
"""Seconds after the grace at which an HTTP process that has not ended is killed."""

_installed = False
_ends = False


def install() -> None:
    """Have the HTTP processes of this uWSGI wait for running jobs when they are stopped. Outside uWSGI, nothing."""
    global _installed
    if not _installed:
        _installed = True
        bridge.at_worker(_started, _ending)


def busy(directories: Iterable[str], pids: Iterable[int] | None = None) -> list[int]:
    """The spoolers of ``directories`` that have a job in hand; only those of ``pids``, if given."""
    found = {pid for directory in directories for pid in presence.working(directory)}
    return sorted(found if pids is None else found.intersection(pids))


def wait(still: Callable[[], list[int]], deadline: float, hurried: Callable[[], bool] = lambda: False) -> list[int]:
    """Wait while ``still()`` gives any process, until ``deadline`` on the monotonic clock; returns what is left."""
    while (left := still()) and time.monotonic() < deadline and not hurried():
        time.sleep(0.05)
    return left


def cut_off(pids: Iterable[int]) -> None:
    """Kill those processes of ``pids`` that run a job, and record their attempts as interrupted. Never raises."""
    store, pids = locations.store(), list(pids)
    try:
        ids = interruption.interrupt(store, pids, kill=_kill, left=lambda id: running.look(store.folder, id))
    except StoreUnavailableError as error:
        log.unrecorded(error)
        _cut_off_unrecorded(store.folder, pids)
        return
    for id in ids:
        running.forget(store.folder, id)
        log.warning("job %s was interrupted: the server stops; it will run again", id)


def _cut_off_unrecorded(folder: str, pids: Iterable[int]) -> None:
    for pid in busy(locations.directories(), pids):
        with contextlib.suppress(OSError):
            # In this order: the next start must not take the attempt for a crash of the task.
            interruption.mark(folder, pid)
            _kill(pid)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _mine() -> list[int]:
    return busy(bridge.directories(), bridge.spooler_pids())


# In an HTTP process of uWSGI.


def _started() -> None:
    if not bridge.respawns() and bridge.spooler_pids():
        for directory in bridge.directories():
            gate.started(directory)
    # No signal is for this thread: the one that ends the process, handled here, would do so beside the main thread,
    # which ends it as well, and does not wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=_keep, name="spoolkit-stop", daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep() -> None:
    """Follow the code of a new HTTP process with the spoolers; then see that a stop does not take for ever."""
    pid = bridge.master_pid()
    is_new, asleep = bridge.respawns() > 0, _Asleep(pid)
    while not master.is_stopping(pid) and not asleep.for_good():
        if is_new and bridge.has_application():
            recycle()
            is_new = False
        time.sleep(0.05 if is_new else LOOK)
    grace = application.settings().grace
    _say_stopping(grace)
    deadline = time.monotonic() + grace
    while not bridge.has_application() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(LOOK)
    if not _ends:
        # Told to end while it started, it may not have heard.
        os.kill(os.getpid(), signal.SIGHUP)
    while time.monotonic() < deadline and not master.is_hurried(pid):
        time.sleep(0.1)
    cut_off(bridge.spooler_pids())
    time.sleep(LAST_WORD)
    log.error("HTTP process %d did not end within %g s, and is killed", os.getpid(), grace + LAST_WORD)
    os.kill(os.getpid(), signal.SIGKILL)


class _Asleep:
    """Whether the master sleeps because it stops: by no signal, and perhaps unheard by a process that starts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = time.monotonic()
        self._spawned = bridge.spawned()

    def for_good(self) -> bool:
        spawned = bridge.spawned()
        # A master that stops starts nobody. Where processes die again and again, it sleeps as well, but between two.
        if spawned != self._spawned or not _is_asleep(self._pid):
            self._since, self._spawned = time.monotonic(), spawned
        return time.monotonic() - self._since > SLEEP


def recycle() -> None:
    """Have the spoolers on older code finish their job and end: others follow, on the new one.

    Older is what started before the first HTTP process did. Where that is being replaced, it does this itself.
    """
    first = os.getpid() if bridge.is_first_worker() else bridge.first_worker_pid()
    since = process.started(first)
    for directory in bridge.directories():
        presence.say_generation(directory, first)
    for pid in bridge.spooler_pids():
        born = process.started(pid)
        if since is not None and born is not None and born < since:
            with contextlib.suppress(ProcessLookupError):  # buried meanwhile
                os.kill(pid, signal.SIGTERM)


def linger(seconds: float) -> None:
    """Before a process ends that could not load its application: if a stop comes meanwhile, wait for jobs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if bridge.is_worker() and master.is_stopping(bridge.master_pid()):
            _ending()
            return
        time.sleep(0.05)


def _ending() -> None:
    global _ends
    _ends = True
    # A second signal would begin this end anew, and cut it short.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*master.STOP_SIGNALS, signal.SIGHUP))
    grace = application.settings().grace
    deadline = time.monotonic() + grace
    stops = _is_stop()
    if stops:
        _say_stopping(grace)
    # At a reload as well; and with what begins in it, this process may still be called upon by uWSGI.
    hooks.drain()
    if not stops and bridge.is_last_worker():
        # Where all are replaced at once (fifo r), a stop would find nobody who waits for jobs. The last goes
        # later; not the first, whose successor brings the spoolers to the new code.
        wait(lambda: [] if master.is_stopping(bridge.master_pid()) else _gap(), deadline)
    if not stops and master.is_stopping(bridge.master_pid()):
        # It came while this process ended for a reload. Where all are replaced at once, nobody else waits for jobs.
        stops, deadline = True, time.monotonic() + grace
        _say_stopping(grace)
    if stops:
        pid, spawned = bridge.master_pid(), bridge.spawned()
        wait(_mine, deadline, lambda: master.is_hurried(pid) or bridge.spawned() != spawned)
        # A master that stops starts nobody: this one slept for another reason.
        if bridge.spawned() == spawned:
            # Those that the master has killed already, where it does not wait, among them.
            cut_off(bridge.spooler_pids())
        else:
            for directory in bridge.directories():
                gate.say_not_stopping(directory)
    elif not bridge.other_workers():
        _leave_watch()


def _leave_watch() -> None:
    """Leave a process behind that looks after the jobs until the only HTTP process has a successor.

    A stop that comes meanwhile finds no HTTP process that waits for the jobs, and kills them at once. So this leaves
    word beforehand that it is a stop which ends them, and the next start counts no attempt; the process that stays
    takes the word back. And the master looks after dead processes once a second: a signal makes it do so at once.
    """
    pid, master_pid, folder = os.getpid(), bridge.master_pid(), locations.store().folder
    spoolers = bridge.spooler_pids()
    # Not by the process that stays: it may be killed with the rest of this server, in the moment in which that stops.
    # The idle are marked as well: they may begin a job.
    for spooler in spoolers:
        with contextlib.suppress(OSError):
            interruption.mark(folder, spooler)
    with warnings.catch_warnings():
        # Of a fork beside threads: the child uses nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return
    try:
        os.closerange(3, 1024)  # the listening sockets among them
        if not _ends_by_a_stop(pid, master_pid, spoolers):
            for spooler in spoolers:
                interruption.unmark(folder, spooler)
    finally:
        os._exit(0)


def _ends_by_a_stop(pid: int, master_pid: int, spoolers: list[int]) -> bool:
    """Whether uWSGI stops before the HTTP process ``pid`` has a successor."""
    until, waits = time.monotonic() + WATCH, True
    while time.monotonic() < until:
        if master.is_stopping(master_pid):
            return True
        if process.started(master_pid) is None:
            # A master without HTTP processes kills the spoolers at once: by now both are gone. Where only the master
            # is, it was killed itself: that is no stop, and the spoolers go on with their jobs.
            return not wait(lambda: [pid for pid in spoolers if not master.is_doomed(pid)], time.monotonic() + DYING)
        if waits and os.getppid() != pid:
            waits = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(master_pid, signal.SIGUSR1)  # ends its sleep, and has it log statistics
        if bridge.first_worker_pid() not in (0, pid):
            return False
        time.sleep(0.005)
    return False


def _gap() -> list[int]:
    """The other HTTP processes, if all of them end as well, or do not serve yet."""
    others = bridge.other_workers()
    # Who ends has these signals blocked, as a master that stops has.
    serves = (served and process.started(pid) is not None and not master.is_stopping(pid) for pid, served in others)
    return [] if any(serves) else [pid for pid, _ in others]


def _say_stopping(grace: float) -> None:
    for directory in bridge.directories():
        gate.say_stopping(directory, grace)


def _is_asleep(pid: int) -> bool:
    """Whether the master sleeps as it does when it stops."""
    return master.is_asleep(pid) and not bridge.goes_cheap()


def _is_stop() -> bool:
    """Whether uWSGI stops, or only this process. Where its master has killed the spoolers already, that is recorded."""
    pid, spoolers, sure = bridge.master_pid(), bridge.spooler_pids(), time.monotonic() + SURE
    while time.monotonic() < sure:
        if master.is_stopping(pid) or _is_asleep(pid):
            return True
        if spoolers and all(map(master.is_doomed, spoolers)):
            cut_off(spoolers)
            return False
        time.sleep(0.02)
    return False
