"""What people do to jobs, and the figures they look at. No HTTP, no click.

What would change something raises :class:`StoreUnavailableError` where that cannot be recorded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator

from spoolkit import clock, morgue, packet, presence, process, pruning, recorder, spoolfile, tracking, waiting
from spoolkit.errors import DecodeError, JobStateError
from spoolkit.job import FINISHED, State, Status
from spoolkit.lookup import HEAD, checked, directories, find, jobs, known_of, recorded

CLAIM_TIME = 2.0
"""Seconds to try for a file that a spooler may be looking at."""


def retry(id: str) -> None:
    """Have the dead job ``id`` run again, with a fresh count of attempts.

    Raises :class:`UnknownJobError`, or :class:`JobStateError` where it is not dead.
    """
    for directory in directories(recorded(checked(id))):
        path = morgue.locate(directory, id, known_of(lambda: tracking.store().file(id)))
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                morgue.revive(path, _folder(path, directory))
                known_of(lambda: tracking.store().note(id, "retried"))
                presence.wake(directory)
                return
    status = find(id)
    if status.state is State.DEAD and status.engine != "spool":
        raise JobStateError(f"job {id} ran in a {status.engine}: its arguments are gone", job=id, state="dead")
    raise JobStateError(f"job {id} is {status.state}: only a dead one can be retried", job=id, state=str(status.state))


def _folder(path: str, directory: str) -> str:
    """Where in ``directory`` the file belongs: a priority's folder, or the directory itself."""
    data = spoolfile.peek(path, HEAD)
    try:
        priority = None if data is None else packet.head(packet.load(data)).priority
    except DecodeError:
        priority = None
    if priority is None:
        return directory
    folder = os.path.join(directory, str(priority))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def dead(task: str | None = None) -> list[str]:
    """The ids of the dead jobs, or of those of ``task``."""
    return [status.id for status in jobs(states=(State.DEAD,), task=task)]


def cancel(id: str, *, force: bool = False) -> State:
    """See that the job ``id`` does not run, or not on. Returns its state then.

    A waiting job is cancelled for good. A running one is asked to stop, and goes on until it looks; with ``force`` its
    process is killed and the job is cancelled. Raises :class:`UnknownJobError`, :class:`JobStateError` where the job is
    over already or its process may not be killed, :class:`StoreUnavailableError` where that cannot be recorded.
    """
    deadline = time.monotonic() + CLAIM_TIME
    while True:
        status = find(id)
        if status.state in FINISHED:
            raise JobStateError(f"job {id} is {status.state} already", job=id, state=str(status.state))
        if status.state is not State.RUNNING:
            if _cancel_in_process(status) if status.engine != "spool" else _cancel_waiting(status):
                return State.CANCELLED
        elif not force:
            return _ask_to_stop(status)
        elif status.engine != "spool" or status.pid == os.getpid():
            raise JobStateError(f"the process of job {id} does more than this job", job=id, state="running")
        elif tracking.store().ask_to_stop(id, kill=_kill):
            deadline = time.monotonic() + CLAIM_TIME
        if time.monotonic() > deadline:
            raise JobStateError(f"job {id}: its file is held by another process", job=id, state=str(status.state))
        time.sleep(0.01)


def _cancel_waiting(status: Status) -> bool:
    with _claimed(status) as path:
        if path is None or not tracking.store().cancel(status, "cancelled before it ran"):
            return False
        spoolfile.finish(path)
    recorder.forget(tracking.store().folder, status.id)
    waiting.announce(tracking.store().folder, status.id)
    return True


def _cancel_in_process(status: Status) -> bool:
    """The same for a job without a file: its process asks before it begins."""
    store = tracking.store()
    if not store.cancel(status, "cancelled before it ran"):
        return False
    waiting.announce(store.folder, status.id)
    return True


def _ask_to_stop(status: Status) -> State:
    store = tracking.store()
    if store.ask_to_stop(status.id):
        recorder.ask_to_stop(store.folder, status.id)
    after = find(status.id).state
    if after is not State.RUNNING:
        recorder.forget(store.folder, status.id)  # it was over before it could be asked
    return after


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        known = process.identity(pid)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + CLAIM_TIME
        while process.is_alive(pid, known) and time.monotonic() < deadline:
            time.sleep(0.002)


def run_now(id: str) -> None:
    """Make a job that waits for its time due. Raises :class:`UnknownJobError`, or :class:`JobStateError`."""
    deadline = time.monotonic() + CLAIM_TIME
    while True:
        status = find(id)
        if status.state not in (State.QUEUED, State.RETRYING):
            raise JobStateError(f"job {id} is {status.state}, it does not wait", job=id, state=str(status.state))
        if status.engine != "spool":
            raise JobStateError(f"job {id} waits in its process, for its own time", job=id, state=str(status.state))
        with _claimed(status) as path:
            if path is not None:
                new = spoolfile.reschedule(path, clock.now())
                known_of(lambda: tracking.store().note(id, "run now"))
                break
        if time.monotonic() > deadline:
            raise JobStateError(f"job {id}: its file is held by another process", job=id, state=str(status.state))
        time.sleep(0.01)
    for directory in directories(status):
        if new.startswith(directory + os.sep):
            presence.wake(directory)


@contextlib.contextmanager
def _claimed(status: Status) -> Iterator[str | None]:
    """The path of the job's file, locked; ``None`` where it cannot be had now."""
    if spoolfile.held == status.id:
        yield None
        return
    known = known_of(lambda: tracking.store().file(status.id))
    for directory in directories(status):
        if path := spoolfile.locate(directory, status.id, known):
            with spoolfile.claim(path) as fd:
                yield path if fd is not None else None
            return
    yield None


def purge(states: Iterable[State] = (State.DONE, State.CANCELLED, State.LOST), before: float | None = None) -> int:
    """Forget the jobs that ended in ``states`` before ``before`` (unix time; ``None``: now); returns how many."""
    before, gone, store = clock.now() if before is None else before, 0, tracking.store()
    wanted = set(states)
    if State.DEAD in wanted:
        for directory in tracking.directories():
            while forgotten := pruning.forget_dead(store, directory, before, 1000):
                gone += forgotten
    while forgotten := len(store.prune(wanted - {State.DEAD}, before, 1000)):
        gone += forgotten
    return gone
