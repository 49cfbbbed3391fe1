"""The spool: a job is one file in a spool directory. Below, how it gets there and what is done when it comes back."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sys
import time
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache
from typing import NoReturn

from spoolkit import application, registry, settings
from spoolkit.attempt import job_log, process_state, runner
from spoolkit.attempt.runner import Ended
from spoolkit.encoding import packet
from spoolkit.errors import (
    DecodeError,
    QueueOptionError,
    SignatureError,
    SpoolkitError,
    SpoolUnavailableError,
    StoreUnavailableError,
    UnknownTaskError,
)
from spoolkit.job import SPOOL_RETRY, AnyJob, Cancelled, Dead, Done, Failure, JobSpec, Outcome, RetryAt
from spoolkit.lifecycle import shutdown, spooler_signals
from spoolkit.registry import Declared
from spoolkit.spooldir import dead as morgue
from spoolkit.spooldir import gate, spoolers, spoolfile
from spoolkit.spooling import other_libraries, startup
from spoolkit.store import Store, locations, retention
from spoolkit.system import clock, files, log, published, sandbox, task_signals
from spoolkit.uwsgi import bridge, instance, served

UNKNOWN_PAUSES = 1.0, 15.0
"""Seconds, at least and at most, between two looks at a job that this version of the code cannot run."""

STAND_BY = 0.2
"""Seconds between two looks of a spooler that must not start a job."""

LOAD_PAUSE = 5.0
"""Seconds before a spooler tries again to load an application that it could not load."""

_next_load = 0.0
"""When this spooler may try to load the application, on the monotonic clock; infinite once it has."""

_presence: spoolers.Presence | None = None
_working_directory: str | None = None


class SpoolEngine:
    """Jobs that survive the process, a reload and a reboot."""

    name = "spool"

    def submit(self, job: AnyJob, declared: Declared) -> AnyJob:
        """Write ``job`` into its spool directory and wake a spooler.

        Raises :class:`ArgumentError` for what cannot cross, :class:`SpoolUnavailableError` where the directory is full,
        read-only or gone, :class:`DuplicateTaskError` where the task was replaced since. Nothing was written then.
        """
        registry.check_not_replaced(declared)
        config = application.settings(declared.home)
        # What is larger than any spooler reads would be accepted, and set aside instead of run.
        limit = min(config.max_body, spoolfile.MAX_SIZE - 4 - packet.LIMIT)
        content = packet.dump(packet.pack(job, max_body=limit, names=declared.positional))
        directory = _directory(job, config)
        try:
            if directory not in bridge.directories():
                _prepare(directory, config)
            folder = directory if job.priority is None else _priority_folder(directory, job.priority)
            spoolfile.write(folder, job.id, content, run_at=job.run_at, fsync=config.fsync)
        except OSError as error:
            raise SpoolUnavailableError(
                f"the spool directory {directory} takes no job ({error.strerror or error}), nothing was accepted: "
                "see that it is there, writable and not full",
                directory=directory,
                errno=error.errno,
            ) from error
        log.debug("job %s of %s is accepted in %s", job.id, job.task, directory)
        if job.run_at is None or job.run_at <= clock.now():
            spoolers.wake(directory)
        return job


def _directory(job: JobSpec, config: settings.Settings) -> str:
    served = bridge.directories()
    if job.queue is None:
        return served[0] if served else config.spool
    if served and job.queue not in served:
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which this uWSGI does not serve; it serves {', '.join(served)}",
            argument="spooler",
        )
    if not served and job.queue not in (known := locations.directories(config)) and not _is_queue(job.queue):
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which is no spool directory: nobody would run the job. Known are "
            f"{', '.join(known)}; another one is known once `flask spool run` or uWSGI has served it",
            argument="spooler",
        )
    return job.queue


def _is_queue(path: str) -> bool:
    try:
        return sandbox.is_private(path) or spoolfile.is_spool_directory(path)
    except OSError:
        return False


def _priority_folder(directory: str, priority: int) -> str:
    if bridge.has_priorities() is False:
        raise QueueOptionError(
            f"priority is {priority}, but this uWSGI does not look into priority folders and would never run the job: "
            "set spooler-ordered = true in uwsgi.ini",
            argument="priority",
        )
    folder = os.path.join(directory, str(priority))
    files.make_folder(folder)
    return folder


@lru_cache(maxsize=16)
def may_make(directory: str) -> bool:
    """Whether the first job may make the spool directory: it was not there when this process first asked.

    One that goes away later must not come back as an empty one that nobody serves.
    """
    return not os.path.lexists(directory)


def _prepare(directory: str, config: settings.Settings) -> None:
    """See that a job of this process can be run by those who serve the directory. Raises ``OSError``."""
    if directory == config.spool and may_make(directory):
        files.make_spool_directory(directory)
    files.check_user(directory)


def install() -> None:
    """Own ``uwsgi.spooler`` from here on, and have a stop of uWSGI wait for the jobs; outside uWSGI, nothing."""
    global _working_directory
    if _working_directory is None:
        _working_directory = os.getcwd()
        shutdown.install()
    bridge.install(on_spool, start)


def start(directory: str) -> None:
    """This process is a spooler of ``directory`` from now on: put the directory in order and be known in it."""
    global _presence
    if bridge.is_spooler():
        spooler_signals.set_idle()
        task_signals.ignore_harmless()
    try:
        startup.close_to_others(directory)
        spoolfile.sweep(directory)
        morgue.sweep(directory)
        files.sweep(os.path.join(directory, spoolers.FOLDER))
        # uWSGI stands in the directory once it scans. Where a job of another library is the first to import spoolkit,
        # the directory must not be vetted: that would open the job's own file and drop its lock.
        if os.path.realpath(os.curdir) != os.path.realpath(directory):
            startup.vet(directory)
        retention.sweep(locations.store(), directory)
        _presence = spoolers.Presence(directory)
        if bridge.is_uwsgi():
            options = {**bridge.options(), **served.options()}
            instance.publish(directory, options, bridge.master_pid(), bridge.version(), bridge.directories())
        if not sandbox.is_test_run():
            published.publish(_code_folders(), locations.directory(), settings.SPOOL_FOLDER)
    except Exception:
        # Jobs are run all the same.
        log.exception("the spool directory %s could not be put in order", directory)


def _code_folders() -> set[str]:
    """Where the tasks come from, under each name by which another process may know it: as a release, and by a link."""
    app = application.current()
    found = registry.homes() | (set() if app is None else {application.folder(app)})
    real = {os.path.realpath(folder) for folder in found}
    links = {os.path.abspath(path) for path in map(os.fsdecode, bridge.search_paths())}
    return found | real | {path for path in links if os.path.realpath(path) in real}


def leave() -> None:
    """This process is a spooler no more."""
    global _presence
    if _presence is not None:
        _presence.leave()
        _presence = None


def on_spool(env: bridge.Env) -> int:
    """The one entry from uWSGI: one spool file, locked by its C code. Never raises; returns what uWSGI shall do.

    The answer is always "leave the file alone": whatever is finished has left its name by then, so that a kill
    between here and uWSGI's own unlink cannot run a job again.
    """
    answer: int | None = int(SPOOL_RETRY)
    path = ""
    spooler_signals.job_starts()
    try:
        root = bridge.spooler_directory()
        path = _path(env, root)
        answer = serve(env, path, root)
    except BaseException as error:
        name = os.fsdecode(env.get("spooler_task_name", b"?"))
        # A raise would be a retry at every scan; the file stays and is tried again no sooner than that.
        log.complain("the spool file %s was not dealt with, and is tried again", name, error=error)
        replace_if_used_up(error)
    finally:
        spooler_signals.job_ended(leave)
    if answer is None:
        _stand_by(path, root)
    elif other_libraries.is_in_use() and not os.path.lexists(path):
        # ``uwsgi.spool`` signals no spooler that is busy, so that what was enqueued meanwhile would wait for the next
        # scan. Only after a job that was settled: a file that stays would be run again at once, for ever.
        bridge.rescan()
    return int(SPOOL_RETRY) if answer is None else answer


def _stand_by(path: str, root: str) -> None:
    """Wait until jobs of ``root`` may start again; at a stop of uWSGI, for the end."""
    # Opened and closed, the file is free of uWSGI's lock: a job that waits can be cancelled meanwhile.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    log.warning("pid %d starts no job of %s: it is paused, or uWSGI stops", os.getpid(), root)
    master_pid = os.getppid()
    while gate.is_closed(root):
        if os.getppid() != master_pid:
            os._exit(0)  # killed: nobody else would end this process
        time.sleep(STAND_BY)


def serve(env: bridge.Env, path: str, root: str) -> int | None:
    """Run the job of the locked file ``path`` of the spool directory ``root``, settle it, return uWSGI's integer.

    ``None``: no job may start now.
    """
    if not spoolfile.is_due(path):
        return int(SPOOL_RETRY)
    if _presence is not None:
        _presence.busy()
    try:
        # Only now: who closes the gate, and then sees nobody busy, may rely on it.
        if gate.is_closed(root):
            return None
        if bridge.is_spooler() and bridge.is_outdated():
            # A reload asks by a signal, which a task may have ignored, blocked or taken for its own.
            spooler_signals.request_exit()
            return int(SPOOL_RETRY)
        if not _has_application():
            return int(SPOOL_RETRY)
        with task_signals.job(owns_process=True):
            if packet.MARKER in env:
                try:
                    _serve_own(env, path, root)
                finally:
                    spoolfile.held = None
                return int(SPOOL_RETRY)
            answer, spoiled = _serve_foreign(env, path, root)
        if spoiled:
            _replace()
        return answer
    finally:
        if _presence is not None:
            _presence.idle()


def _has_application() -> bool:
    """Whether the application is loaded in this spooler. If nothing has done that so far, it is done now.

    With ``lazy-apps`` a spooler has what ``spooler-import`` names, which need not be what makes the application.
    """
    global _next_load
    if application.is_made() or not bridge.is_spooler() or not bridge.is_lazy() or math.isinf(_next_load):
        return True
    if time.monotonic() < _next_load:
        return False
    here = os.getcwd()
    try:
        os.chdir(_working_directory or os.curdir)
        for target in served.here():
            served.load(target)
    except (Exception, SystemExit) as error:  # of the application's own code, anything
        if not _next_load:
            text = "the application cannot be loaded in this spooler, its jobs wait (tried again every %g s)"
            log.error(text, LOAD_PAUSE, error=error)
        _next_load = time.monotonic() + LOAD_PAUSE
        return False
    finally:
        os.chdir(here)
    _next_load = math.inf
    return True


def replace_if_used_up(error: BaseException) -> None:
    """End this process if ``error`` says that it has no descriptor left: alive, it would run no job for good."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        _replace()


def _replace() -> NoReturn:
    """End this process, in which no other job can run: whoever keeps the spoolers starts a fresh one."""
    leave()
    if log.trusts_handlers():
        with contextlib.suppress(BaseException):
            logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    os._exit(1)


def _serve_foreign(env: bridge.Env, path: str, root: str) -> tuple[int, bool]:
    """Run another library's job; uWSGI's integer, and whether this process can run no other job."""
    before = process_state.State()
    try:
        outcome = _foreign(env, path)
    finally:
        lost = before.restore()
    if _presence is not None and _presence.is_lost:
        lost.append(process_state.CLOSED)
    if process_state.CLOSED in lost or process_state.STANDARD_ERROR in lost:
        log.distrust_handlers(standard_error=process_state.STANDARD_ERROR not in lost)
    if lost:
        job_log.replaced(other_libraries.task_name(env), lost)
    if isinstance(outcome, int):
        return outcome, bool(lost)
    settle(path, root, Ended(outcome), task=other_libraries.task_name(env))
    return int(SPOOL_RETRY), bool(lost)


def _serve_own(env: bridge.Env, path: str, root: str) -> None:
    config = application.settings()
    store = locations.store(config)
    place = _Here(path)
    fields = {key: value for key, value in env.items() if isinstance(key, bytes)}
    content = packet.Packet(fields, env.get("body", b""))
    try:
        job = packet.unpack(content)
    except DecodeError as error:
        settle(path, root, _dead(error), task=other_libraries.task_name(env))
        return
    spoolfile.held = job.id
    with log.about(job.id, job.task):
        _serve_job(job, content, place, root, store, config)


def _serve_job(
    job: JobSpec, content: packet.Packet, place: _Here, root: str, store: Store, config: settings.Settings
) -> None:
    ended: Ended | None
    try:
        declared = registry.find(job.task)
        # It may come from another version of the code, as the task's name may.
        declared.check(job.args, job.kwargs)
        job = replace(job, task=declared.name)
    except (UnknownTaskError, SignatureError) as error:
        ended = _not_for_this_version(job, error, place, store, config)
    else:
        try:
            # uWSGI left us in the spool directory, an earlier task perhaps elsewhere.
            os.chdir(_working_directory or os.curdir)
        except OSError as error:
            log.error("job %s of %s did not start: %s", job.id, job.task, error)
            ended = Ended(RetryAt(clock.now() + config.retry_delay, Failure(str(error), type(error).__name__)))
        else:
            # In a copy: a context variable that a task sets is not for the next job of this process.
            arguments = packet.arguments(content)
            ended = copy_context().run(runner.attempt, job, declared, place.seen(), store, config, arguments)
    if ended is not None:
        settle(place.path, root, ended, task=job.task)
        if ended.spoiled or store.is_lost:
            _replace()
    retention.a_little(store, root, config)


def _not_for_this_version(
    job: JobSpec, error: SpoolkitError, place: _Here, store: Store, config: settings.Settings
) -> Ended:
    """Leave the job for a newer version of the code for a while, with no attempt counted; then it is dead."""
    now = clock.now()
    waited = now - _first_due(job, store)
    if (left := config.unknown_grace - waited) > 0:
        text = "job %s is left for another version of the code, for %.0f s more (SPOOLKIT_UNKNOWN_GRACE): %s"
        log.complain(text, job.id, left, error)
        shortest, longest = UNKNOWN_PAUSES
        pause = min(max(waited / 10, shortest), longest, left)
        return Ended(RetryAt(now + pause, Failure(str(error), type(error).__name__)))
    dead = _dead(error)
    return Ended(dead.outcome, lambda: runner.refuse(job, dead.outcome, place.seen(), store, config))


def _first_due(job: JobSpec, store: Store) -> float:
    """When the job could first have met this version: its enqueueing, due time, last retry, or retry by hand."""
    times = [job.enqueued_at, job.run_at]
    with contextlib.suppress(StoreUnavailableError):
        if (status := store.status(job.id)) is not None:
            times += [status.run_at, *(event.time for event in store.history(job.id)[1] if event.kind == "retried")]
    return max(time for time in times if time is not None)


class _Here:
    """The file of the job that is dealt with, which may get another name before it runs."""

    def __init__(self, path: str) -> None:
        self.path = path

    def seen(self) -> runner.Place:
        """What the runner may know of it."""
        file, counted = os.path.basename(self.path), spoolfile.attempts_in_filename(self.path)
        still = lambda: os.path.lexists(self.path)  # noqa: E731
        return runner.Place(file, still, self._count, counted, owned=True, lies=_lies)

    def _count(self) -> int:
        self.path, attempts = spoolfile.count_attempt(self.path)
        return attempts


def _lies(name: str) -> bool:
    """Whether a spool file called ``name`` lies in any folder in which it may run."""
    for directory in locations.directories():
        with contextlib.suppress(OSError):
            folders = [directory, *spoolfile.priority_folders(directory)]
            if any(os.path.lexists(os.path.join(folder, name)) for folder in folders):
                return True
    return False


def settle(path: str, root: str, ended: Ended, *, task: str | None = None) -> None:
    """Make the outcome true on the disk and in the record. By path alone: to open the file would drop uWSGI's lock.

    A kill may come between the two. A dead job's file goes first: where it is not among the dead, it is to be run.
    All others are recorded first: the record tells the next claim what is left to do.
    """
    match ended.outcome:
        case Dead(failure):
            with contextlib.suppress(FileNotFoundError):
                kept = morgue.quarantine(path, root, reason=str(failure), task=task, traceback=failure.traceback)
                if not ended.logged:
                    text = "the job of the spool file %s is dead: %s; `flask spool retry` runs it again"
                    log.error(text, kept, failure, details=failure.traceback or "")
            ended.record()
        case RetryAt(time):
            ended.record()
            with contextlib.suppress(FileNotFoundError):  # another process, with the lock that a task dropped
                spoolfile.reschedule(path, time)
        case Done() | Cancelled():
            ended.record()
            spoolfile.finish(path)


def _dead(error: SpoolkitError) -> Ended:
    return Ended(Dead(Failure(str(error), type(error).__name__)))


def _foreign(env: bridge.Env, path: str) -> Outcome | int:
    config = application.settings()
    try:
        return other_libraries.run(env, retry_at=clock.now() + config.retry_delay)
    except DecodeError as error:
        return Dead(Failure(str(error)))
    except UnknownTaskError as error:
        # Its file alone tells since when it is due, and so must keep its time.
        left = os.lstat(path).st_mtime + config.unknown_grace - clock.now()
        if left <= 0:
            return Dead(Failure(str(error)))
        text = "%s is left for another version of the code, for %.0f s more (SPOOLKIT_UNKNOWN_GRACE): %s"
        log.complain(text, path, left, error)
        return int(SPOOL_RETRY)


def _path(env: bridge.Env, root: str) -> str:
    # uWSGI stands in the directory of the file, a priority's folder included, unless spooler-chdir says otherwise.
    name = os.fsdecode(env["spooler_task_name"])
    here = os.path.abspath(name)
    folder = os.path.dirname(here)
    if root in (folder, os.path.dirname(folder)) and os.path.lexists(here):
        return here
    return _opened(name) or os.path.join(root, name)


def _opened(name: str) -> str | None:
    """The path of the file of that name that uWSGI's C code has open here."""
    with contextlib.suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                path = os.readlink(f"/proc/self/fd/{fd}")
                if os.path.basename(path) == name:
                    return path
    return None
