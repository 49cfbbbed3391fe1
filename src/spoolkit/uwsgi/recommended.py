"""The lines of uwsgi.ini that jobs need, and a whole uwsgi.ini of them."""

from __future__ import annotations

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
; HTTP and background jobs. Keep this file beside the application, and start it with: uwsgi --ini uwsgi.ini
[uwsgi]
{variables}
; http-socket, not socket: whoever reaches a socket of the uwsgi protocol can enqueue jobs.
http-socket = {address}
hook-accepting1-once = print:the site is on {site}
; Headers of a request, cookies included. With the default of 4096 a larger request gets no answer at all.
buffer-size = 32768
chdir = %d
pythonpath = {pythonpath}

; Without a master there is no spooler.
master = true
; At least two: while one starts, the other can wait for jobs at a stop, and serve at a reload.
; With one, a stop within a reload cuts running jobs off at once; they run again, and it costs them no attempt.
processes = {processes}
threads = {threads}
; Without it, Python's threads run only while a request is served.
enable-threads = true
need-app = true
vacuum = true

; A stop (SIGTERM, SIGINT, SIGQUIT) waits for requests and jobs, SPOOLKIT_GRACE seconds (30) at most. Send the signal to
; the master only, and wait longer than that before you kill it: systemd KillMode=mixed, Docker stop_grace_period.
die-on-term = true
for = 15 2 3
hook-master-start = unix_signal:%(_) gracefully_kill_them_all
hook-post-fork = unix_signal:%(_) worker_wakeup
hook-accepting = unix_signal:%(_) worker_wakeup
endfor =
hook-post-fork = unix_signal:1 worker_wakeup

; A reload (SIGHUP) replaces one process after the other. Jobs finish on the old code, others start on the new; a
; version that cannot be imported leaves the old one running.
{reload}
module = {module}

; How many jobs run at once. uWSGI reads the number before the directory, and knows no placeholders there.
{spoolers}
spooler = {spool}
; Seconds between two looks at the directory: how late a delayed job may be. The default is 30.
spooler-frequency = 1
spooler-quiet = true
"""

_FROM_ENVIRONMENT = """\
if-env = {variable}
set-ph = {placeholder}=%(_)
endif =
set-ph = {placeholder}={default}
"""

_SPOOLERS_FROM_ENVIRONMENT = """\
if-env = SPOOLERS
spooler-processes = %(_)
endif =
if-not-env = SPOOLERS
spooler-processes = 2
endif ="""

MY_SPOOLS = "%dmy_spools"
"""The spool directory beside the ini file, as the ini file names it."""


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
) -> str:
    """A complete, commented uwsgi.ini.

    What is given stands in it. What is not comes from the environment in which uWSGI starts, else from a default:
    ``PROCESSES`` (2), ``THREADS`` (4), ``SPOOLERS`` (2), ``SPOOLKIT_SPOOL``, ``HOST`` (127.0.0.1) and ``PORT`` (5000).

    Args:
        module: The application as uWSGI takes it, such as ``app:app``.
        processes: How many processes serve HTTP.
        threads: How many threads each of them has.
        spoolers: How many jobs run at once.
        spool: The spool directory, as an ini file names it: a percent sign is doubled, ``%d`` is the file's folder.
        spool_default: The same, for where ``SPOOLKIT_SPOOL`` is not set.
        socket: The address to serve HTTP on, such as ``127.0.0.1:8000``.
        pythonpath: The folder to import the application from, as an ini file names it.
    """
    variables: list[tuple[str, str, str]] = []

    def value(given: object, variable: str, default: str) -> str:
        if given is not None:
            return str(given)
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
        "spool": value(spool, "SPOOLKIT_SPOOL", spool_default),
        "spoolers": _SPOOLERS_FROM_ENVIRONMENT if spoolers is None else f"spooler-processes = {spoolers}",
        "reload": "\n".join(f"{name} = {wanted}" for name, wanted in RELOAD),
        "module": module,
        "pythonpath": pythonpath,
    }
    return _INI.format(variables=_from_environment(variables), **shown)


def _from_environment(variables: list[tuple[str, str, str]]) -> str:
    if not variables:
        return ""
    *most, last = [variable for variable, _, _ in variables]
    names = f"{', '.join(most)} and {last}" if most else last
    lines = f"\n; From the environment, else as given here: {names}. Of two lines set-ph, the first one holds.\n"
    for variable, placeholder, default in variables:
        block = {"variable": variable, "placeholder": placeholder, "default": default}
        if variable in ("HOST", "SPOOLKIT_SPOOL"):
            # Set to nothing, it is not set: HOST would mean every address of the machine.
            lines += f"if-env = {variable}=\nset-ph = {placeholder}={default}\nendif =\n"
        lines += _FROM_ENVIRONMENT.format(**block)
    return lines
