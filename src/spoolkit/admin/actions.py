"""What people do to jobs, and the figures they look at. No HTTP, no click.

What would change something raises :class:`StoreUnavailableError` where that cannot be recorded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator

from spoolkit.admin.lookup import HEAD_SIZE, Listing, check_id, directories, find, from_store, jobs, recorded
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError, JobStateError
from spoolkit.job import FINAL, FINISHED, State, Status
from spoolkit.spooldir import dead as morgue
from spoolkit.spooldir import running, spoolers, spoolfile, waiting
from spoolkit.store import locations, retention
from spoolkit.system import clock, files, process

CLAIM_TIME = 2.0
"""Seconds to try for a file that a spooler may be looking at."""


def retry(id: str) -> None:
    """Have the dead job ``id`` run again, with a fresh count of attempts.

    Raises :class:`UnknownJobError`, or :class:`JobStateError` where it is not dead.
    """
    known = recorded(check_id(id))
    for directory in directories(known):
        with changing(directory):
            path = morgue.locate(directory, id, known.file if known else None)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    _revive(id, path, _folder(id, path, directory))
                    spoolers.wake(directory)
                    return
    status = find(id)
    if status.state is State.DEAD and not status.has_file:
        raise JobStateError(f"job {id} ran in a {status.engine}: its arguments are gone", job=id, state="dead")
    raise JobStateError(f"job {id} is {status.state}: only a dead one can be retried", job=id, state=str(status.state))


@contextlib.contextmanager
def changing(directory: str) -> Iterator[None]:
    """Only the owner of ``directory``, or root, changes what lies there. Raises :class:`SpoolUnavailableError`."""
    try:
        files.check_user(directory)
        yield
    except FileNotFoundError:
        pass  # no job has come yet
    except PermissionError as error:
        raise files.unavailable(directory, error) from error


def _revive(id: str, path: str, folder: str) -> None:
    from_store(lambda: locations.store().requeue(id, still_there=lambda: os.path.lexists(path)))
    morgue.revive(path, folder)


def _folder(id: str, path: str, directory: str) -> str:
    """Where in ``directory`` the file belongs: a priority's folder, or the directory itself."""
    with open(files.open_regular(path, linked=True), "rb") as file:
        data = file.read(HEAD_SIZE)
    try:
        content = packet.load(data)
    except DecodeError as error:
        # uWSGI's C code would delete it unrun, without a word.
        raise JobStateError(f"job {id} is damaged and cannot run: {error}", job=id, state="dead") from error
    priority = None
    with contextlib.suppress(DecodeError):  # another library's
        priority = packet.head(content).priority
    if priority is None:
        return directory
    folder = os.path.join(directory, str(priority))
    files.make_folder(folder)
    return folder


def dead(task: str | None = None) -> Listing:
    """The dead jobs, or those of ``task``; the newest 100,000 at most."""
    return jobs(states=(State.DEAD,), task=task, max_examined=100_000)


def cancel(id: str, *, force: bool = False) -> State:
    """See that the job ``id`` does not run, or not on. Returns its state then.

    A waiting job is cancelled for good. A running one is asked to stop, and goes on until it looks; with ``force`` its
    process is killed and the job is cancelled. Raises :class:`UnknownJobError`, :class:`JobStateError` where the job is
    over already or its process may not be killed, :class:`StoreUnavailableError` where that cannot be recorded.
    """
    deadline, store = time.monotonic() + CLAIM_TIME, locations.store()
    while True:
        status = find(id)
        if status.state in FINISHED:
            raise JobStateError(f"job {id} is {status.state} already", job=id, state=str(status.state))
        if status.state is not State.RUNNING:
            if _cancel_waiting(status) if status.has_file else _cancel_in_process(status):
                return State.CANCELLED
        elif not force:
            return _ask_to_stop(status)
        elif not status.has_file or status.pid == os.getpid():
            raise JobStateError(f"the process of job {id} does more than this job", job=id, state="running")
        elif store.cancel_running(id, kill=lambda pid: _kill(pid, id), left=lambda: running.look(store.folder, id)):
            with _claimed(status) as path:  # None: a spooler has it already, and removes it
                if path is not None:
                    spoolfile.finish(path)
            running.forget(store.folder, id)
            waiting.announce(store.folder, id)
            return State.CANCELLED
        if time.monotonic() > deadline:
            raise JobStateError(f"job {id}: its file is held by another process", job=id, state=str(status.state))
        time.sleep(0.01)


def _cancel_waiting(status: Status) -> bool:
    store = locations.store()
    with _claimed(status) as path:
        if path is None:
            return False
        progress, left = running.look(store.folder, status.id)
        reason, file = "cancelled while it did not run", os.path.basename(path)
        if not store.cancel(status, reason, file=file, log=left, progress=progress):
            return False
        spoolfile.finish(path)
    running.forget(store.folder, status.id)
    waiting.announce(store.folder, status.id)
    return True


def _cancel_in_process(status: Status) -> bool:
    """The same for a job without a file: its process asks before it begins."""
    store = locations.store()
    if not store.cancel(status, "cancelled before it ran", file=None):
        return False
    waiting.announce(store.folder, status.id)
    return True


def _ask_to_stop(status: Status) -> State:
    store = locations.store()
    if store.ask_to_stop(status.id):
        running.ask_to_stop(store.folder, status.id)
    after = find(status.id).state
    if after is not State.RUNNING:
        running.forget(store.folder, status.id)  # it was over before it could be asked
    return after


def _kill(pid: int, id: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        known = process.identity(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError as error:
            message = f"job {id} runs in process {pid}, which this user may not kill"
            raise JobStateError(message, job=id, state="running") from error
        deadline = time.monotonic() + CLAIM_TIME
        while process.is_alive(pid, known) and time.monotonic() < deadline:
            time.sleep(0.002)


def run_now(id: str) -> State:
    """Make a job that waits for its time due; returns its state.

    Raises :class:`UnknownJobError`, or :class:`JobStateError` where it does not wait.
    """
    deadline = time.monotonic() + CLAIM_TIME
    while True:
        status = find(id)
        if status.state not in (State.QUEUED, State.RETRYING):
            raise JobStateError(f"job {id} is {status.state}, it does not wait", job=id, state=str(status.state))
        if not status.has_file:
            raise JobStateError(f"job {id} waits in its process, for its own time", job=id, state=str(status.state))
        with _claimed(status) as path:
            if path is not None:
                new = spoolfile.reschedule(path, clock.now())
                from_store(lambda: locations.store().note(id, "run now"))
                break
        if time.monotonic() > deadline:
            raise JobStateError(f"job {id}: its file is held by another process", job=id, state=str(status.state))
        time.sleep(0.01)
    for directory in directories(status):
        if new.startswith(directory + os.sep):
            spoolers.wake(directory)
    return status.state


@contextlib.contextmanager
def _claimed(status: Status) -> Iterator[str | None]:
    """The path of the job's file, locked; ``None`` where it cannot be had now."""
    if spoolfile.held == status.id:
        yield None
        return
    for directory in directories(status):
        path = None
        with changing(directory):
            path = spoolfile.locate(directory, status.id, status.file)
        if path:
            with spoolfile.claim(path) as fd:
                yield path if fd is not None else None
            return
    yield None


def purge(states: Iterable[State] = FINAL, before: float | None = None) -> int:
    """Forget the jobs that ended in ``states`` before ``before`` (unix time; ``None``: now); returns how many."""
    locations.check_readable()
    before, gone, store = clock.now() if before is None else before, 0, locations.store()
    wanted = set(states)
    if State.DEAD in wanted:
        for directory in locations.directories():
            while forgotten := retention.delete_dead(store, directory, before, 1000):
                gone += forgotten
    while forgotten := retention.delete(store, locations.directories(), wanted - {State.DEAD}, before, 1000):
        gone += forgotten
    return gone
