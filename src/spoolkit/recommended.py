"""The lines of uwsgi.ini that jobs need, and a whole uwsgi.ini of them."""

from __future__ import annotations

from spoolkit.instance import Instance

STOP = (
    ("hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
    ("hook-master-start", "unix_signal:2 gracefully_kill_them_all"),
    ("hook-master-start", "unix_signal:3 gracefully_kill_them_all"),
    ("hook-post-fork", "unix_signal:15 worker_wakeup"),
    ("hook-post-fork", "unix_signal:2 worker_wakeup"),
    ("hook-post-fork", "unix_signal:3 worker_wakeup"),
    ("hook-post-fork", "unix_signal:1 worker_wakeup"),
    ("hook-accepting", "unix_signal:15 worker_wakeup"),
    ("hook-accepting", "unix_signal:2 worker_wakeup"),
    ("hook-accepting", "unix_signal:3 worker_wakeup"),
)
"""With these, a stop waits for jobs and requests: see draining.py."""

RELOAD = (
    ("lazy", "true"),
    ("lazy-apps", "true"),
    ("hook-master-start", "unix_signal:1 uwsgi_chain_reload"),
    ("import", "spoolkit.guard"),
    ("spooler-import", "spoolkit.guard"),
)
"""With these as well, a reload lets jobs finish, and starts others on the new code: see guard.py."""


def missing(uwsgi: Instance, wanted: tuple[tuple[str, str], ...]) -> list[str]:
    """The lines of ``wanted`` that ``uwsgi`` is not started with."""
    return [f"{name} = {value}" for name, value in wanted if not _has(uwsgi, name, value, wanted)]


def _has(uwsgi: Instance, name: str, value: str, wanted: tuple[tuple[str, str], ...]) -> bool:
    if value == "true":
        return uwsgi.on(name)
    if name.endswith("import"):
        return bool(uwsgi.of(name))  # the application's own module will do
    given = uwsgi.of(name)
    if uwsgi.master_pid and any(name == other and one in given for other, one in (*STOP, *RELOAD)):
        return True  # a running uWSGI tells only the last of them
    return value in given


_INI = """\
; Written by `flask spool ini`. It belongs beside the application's module.
[uwsgi]
; http-socket, not socket: whoever reaches a socket of the uwsgi protocol can enqueue jobs.
http-socket = {socket}
chdir = %d
pythonpath = %d

; Without a master there is no spooler.
master = true
; At least two: while one starts, the other can wait for jobs at a stop, and serve at a reload.
processes = {processes}
threads = {threads}
; Without it, no Python thread runs but while a request is served.
enable-threads = true
need-app = true
vacuum = true

; A stop (SIGTERM, SIGINT, SIGQUIT) waits for requests and jobs, SPOOLKIT_GRACE seconds (30) at most. Whoever stops
; uWSGI must signal the master only, and wait longer than that: systemd KillMode=mixed, Docker stop_grace_period.
die-on-term = true
{stop}

; A reload (SIGHUP) replaces one process after the other. Jobs finish on the old code, others start on the new; a
; version that cannot be imported leaves the old one running.
{reload}
module = {module}

; How many jobs run at once. The number comes before the directory.
spooler-processes = {spoolers}
spooler = {spool}
; Seconds between two looks at the directory: how late a delayed job may be.
spooler-frequency = 1
spooler-quiet = true
"""


def ini(*, module: str, processes: int, threads: int, spoolers: int, spool: str, socket: str = "127.0.0.1:8000") -> str:
    """A complete, commented uwsgi.ini.

    ``module`` is the application as uWSGI takes it, ``processes`` and ``threads`` serve HTTP, ``spoolers`` is how many
    jobs run at once, ``spool`` the spool directory, ``socket`` where HTTP is served.
    """
    return _INI.format(
        module=module,
        processes=processes,
        threads=threads,
        spoolers=spoolers,
        spool=spool.replace("%", "%%"),
        socket=socket,
        stop="\n".join(f"{name} = {value}" for name, value in STOP),
        reload="\n".join(f"{name} = {value}" for name, value in RELOAD),
    )
