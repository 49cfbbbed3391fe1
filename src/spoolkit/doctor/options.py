"""Do the options of uWSGI keep jobs from running, or let a stop or a reload kill them?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from spoolkit import registry
from spoolkit.doctor.findings import Check, Finding, Site, printable
from spoolkit.encoding import packet
from spoolkit.system import modules
from spoolkit.uwsgi import instance, ledger, recommended, served
from spoolkit.uwsgi.instance import Instance

GUARD = "spoolkit.guard"

MAX_FREQUENCY = 10
"""Seconds of ``spooler-frequency``: a job of which no signal tells, because its caller was killed, starts that late."""

MIN_BUFFER = 8192
"""Bytes of ``buffer-size`` that hold a session cookie (4096 at most) and the other headers of a request."""


def _options(site: Site) -> Iterator[Finding]:
    if site.uwsgi is not None:
        for check in OPTION_CHECKS:
            for finding in check(site.uwsgi, site):
                yield replace(finding, problem=f"{site.uwsgi.source}: {finding.problem}")


def _master(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    # Seen on 2.0.31: they are forked with the GIL held. Where the line is missing, "spooler" itself makes a master.
    if uwsgi.of("master") and not uwsgi.on("master"):
        problem = "master is off: the spoolers hang from their start, and a process that dies is not replaced"
        yield Finding("master", problem, "master = true")


def _threads(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.on("enable-threads"):
        version = [int(part) for part in re.findall(r"\d+", uwsgi.version)]
        old = [] < version < [2, 0, 27] and not uwsgi.of("threads")
        problem = (
            "enable-threads is missing: before uWSGI 2.0.27, unless threads = N is set, "
            "Python threads do not run between requests"
        )
        yield Finding("threads", problem, "enable-threads = true", "error" if old else "warning")


def _spooler(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler", "spooler-external")
    remedy = f"spooler = {recommended.escaped(printable(site.spool_dir))}"
    if not given:
        yield Finding("spooler", "no spooler is configured: nothing runs jobs", remedy)
    elif relative := [path for path in given if not os.path.isabs(path)]:
        problem = f"spooler = {relative[0]} is relative to the directory in which uWSGI is started"
        yield Finding("spooler", problem, f"spooler = %d{recommended.escaped(relative[0])}", "warning")
    elif not uwsgi.master_pid and site.spool_dir not in map(os.path.realpath, given):
        served_here, wanted = ", ".join(map(printable, given)), printable(site.spool_dir)
        problem = f"uWSGI serves {served_here}, but jobs are written to {wanted} (SPOOLKIT_SPOOL)"
        yield Finding("spooler", problem, remedy)
    for limit in uwsgi.of("spooler-harakiri")[-1:]:
        if limit != "0":
            problem = f"spooler-harakiri = {limit}: a job that takes longer is killed and run again, forever"
            yield Finding("spooler-harakiri", problem, "spooler-harakiri = 0", "warning")


def _processes(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler-processes")
    for value in given:
        if not value[:1].isdigit():
            problem = f"spooler-processes = {value}: uWSGI reads it before it replaces placeholders, as 1"
            yield Finding("spooler-processes", problem, "spooler-processes = 2", "warning")
    if len(set(given)) > 1:
        problem = f"spooler-processes is {' and '.join(given)}: the last value applies to all spoolers; set it once"
        yield Finding("spooler-processes", problem, f"spooler-processes = {given[-1]}", "warning")


def _frequency(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler-frequency", "spooler-freq")[-1:]
    digits = re.match(r"\d*", given[0] if given else "1")  # uWSGI's default is 30, but see bridge.py
    seconds = int(digits[0] or 0) if digits else 0
    setting, remedy = f"spooler-frequency is {seconds}", "spooler-frequency = 1"
    if not uwsgi.of("spooler"):
        return
    if seconds == 0:
        yield Finding("spooler-frequency", f"{setting}: each spooler uses a whole CPU", remedy)
    elif seconds > MAX_FREQUENCY:
        problem = f"{setting}: a job whose caller is killed before its signal starts up to {seconds} s late"
        yield Finding("spooler-frequency", problem, remedy, "warning")


def _ordered(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    folders = [entry for entry in site.entries if entry.is_priority]
    if folders and uwsgi.of("spooler") and not uwsgi.on("spooler-ordered"):
        count = sum(entry.is_job for entry in site.entries if entry.folder is not None)
        path = printable(folders[0].path)
        problem = f"uWSGI never scans the priority folder {path}; jobs in such folders: {count}"
        yield Finding("spooler-ordered", problem, "spooler-ordered = true")
    elif registry.this_process.priorities and uwsgi.of("spooler") and not uwsgi.on("spooler-ordered"):
        shown = ", ".join(map(str, sorted(registry.this_process.priorities)))
        problem = f"tasks are declared with a priority ({shown}), which uWSGI ignores: their calls are refused"
        yield Finding("spooler-ordered", problem, "spooler-ordered = true")


def _imports(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.of("spooler"):
        return
    wanted, imported = served.targets(uwsgi.options), uwsgi.of(*instance.IMPORTS)
    if served.has_separate_interpreters(uwsgi.options):
        yield Finding("interpreters", served.SEPARATE_INTERPRETERS, "single-interpreter = true")
    for path in imported:
        if "/" in path or path.endswith(".py"):
            problem = f"spooler-import = {printable(path)} executes the file again if its module is imported as well"
            yield Finding("spooler-import", problem, f"spooler-import = {modules.from_file(path)}", "warning")
    if uwsgi.on("lazy-apps", "lazy") and not imported:
        problem = "with lazy-apps a spooler imports nothing by itself, so it knows no task: let it load the application"
        yield Finding("spooler-import", problem, f"spooler-import = {GUARD}")
    elif uwsgi.on("lazy-apps", "lazy") and GUARD not in imported and any(map(_is_not_imported, wanted)):
        name, last = ", ".join(map(str, wanted)), printable(imported[-1])
        problem = f"spooler-import = {last} does not load {name}: a spooler loads it before its first job"
        yield Finding("spooler-import", problem, f"spooler-import = {GUARD}", "warning")
    if imported == [GUARD] and not wanted:
        problem = f"{GUARD} finds no application to load, so the spoolers know no task"
        yield Finding("spooler-import", problem, "module = app:app")


def _is_not_imported(target: served.Target) -> bool:
    """Whether an import of its module is not enough to load the application."""
    return bool(target.file) or target.callable.endswith("()")


def _signals(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    # A running uWSGI reports only the last hook; a configuration with a hook for one signal has one for each.
    wanted = "unix_signal:" if uwsgi.master_pid else "unix_signal:15 "
    hooked = any(hook.startswith(wanted) for hook in uwsgi.of("hook-master-start"))
    if not uwsgi.on("die-on-term") and not hooked:
        problem = "SIGTERM does not stop uWSGI, but reloads it brutally"
        yield Finding("die-on-term", problem, "die-on-term = true", "warning")


def _stops(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.of("spooler"):
        return
    if uwsgi.on("skip-atexit"):
        problem = "skip-atexit is on: HTTP processes exit without waiting for running jobs, which are killed"
        yield Finding("stop", problem, "; skip-atexit  (remove this line)", "warning")
    for name in ("idle", "cheap", "die-on-idle"):
        if uwsgi.of(name)[-1:] not in ([], ["0"], ["false"]):
            problem = f"{name} is set: a stop while no HTTP process runs does not wait, and kills running jobs"
            yield Finding("stop", problem, f"; {name}  (remove this line)", "warning")
    if lines := recommended.missing(uwsgi, recommended.STOP):
        yield Finding("stop", "a stop kills running jobs at once; they run again", "\n    ".join(lines), "warning")
    elif [int(number) for number in uwsgi.of("processes", "workers")[-1:] if number.isdigit()] in ([], [0], [1]):
        problem = "there is one HTTP process: a stop while it starts does not wait, and kills running jobs"
        yield Finding("stop", problem, "processes = 2", "warning")


def _reloads(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if uwsgi.of("spooler") and (lines := recommended.missing(uwsgi, recommended.RELOAD)):
        yield Finding("reload", "a reload kills running jobs; they run again", "\n    ".join(lines), "warning")


def _sockets(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    names = ["uwsgi-socket", "http", "https"]
    if uwsgi.of("protocol", "socket-protocol")[-1:] in ([], ["uwsgi"]):
        names.insert(0, "socket")
    found = [f"{name} = {value}" for name in names for value in uwsgi.of(name)]
    allowed = uwsgi.of("allowed-modifiers")[-1:]
    if found and (not allowed or str(packet.MODIFIER) in re.split(r"[\s,]+", allowed[0])):
        socket = "the socket behind it" if found[0].startswith("http") else "it"
        problem = f"{found[0]}: any process that can connect to {socket} can enqueue jobs, of any library"
        yield Finding("socket", problem, "allowed-modifiers = 0", "warning")


def _buffer_size(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("buffer-size")[-1:]
    digits = re.match(r"\d*", given[0] if given else "4096")
    size = int(digits[0] or 0) if digits else 0
    if uwsgi.of("spooler") and size < MIN_BUFFER:
        setting = f"buffer-size is {size}{'' if given else ', the default'}"
        problem = f"{setting}: a request with longer headers, such as a full session cookie, gets no response"
        yield Finding("buffer-size", problem, "buffer-size = 32768", "warning")


def _timers(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    for directory in uwsgi.directories[:1]:
        for function, target in ledger.ineffective_targets(directory, uwsgi.master_pid):
            problem = f"{function} has the target {target!r}, which has no effect with lazy-apps"
            problem += ": one HTTP process runs the function"
            remedy = f"remove target={target!r}; call a @spool task from the function"
            yield Finding("timer-target", problem, remedy, "warning")


OPTION_CHECKS = (
    *(_master, _threads, _spooler, _processes, _frequency, _ordered, _imports),
    *(_signals, _stops, _reloads, _sockets, _buffer_size, _timers),
)

CHECKS: tuple[Check, ...] = (_options,)
