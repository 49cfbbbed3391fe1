"""The only ``import uwsgi``: what spoolkit asks of the server, and the one entry by which the server calls back."""

from __future__ import annotations

import os
import signal
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from spoolkit.system import process
from spoolkit.uwsgi import master, timers

try:
    import uwsgi
except ImportError:
    uwsgi = None
else:
    if not hasattr(uwsgi, "masterpid"):  # a folder or a stub of that name
        uwsgi = None

Env = Mapping[Any, bytes]
"""A spool file as uWSGI hands it over: the packet's keys as bytes, ``spooler_task_name`` and ``body`` as text."""

Handler = Callable[[Env], int]

LIBRARIES = ("uwsgidecorators", "uwsgi_tasks")
"""Modules that set ``uwsgi.spooler`` to a handler of their own when they are imported."""

plain_handler: Handler | None = None
"""A handler that the application itself gave to ``uwsgi.spooler``: it serves the files that nobody else knows."""

_started_in: int | None = None
_working_in: int | None = None
_after_fork: list[Callable[[], None]] = []


def is_uwsgi() -> bool:
    """Whether this process is one of uWSGI's."""
    return uwsgi is not None


def is_spooler() -> bool:
    """Whether this process is a spooler of uWSGI's."""
    return uwsgi is not None and bool(uwsgi.i_am_the_spooler())


def spooler_directory() -> str:
    """The directory that this spooler process serves."""
    # 2.0.31 has no call for it: both lists hold one entry per process, in one order, and the pid is set by now.
    by_pid = dict(zip(uwsgi.spooler_pids(), uwsgi.spoolers, strict=True))
    return os.fsdecode(by_pid[os.getpid()])


def directories() -> list[str]:
    """The spool directories that this uWSGI serves, in the order of its configuration; none outside uWSGI."""
    if uwsgi is None:
        return []
    # One entry per process, so each directory may be there several times.
    return list(dict.fromkeys(os.fsdecode(directory) for directory in getattr(uwsgi, "spoolers", ())))


def has_priorities() -> bool | None:
    """Whether this uWSGI looks into priority folders; ``None`` outside uWSGI, where it cannot be known."""
    return None if uwsgi is None else "spooler-ordered" in uwsgi.opt


def look_again() -> None:
    """Have this spooler look at its directory once more when it has passed through it."""
    # The handler is C code's, which Python does not know of; where a task has taken it away, the signal would kill.
    if master.has_handler(os.getpid(), signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)


def set_harakiri(seconds: int) -> None:
    """Have the master kill this spooler ``seconds`` from now; 0: do not."""
    uwsgi.set_user_harakiri(seconds)


def is_worker() -> bool:
    """Whether this process serves HTTP for uWSGI."""
    return uwsgi is not None and uwsgi.worker_id() > 0


def is_first_worker() -> bool:
    """Whether this is the first of uWSGI's HTTP processes, or has taken its place."""
    return uwsgi is not None and uwsgi.worker_id() == 1


def is_last_worker() -> bool:
    """Whether this is the last of uWSGI's HTTP processes that run."""
    return uwsgi is not None and uwsgi.worker_id() == max(one["id"] for one in uwsgi.workers() if one["pid"])


def first_worker_pid() -> int:
    """The first of uWSGI's HTTP processes."""
    return int(uwsgi.workers()[0]["pid"])


def is_outdated() -> bool:
    """Whether this spooler started before the first HTTP process that serves now, and may run older code.

    Not at the start of uWSGI, where spoolers come first, nor while the first HTTP process loads its application.
    """
    first = next(iter(uwsgi.workers()), None)
    if first is None or not first["respawn_count"] or not first["apps"]:
        return False
    return _is_older(os.getpid(), int(first["pid"]), int(first["respawn_count"]))


@lru_cache(maxsize=1)
def _is_older(own: int, other: int, respawns: int) -> bool:
    # Kept, for /proc takes ten times as long as uWSGI's own table.
    since, born = process.started(other), process.started(own)
    return since is not None and born is not None and born < since


def other_workers() -> list[tuple[int, bool]]:
    """The pids of uWSGI's other HTTP processes, and whether each has loaded its application."""
    own = uwsgi.worker_id()
    return [(int(one["pid"]), bool(one["apps"])) for one in uwsgi.workers() if one["id"] != own and one["pid"]]


def is_ending_idle_workers() -> bool:
    """Whether uWSGI ends HTTP processes because nobody asked them anything for ``idle`` seconds."""
    # Its master marks each of them before it ends it, and sleeps meanwhile as it does when it stops.
    return "idle" in uwsgi.opt and any(one["status"] == b"cheap" for one in uwsgi.workers())


def respawns() -> int:
    """How many processes have had the place of this HTTP process before it, since uWSGI started or was reloaded as a
    whole.
    """
    return int(uwsgi.workers()[uwsgi.worker_id() - 1]["respawn_count"])


def spawned() -> int:
    """How many HTTP processes uWSGI has started so far, the first ones left out."""
    return sum(int(worker["respawn_count"]) for worker in uwsgi.workers())


def is_served() -> bool:
    """Whether any HTTP process of this uWSGI has loaded its application."""
    return any(one["apps"] for one in uwsgi.workers())


def has_application() -> bool:
    """Whether this HTTP process has loaded its application."""
    return bool(uwsgi.workers()[uwsgi.worker_id() - 1]["apps"])


def spooler_pids() -> list[int]:
    """The spoolers of this uWSGI; none of another one, which ``spooler-external`` may name."""
    # A uWSGI without a spooler has no such call; for one that is elsewhere it gives 0, which signals the own group.
    return [int(pid) for pid in getattr(uwsgi, "spooler_pids", list)() if pid > 0]


def options() -> Mapping[str, object]:
    """The options of this uWSGI, as it gives them."""
    return {} if uwsgi is None else {os.fsdecode(name): value for name, value in uwsgi.opt.items()}


def search_paths() -> list[bytes]:
    """The folders in which this uWSGI finds the application, as its options name them: links are not followed."""
    found: list[bytes] = []
    for name in ("chdir", "chdir2", "pythonpath", "python-path", "pp"):
        value = () if uwsgi is None else uwsgi.opt.get(name, ())
        found += [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, bytes)]
    return found


def is_master() -> bool:
    """Whether this process is uWSGI's master, which forks all others."""
    return uwsgi is not None and uwsgi.masterpid() == os.getpid()


def is_lazy() -> bool:
    """Whether each process of this uWSGI loads the application by itself."""
    given = (options().get(name) for name in ("lazy", "lazy-apps"))
    return any(value not in (None, b"false", b"off", b"no", b"0") for value in given)


def has_threads() -> bool:
    """Whether Python's threads run here by themselves; uWSGI may have them run only while it serves a request."""
    return uwsgi is None or bool(uwsgi.has_threads)


def at_start(start: Callable[[], None]) -> None:
    """Have ``start()`` called in each process that serves requests: now in one of those, else after the fork."""
    _guard()

    def here() -> None:
        if is_worker():
            start()

    _after_fork.append(here)
    here()  # with lazy-apps the application is loaded after the fork


def at_end(end: Callable[[], None]) -> None:
    """Have ``end()`` called where a process that serves requests is asked to go, before Python ends there.

    uWSGI leaves it out in a process that is killed, or brutally stopped within a request.
    """
    _guard()
    uwsgi.atexit = end


def master_pid() -> int:
    """The process that started all others."""
    return int(uwsgi.masterpid())


def version() -> str:
    """The version of uWSGI."""
    return os.fsdecode(uwsgi.version)


def at_worker(start: Callable[[], None], end: Callable[[], None]) -> None:
    """Have ``start()`` called once in each HTTP process of uWSGI, and ``end()`` when it ends, however uWSGI ends it.

    A process that is killed, or ends in the midst of a request, calls nothing. Does nothing outside uWSGI.
    """
    if uwsgi is None:
        return

    def begin() -> None:
        global _working_in
        if is_worker() and _working_in != os.getpid():
            _working_in = os.getpid()
            start()

    def finish() -> None:
        # The master and the spoolers call it as well, and what a request has forked.
        if _working_in == os.getpid():
            end()

    _guard()
    _after_fork.append(begin)
    uwsgi.atexit = finish
    begin()


def install(handler: Handler, started: Callable[[str], None]) -> None:
    """Own ``uwsgi.spooler``, for good, and have ``started(directory)`` called once in each spooler process.

    Does nothing outside uWSGI. May be called again.
    """
    if uwsgi is None:
        return

    def start() -> None:
        global _started_in
        if is_spooler() and _started_in != os.getpid():
            _started_in = os.getpid()
            uwsgi.spooler = handler
            # A deadline that was set by a spooler that died since is this one's now, and would kill an innocent job.
            set_harakiri(0)
            started(spooler_directory())

    _guard()
    if vars(uwsgi).get("spooler") is not handler:
        earlier = vars(uwsgi).get("spooler")
        vars(uwsgi)["spooler"] = handler
        _Guarded.handler = handler
        if earlier is not None:
            uwsgi.spooler = earlier
        _after_fork.append(start)
    # With lazy-apps a spooler imports the tasks after its fork: too late for the hook.
    start()


def _guard() -> None:
    if not isinstance(uwsgi, _Guarded):
        uwsgi.__class__ = _Guarded
        served = directories()
        if not {"spooler-frequency", "spooler-freq"} & set(options()):
            # By default a retry or a delayed job would be up to 30 s late. Now, so that an application may set its own.
            getattr(uwsgi, "set_spooler_frequency", int)(1)
        _after_fork.append(timers.guard(uwsgi, served[0] if served else None).begin)
        uwsgi.post_fork_hook = _forked


def _forked() -> None:
    for start in list(_after_fork):
        start()


class _Guarded(types.ModuleType):
    """The module ``uwsgi``, where ``spooler``, ``post_fork_hook`` and ``atexit`` can be added to but not taken away.

    uwsgidecorators and uwsgi_tasks set ``uwsgi.spooler`` when they are imported, and uWSGI knows only one handler:
    whoever came last would fail or delete the files of all others.
    """

    handler: ClassVar[Handler | None] = None

    def __setattr__(self, name: str, value: Any) -> None:
        global plain_handler
        if name == "spooler" and _Guarded.handler not in (None, value):
            if getattr(value, "__module__", "").partition(".")[0] not in LIBRARIES:
                plain_handler = value
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
    _guard()  # now: an application may register timers before its first task
