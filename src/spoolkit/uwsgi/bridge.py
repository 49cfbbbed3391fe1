"""What does spoolkit ask of uWSGI, and where does uWSGI call spoolkit? The only module that imports ``uwsgi``."""

from __future__ import annotations

import os
import signal
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from spoolkit.system import process
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import master, timers

try:
    import uwsgi
except ImportError:
    uwsgi = None
else:
    if not hasattr(uwsgi, "masterpid"):  # a folder or a stub with this name
        uwsgi = None

Env = Mapping[Any, bytes]
"""A spool file as uWSGI passes it: the keys of the packet are bytes, ``spooler_task_name`` and ``body`` are text."""

Handler = Callable[[Env], int]
"""Runs the job of a spool file; returns uWSGI's ``SPOOL_*`` integer."""

LIBRARIES = ("uwsgidecorators", "uwsgi_tasks")
"""Modules that set ``uwsgi.spooler`` to a handler of their own when they are imported."""

_spooler_started = PerProcess[bool]()

_after_fork: list[Callable[[], None]] = []
"""Called in each process that uWSGI forks."""


def is_uwsgi() -> bool:
    """Whether this process belongs to uWSGI."""
    return uwsgi is not None


def is_spooler() -> bool:
    """Whether this process is a spooler of uWSGI."""
    return uwsgi is not None and bool(uwsgi.i_am_the_spooler())


def spooler_directory() -> str:
    """The spool directory that this spooler process serves."""
    # 2.0.31 has no function for it. Both lists hold one entry per process, in the same order; the pid is set by now.
    by_pid = dict(zip(uwsgi.spooler_pids(), uwsgi.spoolers, strict=True))
    return os.fsdecode(by_pid[os.getpid()])


def directories() -> list[str]:
    """The spool directories that this uWSGI serves, in the order of its configuration; empty outside uWSGI."""
    if uwsgi is None:
        return []
    return list(_distinct(tuple(getattr(uwsgi, "spoolers", ()))))


@lru_cache(maxsize=4)
def _distinct(spoolers: tuple[bytes, ...]) -> tuple[str, ...]:
    # uWSGI lists a directory once per spooler process. Asked for several times per job, and never another answer.
    return tuple(dict.fromkeys(map(os.fsdecode, spoolers)))


def has_priorities() -> bool | None:
    """Whether this uWSGI scans the priority folders; ``None`` outside uWSGI, where it is unknown."""
    return None if uwsgi is None else "spooler-ordered" in uwsgi.opt


def has_own_spoolers() -> bool:
    """Whether the spoolers of :func:`directories` are processes of this uWSGI, and so of the same user."""
    return uwsgi is not None and "spooler-external" not in uwsgi.opt


def rescan() -> None:
    """Have this spooler scan its directory once more after the scan that it is in."""
    # The handler belongs to uWSGI's C code, and Python does not know it. If a task has removed it, the signal would
    # kill this process.
    if master.has_handler(os.getpid(), signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)


def set_harakiri(seconds: int) -> None:
    """Have the master kill this spooler ``seconds`` seconds from now; 0: never."""
    uwsgi.set_user_harakiri(seconds)


def is_worker() -> bool:
    """Whether this process is an HTTP process of uWSGI, which uWSGI calls a worker."""
    return uwsgi is not None and uwsgi.worker_id() > 0


def is_first_worker() -> bool:
    """Whether this is the first of uWSGI's HTTP processes, or its successor."""
    return uwsgi is not None and uwsgi.worker_id() == 1


def is_last_worker() -> bool:
    """Whether this is the last one among the HTTP processes that uWSGI runs now."""
    return uwsgi is not None and uwsgi.worker_id() == max(worker["id"] for worker in uwsgi.workers() if worker["pid"])


def first_worker_pid() -> int:
    """The pid of the first of uWSGI's HTTP processes."""
    return int(uwsgi.workers()[0]["pid"])


def is_outdated() -> bool:
    """Whether this spooler started before the current first HTTP process, and therefore may run older code.

    ``False`` after the start of uWSGI, where spoolers start first, and while the first HTTP process is loading its
    application.
    """
    if is_first_worker_unchanged():
        return False
    first = next(iter(uwsgi.workers()), None)
    if first is None or not first["apps"]:
        return False
    if first["respawn_count"] and _is_older(os.getpid(), int(first["pid"])):
        return True
    _seen.first_worker = int(first["pid"])
    return False


def _is_older(pid: int, other: int) -> bool:
    own_start, other_start = process.started(pid), process.started(other)
    return own_start is not None and other_start is not None and own_start < other_start


def is_first_worker_unchanged() -> bool:
    """Whether the first HTTP process, as :func:`is_outdated` has seen it serve in this spooler, still lives.

    As long as it does, uWSGI has not reloaded; and if uWSGI stops, this process says so itself. To ask the kernel that
    is a twentieth of the price of uWSGI's own table, which becomes a dict for each HTTP process.
    """
    if not _seen.first_worker:
        return False
    try:
        os.kill(_seen.first_worker, 0)  # sends nothing
    except OSError:
        _seen.first_worker = 0
    return _seen.first_worker != 0


class _Seen:
    """What this process has seen of uWSGI's table of HTTP processes."""

    #: The pid of the first one, once it serves and is not of a newer version; 0 before, and once it is gone.
    first_worker = 0


_seen = _Seen()


def other_workers() -> list[tuple[int, bool]]:
    """The other HTTP processes of uWSGI: the pid of each, and whether it has loaded its application."""
    own = uwsgi.worker_id()
    return [
        (int(worker["pid"]), bool(worker["apps"]))
        for worker in uwsgi.workers()
        if worker["id"] != own and worker["pid"]
    ]


def is_ending_idle_workers() -> bool:
    """Whether uWSGI is ending HTTP processes that had no request for ``idle`` seconds."""
    # The master marks each of them before it ends it. Meanwhile it sleeps, as it does when it stops.
    return "idle" in uwsgi.opt and any(worker["status"] == b"cheap" for worker in uwsgi.workers())


def respawns() -> int:
    """How many predecessors this HTTP process has had since uWSGI started, or reloaded as a whole."""
    return int(uwsgi.workers()[uwsgi.worker_id() - 1]["respawn_count"])


def respawns_of_all() -> int:
    """How many HTTP processes uWSGI has started as successors of others so far."""
    return sum(int(worker["respawn_count"]) for worker in uwsgi.workers())


def has_any_application() -> bool:
    """Whether any HTTP process of this uWSGI has loaded its application."""
    return any(worker["apps"] for worker in uwsgi.workers())


def has_application() -> bool:
    """Whether this HTTP process has loaded its application."""
    return bool(uwsgi.workers()[uwsgi.worker_id() - 1]["apps"])


def spooler_pids() -> list[int]:
    """The pids of the spoolers of this uWSGI; not those of another uWSGI, which ``spooler-external`` may name."""
    # A uWSGI without spoolers lacks this function. For an external spooler it returns 0: a signal to pid 0 would reach
    # every process of this process group.
    return [int(pid) for pid in getattr(uwsgi, "spooler_pids", list)() if pid > 0]


def options() -> Mapping[str, object]:
    """The options of this uWSGI by name, with the values that it reports; empty outside uWSGI."""
    return {} if uwsgi is None else {os.fsdecode(name): value for name, value in uwsgi.opt.items()}


def search_paths() -> list[bytes]:
    """The folders in which this uWSGI looks for the application, as its options name them: links are not resolved."""
    found: list[bytes] = []
    for name in ("chdir", "chdir2", "pythonpath", "python-path", "pp"):
        value = () if uwsgi is None else uwsgi.opt.get(name, ())
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [path for path in values if isinstance(path, bytes)]
    return found


def is_master() -> bool:
    """Whether this process is uWSGI's master, which forks all other processes."""
    return uwsgi is not None and uwsgi.masterpid() == os.getpid()


def is_lazy() -> bool:
    """Whether each process of this uWSGI loads the application itself: ``lazy`` or ``lazy-apps`` is set."""
    values = (options().get(name) for name in ("lazy", "lazy-apps"))
    return any(value not in (None, b"false", b"off", b"no", b"0") for value in values)


def has_threads() -> bool:
    """Whether Python's threads run here at all times; without ``enable-threads`` only while uWSGI serves a request."""
    return uwsgi is None or bool(uwsgi.has_threads)


def at_start(start: Callable[[], None]) -> None:
    """Call ``start()`` once in each HTTP process: now if this is one, otherwise after its fork. Only under uWSGI."""
    _protect()
    is_done = PerProcess[bool]()

    def start_once() -> None:
        if is_worker() and not is_done.peek():
            is_done.set(True)
            start()

    _after_fork.append(start_once)
    start_once()  # with lazy-apps the application is loaded after the fork


def at_end(end: Callable[[], None]) -> None:
    """Call ``end()`` when a process of uWSGI exits, before Python's own shutdown. Only under uWSGI.

    uWSGI calls it in HTTP processes, in spoolers, in the master, and in processes that a request has forked. It calls
    nothing in a process that is killed, or stopped brutally in the middle of a request.
    """
    _protect()
    uwsgi.atexit = end


def master_pid() -> int:
    """The pid of uWSGI's master."""
    return int(uwsgi.masterpid())


def version() -> str:
    """The version of uWSGI, such as ``2.0.31``."""
    return os.fsdecode(uwsgi.version)


def install(handler: Handler, started: Callable[[str], None]) -> None:
    """Set ``uwsgi.spooler`` for good, so that later assignments do not replace it. Does nothing outside uWSGI.

    May be called again.

    Args:
        handler: Called by uWSGI with each spool file; returns uWSGI's ``SPOOL_*`` integer.
        started: Called once in each spooler process, with the spool directory that it serves.
    """
    if uwsgi is None:
        return

    def start() -> None:
        if is_spooler() and not _spooler_started.peek():
            _spooler_started.set(True)
            uwsgi.spooler = handler
            # This process inherits the deadline of a spooler that died: it would kill an innocent job.
            set_harakiri(0)
            started(spooler_directory())

    _protect()
    if vars(uwsgi).get("spooler") is not handler:
        earlier = vars(uwsgi).get("spooler")
        vars(uwsgi)["spooler"] = handler
        _ProtectedModule.handler = handler
        if earlier is not None:
            uwsgi.spooler = earlier
        _after_fork.append(start)
    # With lazy-apps a spooler imports the tasks after its fork: too late for the hook.
    start()


def application_handler() -> Handler | None:
    """The handler that the application itself has assigned to ``uwsgi.spooler``, for files that no library knows."""
    return _ProtectedModule.application_handler


def _protect() -> None:
    if not isinstance(uwsgi, _ProtectedModule):
        uwsgi.__class__ = _ProtectedModule
        spool_dirs = directories()
        if not {"spooler-frequency", "spooler-freq"} & set(options()):
            # By default a retry or a delayed job would be up to 30 s late. Set now, so that the application may set
            # another value later.
            getattr(uwsgi, "set_spooler_frequency", int)(1)
        _after_fork.append(timers.replace_functions(uwsgi, spool_dirs[0] if spool_dirs else None).begin)
        uwsgi.post_fork_hook = _forked


def _forked() -> None:
    for start in list(_after_fork):
        start()


class _ProtectedModule(types.ModuleType):
    """The module ``uwsgi``, in which no assignment takes away what spoolkit has set.

    An assignment to ``post_fork_hook`` or ``atexit`` adds a function to be called. An assignment to ``spooler`` has no
    effect in uWSGI: uwsgidecorators and uwsgi_tasks assign it when they are imported, and uWSGI knows only one handler,
    so that the last one would fail on the files of all others, or delete them.
    """

    #: spoolkit's handler; ``None`` before :func:`install`.
    handler: ClassVar[Handler | None] = None
    #: What the application itself has assigned to ``spooler``.
    application_handler: ClassVar[Handler | None] = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "spooler" and _ProtectedModule.handler not in (None, value):
            if getattr(value, "__module__", "").partition(".")[0] not in LIBRARIES:
                _ProtectedModule.application_handler = value
            return
        if name in ("post_fork_hook", "atexit"):
            value = _chain(self.__dict__.get(name), value)
        super().__setattr__(name, value)


def _chain(first: Callable[[], object] | None, second: Callable[[], object]) -> Callable[[], object]:
    if first is None or first is second:
        return second

    def both() -> None:
        try:
            first()
        finally:
            second()

    return both


if uwsgi is not None:
    _protect()  # now: an application may register timers before its first task
