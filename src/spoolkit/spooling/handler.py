"""What does a spooler process do, from its start to its end? :func:`on_spool` is the entry from uWSGI."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from spoolkit import application, callbacks, registry, settings
from spoolkit.attempt.runner import AttemptResult
from spoolkit.coordination import batches, pauses
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError, NewerStoreError
from spoolkit.job import SPOOL_RETRY, Dead, Failure
from spoolkit.lifecycle import shutdown, spooler_signals, sweeping
from spoolkit.spooldir import gate, later, mover, priorities, running, spoolers, spoolfile
from spoolkit.spooling import other_libraries, spooler_hooks, startup, store_version
from spoolkit.spooling.execute import SpoolFileRef, execute, execute_foreign, settle_file
from spoolkit.store import locations, retention
from spoolkit.system import clock, log, process, published, sandbox, task_signals
from spoolkit.uwsgi import bridge, instance, served

STAND_BY = 0.2
"""Seconds after which a spooler that must not start a job asks again whether it may."""

LOAD_PAUSE = 5.0
"""Seconds before a spooler tries again to load an application that it could not load."""


@dataclass
class _ThisProcess:
    """What this process knows of itself as a spooler; a spooler that uWSGI forks takes it over from the master."""

    #: The spool directory that it serves, once it does.
    spool_dir: str = ""
    #: Where tasks run: the current directory when the first task was declared. uWSGI changes to the spool directory.
    working_directory: str | None = None
    #: What tells others that this process serves a spool directory, and whether it is busy.
    presence: spoolers.SpoolerFile | None = None
    #: When it may try to load the application, on the monotonic clock; infinite once it has.
    next_load: float = 0.0
    #: What finds more urgent jobs, where tasks are declared with a priority.
    lookahead: priorities.Lookahead | None = None


this_process = _ThisProcess()

_LEAVE = int(SPOOL_RETRY)
"""The answer that has uWSGI leave the file alone."""

_is_outdated = clock.Sampled(lambda: bridge.is_spooler() and bridge.is_outdated())
"""Whether another version of the code has been loaded."""


def install() -> None:
    """Make :func:`on_spool` the handler of this uWSGI's spool files, and have a stop of uWSGI wait for running jobs.

    Outside uWSGI nothing is installed.
    """
    sweeping.add(pauses.sweep)
    if this_process.working_directory is None:
        this_process.working_directory = os.getcwd()
        shutdown.install()
        sweeping.add(batches.sweep)
        if bridge.is_uwsgi():
            bridge.at_start(store_version.warn)
    bridge.install(on_spool, start)


def start(spool_dir: str) -> None:
    """Put the spool directory in order and announce this process in it as a spooler. Never raises."""
    this_process.spool_dir = spool_dir
    process.remember_pid()
    if bridge.is_spooler():
        spooler_signals.begin()
        task_signals.ignore_harmless()
    try:
        startup.make_private(spool_dir)
        # uWSGI enters the directory before its first scan. If this process is in it, a job of another library is
        # running, which is the first to import spoolkit: to look into all files would open that job's file and drop
        # its lock.
        if os.path.realpath(os.curdir) != os.path.realpath(spool_dir):
            startup.tidy(spool_dir)
        store_version.look()
        retention.delete_leftovers(locations.store(), spool_dir)
        this_process.presence = spoolers.SpoolerFile(spool_dir)
        if bridge.is_uwsgi():
            if not later.has_mover(spool_dir):
                later.call_spoolers(spool_dir)
            options = {**bridge.options(), **served.options()}
            instance.publish(spool_dir, options, bridge.master_pid(), bridge.version(), bridge.directories())
        if not sandbox.is_test_run():
            published.publish(_code_folders(), locations.spool_dir(), settings.SPOOL_FOLDER)
            sweeping.run(spool_dir)
    except Exception:
        # The jobs run anyway.
        text = "spooler %d could not check and tidy the spool directory %s at its start; it runs jobs anyway"
        log.exception(text, os.getpid(), spool_dir)


def _code_folders() -> set[str]:
    """The folders of the tasks' code under every path that another process may know: real paths, and links to them."""
    app = application.current()
    found = registry.code_folders() | (set() if app is None else {application.folder(app)})
    real = {os.path.realpath(folder) for folder in found}
    links = {os.path.abspath(path) for path in map(os.fsdecode, bridge.search_paths())}
    return found | real | {path for path in links if os.path.realpath(path) in real}


def end() -> None:
    """Do what is left to do before this process exits between two jobs."""
    if this_process.presence is not None:
        this_process.presence.busy("")  # a stop of uWSGI waits for the hooks as for a job
    spooler_hooks.stop(this_process.working_directory or os.curdir)
    leave()


def leave() -> None:
    """Remove what this process shows of itself as a spooler."""
    running.leave()
    if this_process.presence is not None:
        this_process.presence.leave()
        this_process.presence = None


def on_spool(env: bridge.Env) -> int:
    """Run the job of one spool file, which uWSGI's C code has locked. Never raises.

    Args:
        env: What the file holds: the packet's keys and values as bytes, and ``spooler_task_name`` and ``body``.

    Returns:
        What uWSGI does with the file: always ``SPOOL_RETRY``, which leaves it alone, unless the application's own
        handler says otherwise. A file that is finished is gone by then, so that a kill between here and uWSGI's own
        unlink cannot run its job again.
    """
    answer: int | None = _LEAVE
    path, spool_dir = "", this_process.spool_dir
    spooler_signals.job_starts()
    try:
        path = _path(env, spool_dir)
        is_in_order = not priorities.is_used() or later.MARKER in env
        answer = serve(env, path, spool_dir) if is_in_order else _serve_in_order(env, path, spool_dir)
    except BaseException as error:
        name = os.fsdecode(env.get("spooler_task_name", b"?"))
        # An exception would mean SPOOL_RETRY to uWSGI as well: the file stays, and is tried again at the next scan.
        log.complain("the spool file %s could not be processed and is tried again", name, error=error)
        replace_if_out_of_descriptors(error)
    finally:
        spooler_signals.job_ended(end)
    if answer is None:
        _stand_by(path, spool_dir)
    elif other_libraries.is_in_use() and not os.path.lexists(path):
        # ``uwsgi.spool`` signals no spooler that is busy, so that a job enqueued meanwhile would wait for the next
        # scan. Only after a job that was settled: a file that stays would be run again at once, for ever.
        bridge.rescan()
    return _LEAVE if answer is None else answer


def _serve_in_order(env: bridge.Env, path: str, spool_dir: str) -> int | None:
    """As :func:`serve`, but more urgent jobs than that of the locked file ``path`` run before it.

    uWSGI lists a directory once per scan, and would take all that it has found before a job that came later.
    """
    if this_process.lookahead is None:
        this_process.lookahead = priorities.Lookahead(spool_dir)
    is_locked = True
    while spoolfile.is_due(path) and not gate.is_closed(spool_dir):
        if (urgent := this_process.lookahead.first_before(path)) is None:
            break
        with spoolfile.claim_to_run(urgent) as fd:
            if fd is not None and (found := read_locked(fd, urgent, spool_dir)) is not None:
                # The other one is unlocked meanwhile: another spooler may run it.
                answer = serve(found, urgent, spool_dir, instead_of=path if is_locked else None)
                is_locked = False
                if answer is None:
                    return None
        if spooler_signals.is_exit_requested():
            return _LEAVE
    if is_locked:
        return serve(env, path, spool_dir)
    bridge.rescan()
    if packet.MARKER not in env:
        return _LEAVE  # uWSGI removes another library's file once this returns, and must have it locked until then
    with spoolfile.claim_to_run(path) as fd:
        return _LEAVE if fd is None else serve(env, path, spool_dir)


def read_locked(fd: int, path: str, spool_dir: str) -> bridge.Env | None:
    """Read a spool file that this process has locked, as uWSGI does.

    Args:
        fd: A descriptor of the file.
        path: The file.
        spool_dir: The spool directory.

    Returns:
        What the handler gets; ``None`` if the file is another library's, which only uWSGI can run, or is damaged. Then
        it is a dead letter by now.
    """
    try:
        if len(data := spoolfile.read(fd)) < 4:
            return None  # another library is writing it
        content = packet.load(data)
    except DecodeError as error:
        settle_file(SpoolFileRef(path, spool_dir), AttemptResult(Dead(Failure(str(error)))))
        return None
    if packet.MARKER not in content.fields and not other_libraries.is_adopted(content.fields):
        return None
    return {**content.fields, "spooler_task_name": os.fsencode(path.rpartition("/")[2]), "body": content.body}


def _unlock(path: str) -> None:
    """Drop uWSGI's lock on the file that it has given to the handler, and which is not run now."""
    with contextlib.suppress(OSError):  # to close any descriptor of a file drops the lock
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))


def _stand_by(path: str, spool_dir: str) -> None:
    """Wait until jobs of the spool directory may start again, or until this process is ended.

    A stop of uWSGI ends it, and so does a reload, by a signal: this process runs no job.
    """
    _unlock(path)  # so that the waiting job can be cancelled meanwhile
    if gate.is_closed(spool_dir):
        log.warning("pid %d starts no job of %s: the queue is paused, or uWSGI is stopping", os.getpid(), spool_dir)
    master_pid = os.getppid()
    while gate.is_closed(spool_dir) or store_version.is_newer():
        if os.getppid() != master_pid:
            os._exit(0)  # the master was killed: nothing else would end this process
        time.sleep(STAND_BY)


def serve(env: bridge.Env, path: str, spool_dir: str, *, instead_of: str | None = None) -> int | None:
    """Run the job of the locked file ``path``, if one may start now, and settle the file.

    Args:
        env: What the file holds, as uWSGI gives it to the handler.
        path: The file.
        spool_dir: The spool directory.
        instead_of: The file that uWSGI has locked and given to the handler, if that is another one.

    Returns:
        The integer for uWSGI; ``None`` if no job may start now.
    """
    if later.MARKER in env:
        mover.answer(spool_dir)
        return _LEAVE
    if not spoolfile.is_due(path):
        return _LEAVE
    presence, name, left = this_process.presence, path.rpartition("/")[2], True
    if presence is not None:
        presence.busy(name)
    if instead_of is not None:
        _unlock(instead_of)
        spoolers.wake(spool_dir)  # another spooler may have found it locked, and sleep
    try:
        # Only now: a stop closes the gate first, and then relies on seeing every busy spooler.
        if gate.is_closed(spool_dir):
            return None
        if _is_outdated():
            # A reload asks by a signal, which a task may have ignored, blocked or taken for its own.
            spooler_signals.request_exit()
            return _LEAVE
        if store_version.is_newer():
            return None
        if not _has_application():
            return _LEAVE
        folder = this_process.working_directory or os.curdir
        if callbacks.this_process.has_any and not spooler_hooks.start(folder, spool_dir, end):
            return _LEAVE
        file = SpoolFileRef(path, spool_dir)
        with task_signals.job(owns_process=True):
            if packet.MARKER in env:
                content = packet.Packet(env, env.get("body", b""))
                answer = _LEAVE
                usable = execute(content, file, folder)
                left = False
            else:
                answer, usable = execute_foreign(env, file, presence)
        if not usable:
            _replace()
        return answer
    except NewerStoreError as error:
        store_version.found(error)
        return None
    finally:
        if presence is not None:
            presence.idle(left=name if left else None)


def _has_application() -> bool:
    """Whether the application is loaded in this spooler, where it is loaded now if nothing else has loaded it.

    With ``lazy-apps`` a spooler imports what ``spooler-import`` names, which need not make the application.
    """
    if application.is_made() or not bridge.is_spooler() or not bridge.is_lazy() or math.isinf(this_process.next_load):
        return True
    if time.monotonic() < this_process.next_load:
        return False
    here = os.getcwd()
    try:
        os.chdir(this_process.working_directory or os.curdir)
        for target in served.own_targets():
            served.load(target)
    except (Exception, SystemExit) as error:  # of the application's own code, anything
        if not this_process.next_load:
            text = "spooler %d cannot load the application: its jobs wait, and it tries again every %g s"
            log.error(text, os.getpid(), LOAD_PAUSE, error=error)
        this_process.next_load = time.monotonic() + LOAD_PAUSE
        return False
    finally:
        os.chdir(here)
    this_process.next_load = math.inf
    return True


def replace_if_out_of_descriptors(error: BaseException) -> None:
    """End this process if ``error`` says that it has no file descriptor left: it could never run another job."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        _replace()


def _replace() -> NoReturn:
    """End this process, which cannot run another job: uWSGI's master, or the supervisor, starts another one."""
    leave()
    if log.trusts_handlers():
        with contextlib.suppress(BaseException):
            logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    os._exit(1)


def _path(env: bridge.Env, spool_dir: str) -> str:
    # uWSGI is in the folder of the file, which may be that of a priority, unless spooler-chdir says otherwise.
    name, folder = os.fsdecode(env["spooler_task_name"]), os.getcwd()
    here, usual = f"{folder}/{name}", f"{spool_dir}/{name}"
    if (folder == spool_dir or os.path.dirname(folder) == spool_dir) and os.access(here, os.F_OK):
        return here
    return _opened(name) or usual


def _opened(name: str) -> str | None:
    """The path of the file with that name that uWSGI's C code has open in this process."""
    with contextlib.suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                path = os.readlink(f"/proc/self/fd/{fd}")
                if os.path.basename(path) == name:
                    return path
    return None
