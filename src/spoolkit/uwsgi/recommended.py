"""Which lines does uwsgi.ini need for jobs, and what does a complete uwsgi.ini contain?"""

from __future__ import annotations

import os
from collections.abc import Sequence

from spoolkit.settings import QUEUES_SUFFIX
from spoolkit.uwsgi.instance import Instance

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
"""With these lines a stop waits for jobs and requests: see ``lifecycle/shutdown.py``."""

RELOAD = (
    ("lazy", "true"),
    ("lazy-apps", "true"),
    ("hook-master-start", "unix_signal:1 uwsgi_chain_reload"),
    ("import", "spoolkit.guard"),
    ("spooler-import", "spoolkit.guard"),
)
"""With these lines as well, a reload lets jobs finish, and starts others with the new code: see ``guard.py``."""


def missing(uwsgi: Instance, wanted: tuple[tuple[str, str], ...]) -> list[str]:
    """Return the lines of ``wanted`` that this uWSGI does not have, as in an ini file."""
    return [f"{name} = {value}" for name, value in wanted if not _has(uwsgi, name, value, wanted)]


def _has(uwsgi: Instance, name: str, value: str, wanted: tuple[tuple[str, str], ...]) -> bool:
    if value == "true":
        return uwsgi.on(name)
    if name.endswith("import"):
        return bool(uwsgi.of(name))  # it may be the application's own module instead
    values = uwsgi.of(name)
    if uwsgi.master_pid and any(name == option and hook in values for option, hook in (*STOP, *RELOAD)):
        return True  # a running uWSGI reports only the last of several hooks
    return value in values


_INI = """\
; HTTP and background jobs. Keep this file beside the application, and start it with: uwsgi --ini uwsgi.ini
[uwsgi]
{variables}
; http-socket, not socket: anyone who reaches a socket of the uwsgi protocol can enqueue jobs.
http-socket = {address}
hook-accepting1-once = print:the site is on {site}
; The size of a request's headers, cookies included. With the default of 4096 a larger request gets no answer at all.
buffer-size = 32768
chdir = %d
pythonpath = {pythonpath}

; Without a master there is no spooler.
master = true
; At least two: while one starts, the other serves (at a reload) or waits for jobs (at a stop).
; With one, a stop during a reload interrupts running jobs at once; they run again, and this costs them no attempt.
processes = {processes}
threads = {threads}
; Without it, Python's threads run only while a request is served.
enable-threads = true
need-app = true
vacuum = true

; A stop (SIGTERM, SIGINT, SIGQUIT) waits for requests and jobs, at most SPOOLKIT_GRACE seconds (30 by default). Send
; the signal to the master only, and wait longer before you kill it: systemd KillMode=mixed, Docker stop_grace_period.
die-on-term = true
for = 15 2 3
hook-master-start = unix_signal:%(_) gracefully_kill_them_all
hook-post-fork = unix_signal:%(_) worker_wakeup
hook-accepting = unix_signal:%(_) worker_wakeup
endfor =
hook-post-fork = unix_signal:1 worker_wakeup

; A reload (SIGHUP) replaces one process after the other. Running jobs finish with the old code, others start with the
; new code. If the new code cannot be imported, the old code keeps running.
{reload}
module = {module}

{spoolers}
; Seconds between two scans (the default is 30): how late a job may start if its caller was killed within the call.
spooler-frequency = 1
spooler-quiet = true
{ordered}"""

_FROM_ENVIRONMENT = """\
if-env = {variable}
set-ph = {placeholder}=%(_)
endif =
set-ph = {placeholder}={default}
"""

_ONE_QUEUE = """\
; How many jobs run at once. This line must come before the directory, and uWSGI resolves no placeholder in it.
{number}
spooler = {spool}"""

_QUEUES = """\
; The directories of the queues, made before uWSGI looks for them.
ini = exec://mkdir -p -m 700 {paths}
; One line for each process: spooler-processes would apply to all queues. The first directory is the default queue.
{lines}"""

_ORDERED = """\
; Scan the folders of priorities: tasks are declared with one.
spooler-ordered = true
"""

_SPOOLERS_FROM_ENVIRONMENT = """\
if-env = SPOOLERS
spooler-processes = %(_)
endif =
if-not-env = SPOOLERS
spooler-processes = 2
endif ="""

SPOOLERS = 2
"""How many jobs run at once by default."""

MY_SPOOLS = "%dmy_spools"
"""The default spool directory, beside the ini file, in the notation of ini files."""


def ini(
    *,
    module: str,
    processes: int | None = None,
    threads: int | None = None,
    spoolers: int | None = None,
    spool: str | None = None,
    spool_default: str = MY_SPOOLS,
    socket: str | None = None,
    pythonpath: str = "%d",
    queues: Sequence[tuple[str, int]] = (),
    priorities: bool = False,
    folder: str = "",
) -> str:
    """Return a complete, commented uwsgi.ini.

    A value that is ``None`` comes from the environment in which uWSGI starts, or else from a default:
    ``PROCESSES`` (2), ``THREADS`` (4), ``SPOOLERS`` (2), ``SPOOLKIT_SPOOL``, ``HOST`` (127.0.0.1) and ``PORT`` (5000).

    Args:
        module: The application in uWSGI's notation, such as ``app:app``.
        processes: How many processes serve HTTP.
        threads: How many threads each of them has.
        spoolers: How many jobs run at once.
        spool: The spool directory in the notation of ini files: ``%%`` is a percent sign, ``%d`` the file's folder.
        spool_default: The spool directory if ``SPOOLKIT_SPOOL`` is not set, in the same notation.
        socket: The address on which HTTP is served, such as ``127.0.0.1:8000``.
        pythonpath: The folder from which the application is imported, in the same notation.
        queues: The spool directories of other queues, in the same notation, and how many jobs of each run at once.
            With them, ``spool`` and ``spoolers`` must be given: there is a line for each process.
        priorities: Whether jobs have priorities.
        folder: The absolute path of the file's folder, if it is known.
    """
    variables: list[tuple[str, str, str]] = []

    def value(argument: object, variable: str, default: str) -> str:
        if argument is not None:
            return str(argument)
        placeholder = f"site-{variable.rpartition('_')[2].lower()}"
        variables.append((variable, placeholder, default))
        return f"%({placeholder})"

    address = socket or f"{value(None, 'HOST', '127.0.0.1')}:{value(None, 'PORT', '5000')}"
    is_path = "/" in address or address.startswith("@")
    shown = {
        "address": address,
        "site": address if is_path else f"http://{address}",
        "processes": value(processes, "PROCESSES", "2"),
        "threads": value(threads, "THREADS", "4"),
        "spoolers": _queues([(spool or spool_default, spoolers or SPOOLERS), *queues], folder)
        if queues
        else _ONE_QUEUE.format(
            spool=value(spool, "SPOOLKIT_SPOOL", spool_default),
            number=_SPOOLERS_FROM_ENVIRONMENT if spoolers is None else f"spooler-processes = {spoolers}",
        ),
        "ordered": _ORDERED if priorities else "",
        "reload": "\n".join(f"{name} = {wanted}" for name, wanted in RELOAD),
        "module": module,
        "pythonpath": pythonpath,
    }
    return _INI.format(variables=_from_environment(variables), **shown)


def _queues(queues: Sequence[tuple[str, int]], folder: str) -> str:
    # The folder of the directories with names must be there as well, and be for its owner only.
    paths = [path for path, _ in queues]
    above = [folder for folder in map(os.path.dirname, paths) if folder.endswith(QUEUES_SUFFIX)]
    quoted = " ".join(_quoted(path, folder) for path in dict.fromkeys([*above, *paths]))
    lines = "\n".join(f"spooler = {path}" for path, number in queues for _ in range(number))
    return _QUEUES.format(paths=quoted, lines=lines)


def _quoted(path: str, folder: str) -> str:
    """The path as a word of a shell command. Always in quotes: ``%d`` may become a path with spaces.

    But none with an apostrophe, which would end the quotes: then the folder itself stands there.
    """
    if "'" in folder and path.startswith("%d"):
        path = escaped(os.path.join(folder, "")) + path[2:]
    return "'" + path.replace("'", "'\\''") + "'"


def escaped(text: str) -> str:
    """Return a text in the notation of ini files."""
    return text.replace("%", "%%")


def _from_environment(variables: list[tuple[str, str, str]]) -> str:
    if not variables:
        return ""
    *others, last = [variable for variable, _, _ in variables]
    names = f"{', '.join(others)} and {last}" if others else last
    lines = f"\n; From the environment, else the default: {names}. Of two lines set-ph the first one counts.\n"
    for variable, placeholder, default in variables:
        block = {"variable": variable, "placeholder": placeholder, "default": default}
        if variable in ("HOST", "SPOOLKIT_SPOOL"):
            # An empty variable counts as not set: an empty HOST would mean every address of the machine.
            lines += f"if-env = {variable}=\nset-ph = {placeholder}={default}\nendif =\n"
        lines += _FROM_ENVIRONMENT.format(**block)
    return lines
