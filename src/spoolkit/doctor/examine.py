"""What keeps jobs from running, or will: uWSGI's traps, the spool directory, the machine; each with its remedy.

Over 300 lines because it is a list: each check is a function by itself, and none needs another.

Not for a process that is a spooler, nor for one that calls ``uwsgi.spool`` in another thread: it opens spool files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import sqlite3
import stat
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import islice
from typing import Literal, NamedTuple
from urllib.parse import quote

from spoolkit import times
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError, SpoolUnavailableError
from spoolkit.spooldir import checkpoints, gate, running, spoolfile, waiting
from spoolkit.spooldir import dead as morgue
from spoolkit.spooldir import spoolers as presence
from spoolkit.store import database
from spoolkit.system import clock, files, modules
from spoolkit.uwsgi import inifile, instance, ledger, recommended, served
from spoolkit.uwsgi.instance import Instance

Severity = Literal["error", "warning"]

GUARD = "spoolkit.guard"

MOST = 5  # findings of one kind that are told one by one
SLOW = 10  # seconds of spooler-frequency: so late may a delayed job be
LOCKED = 5.0  # seconds that a job must be due: on a newer file, the lock is its writer's
SETTLED = 60.0  # seconds after which a file has its header: uWSGI writes it in place, under its name
HEADERS = 8192  # bytes of buffer-size that a session cookie (4096 at most) and other headers fit into
MANY = 10_000  # entries of a folder that are examined: each costs a call, a due job several
FREE_BYTES, FREE_SHARE = 50 * 1024 * 1024, 0.01

# There, locks, renames and the clock are another machine's.
NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ocfs2",
    "gfs2",
}
NETWORK |= {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.ceph-fuse"}
# There, a host and its guests may each lock for themselves.
SHARED = {"9p", "virtiofs", "vboxsf", "prl_fs", "fuse.vmhgfs-fuse", "fuse.grpcfuse", "fakeowner"}

_MOUNTS = "/proc/self/mountinfo"
_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid
OUR_FOLDERS = frozenset({morgue.FOLDER, running.FOLDER, checkpoints.FOLDER, waiting.FOLDER, presence.FOLDER})
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a fifo"}
_START = "uwsgi --ini uwsgi.ini  # without uWSGI: flask spool run"


@dataclass(frozen=True)
class Finding:
    """One problem.

    ``check``     the check that found it, a short name
    ``problem``   what was found, and what comes of it
    ``remedy``    one thing to do: a line for uwsgi.ini, or a command
    ``severity``  ``error``: jobs do not run, or others may have code run; ``warning``: it can come to that, or be slow
    """

    check: str
    problem: str
    remedy: str
    severity: Severity = "error"


class Entry(NamedTuple):
    """A name in the spool directory, or in its folder ``folder``, and what lies there."""

    path: str
    name: str
    about: os.stat_result
    folder: str | None

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.about.st_mode)

    @property
    def is_seen(self) -> bool:
        """Whether it lies where jobs lie."""
        return self.folder is None or _is_number(self.folder)

    @property
    def is_job(self) -> bool:
        return self.is_seen and self.name.startswith(spoolfile.PREFIX) and self.kind == stat.S_IFREG

    @property
    def is_priority(self) -> bool:
        return self.is_seen and _is_number(self.name) and self.kind == stat.S_IFDIR


class Site(NamedTuple):
    """What is examined."""

    directory: str
    store: str
    max_due_age: float
    now: float
    spoolers: Sequence[int]
    entries: Sequence[Entry] = ()
    uwsgi: Instance | None = None

    def jobs(self) -> list[Entry]:
        """The spool files."""
        return [entry for entry in self.entries if entry.is_job]

    def due(self, seconds: float) -> list[Entry]:
        """Those that have been due for so long."""
        return [job for job in self.jobs() if job.about.st_mtime <= self.now - seconds]

    def places(self) -> dict[str, str]:
        """The directories that are written to, each with the setting that leads there."""
        places = {self.directory: "SPOOLKIT_SPOOL"}
        places.setdefault(os.path.dirname(os.path.realpath(self.store)), "SPOOLKIT_STORE")
        return {path: setting for path, setting in places.items() if os.path.isdir(path)}


def examine(directory: str, *, store: str, ini: str | None = None, max_due_age: float = 60.0) -> list[Finding]:
    """Everything that is wrong with the spool directory, the uWSGI that serves it, and the store.

    uWSGI's options are those in ``ini``, else those of the uWSGI that is running. A job may be due for ``max_due_age``
    seconds. Never raises for what it examines: what cannot be read is a finding.
    """
    directory = os.path.realpath(directory)
    findings: list[Finding] = []
    entries: list[Entry] = []
    uwsgi = None
    try:
        uwsgi = instance.read(directory) if ini is None else _described(ini)
    except (OSError, ValueError) as error:
        findings.append(Finding("ini", f"{ini} cannot be read: {error}", "give the file that uWSGI is started with"))
    seen = os.path.isdir(directory)
    try:
        entries.extend(_scan(directory))
        files.check_readable(directory)
    except (OSError, SpoolUnavailableError) as error:
        findings.append(_unreadable(directory, error))
        seen = False
    site = Site(directory, store, max_due_age, clock.now(), presence.spoolers(directory), entries, uwsgi)
    for check in CHECKS if seen else (_options, _store):
        try:
            findings += check(site)
        except Exception as error:
            # A check that cannot be made must not keep the others from being made.
            name = check.__name__.strip("_").replace("_", "-")
            findings.append(Finding(name, f"it could not be examined: {error}", "be the user of uWSGI", "warning"))
    return findings


def stranded(elsewhere: Iterable[str], directories: Sequence[str]) -> list[Finding]:
    """Jobs in the directories ``elsewhere``, where a call with other settings has left them, and nobody runs them.

    ``directories`` are those that jobs go to now.
    """
    findings = []
    for path in sorted({os.path.realpath(path) for path in elsewhere} - set(directories)):
        with contextlib.suppress(OSError):
            if (jobs := spoolfile.pending(path)) and not presence.spoolers(path):
                problem = f"jobs wait in {_show(path)}, where nobody runs them: {len(jobs)}"
                remedy = f"mv -n {_quote(path)}/{spoolfile.PREFIX}* {_quote(directories[0])}"
                findings.append(Finding("stranded-job", problem, remedy))
    return findings


def _unreadable(directory: str, error: Exception) -> Finding:
    remedy = f"mkdir -m 700 {_quote(directory)}  # as the user of uWSGI"
    if getattr(error, "errno", None) != errno.ENOENT:
        try:
            remedy = f"sudo -u '#{files.owner(directory)[0]}' flask spool doctor"
        except OSError:
            remedy = "flask spool doctor  # as the user of uWSGI"
    if isinstance(error, OSError):
        path = error.filename or directory
        return Finding("directory", f"{_show(path)} cannot be read: {error.strerror}", remedy)
    return Finding("directory", str(error), remedy)


# What uWSGI was told


def _options(site: Site) -> Iterator[Finding]:
    if site.uwsgi is not None:
        for check in UWSGI_CHECKS:
            for finding in check(site.uwsgi, site):
                yield replace(finding, problem=f"{site.uwsgi.source}: {finding.problem}")


def _master(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    # Seen on 2.0.31: they are forked with the GIL held. Where the line is missing, "spooler" itself makes a master.
    if uwsgi.of("master") and not uwsgi.on("master"):
        problem = "master is off: the spoolers hang from their start, and nobody replaces one that dies"
        yield Finding("master", problem, "master = true")


def _threads(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.on("enable-threads"):
        version = [int(part) for part in re.findall(r"\d+", uwsgi.version)]
        old = [] < version < [2, 0, 27] and not uwsgi.of("threads")
        problem = "enable-threads is missing: before uWSGI 2.0.27, without threads = N, no thread runs between requests"
        yield Finding("threads", problem, "enable-threads = true", "error" if old else "warning")


def _spooler(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler", "spooler-external")
    remedy = f"spooler = {_show(site.directory)}"
    if not given:
        yield Finding("spooler", "there is no spooler: nothing runs jobs", remedy)
    elif relative := [path for path in given if not os.path.isabs(path)]:
        problem = f"spooler = {relative[0]} depends on where uWSGI is started from"
        yield Finding("spooler", problem, f"spooler = %d{relative[0]}", "warning")
    elif not uwsgi.master_pid and site.directory not in map(os.path.realpath, given):
        problem = f"it serves {', '.join(map(_show, given))}, but jobs go to {_show(site.directory)} (SPOOLKIT_SPOOL)"
        yield Finding("spooler", problem, remedy)
    for limit in uwsgi.of("spooler-harakiri")[-1:]:
        if limit != "0":
            problem = f"spooler-harakiri = {limit}: a job that takes longer is killed and run again, for ever"
            yield Finding("spooler-harakiri", problem, "spooler-harakiri = 0", "warning")


def _processes(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler-processes")
    for value in given:
        if not value[:1].isdigit():
            problem = f"spooler-processes = {value} is read before placeholders are filled in, as one process"
            yield Finding("spooler-processes", problem, "spooler-processes = 2", "warning")
    if len(set(given)) > 1:
        problem = f"spooler-processes is {' and '.join(given)}: the last holds for all spoolers; give it once"
        yield Finding("spooler-processes", problem, f"spooler-processes = {given[-1]}", "warning")


def _frequency(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("spooler-frequency", "spooler-freq")[-1:]
    digits = re.match(r"\d*", given[0] if given else "1")  # uWSGI's default is 30, but see bridge.py
    seconds = int(digits[0] or 0) if digits else 0
    what, remedy = f"spooler-frequency is {seconds}", "spooler-frequency = 1"
    if not uwsgi.of("spooler"):
        return
    if seconds == 0:
        yield Finding("spooler-frequency", f"{what}: each spooler takes a whole CPU", remedy)
    elif seconds > SLOW:
        yield Finding("spooler-frequency", f"{what}: a delayed job may be {seconds} s late", remedy, "warning")


def _ordered(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    folders = [entry for entry in site.entries if entry.is_priority]
    if folders and uwsgi.of("spooler") and not uwsgi.on("spooler-ordered"):
        count = sum(entry.is_job for entry in site.entries if entry.folder is not None)
        problem = f"it never looks into the priority folder {_show(folders[0].path)}; jobs in such folders: {count}"
        yield Finding("spooler-ordered", problem, "spooler-ordered = true")


def _imports(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.of("spooler"):
        return
    wanted, imported = served.targets(uwsgi.options), uwsgi.of(*instance.IMPORTS)
    if served.has_separate_interpreters(uwsgi.options):
        yield Finding("interpreters", served.SEPARATE, "single-interpreter = true")
    for path in imported:
        if "/" in path or path.endswith(".py"):
            problem = f"spooler-import = {_show(path)} executes the file a second time where its module is imported too"
            yield Finding("spooler-import", problem, f"spooler-import = {modules.from_file(path)}", "warning")
    if uwsgi.on("lazy-apps", "lazy") and not imported:
        problem = "with lazy-apps a spooler imports nothing by itself, and knows no task: let it load the application"
        yield Finding("spooler-import", problem, f"spooler-import = {GUARD}")
    elif uwsgi.on("lazy-apps", "lazy") and GUARD not in imported and any(map(_is_made_late, wanted)):
        name = ", ".join(map(str, wanted))
        problem = f"spooler-import = {_show(imported[-1])} does not load {name}: a spooler does so before its first job"
        yield Finding("spooler-import", problem, f"spooler-import = {GUARD}", "warning")
    if imported == [GUARD] and not wanted:
        problem = f"{GUARD} finds no application to load: the spoolers know no task"
        yield Finding("spooler-import", problem, "module = app:app")


def _is_made_late(target: served.Target) -> bool:
    return bool(target.file) or target.callable.endswith("()")


def _signals(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    # A running uWSGI tells only the last hook; who has one for a signal has one for each.
    wanted = "unix_signal:" if uwsgi.master_pid else "unix_signal:15 "
    hooked = any(hook.startswith(wanted) for hook in uwsgi.of("hook-master-start"))
    if not uwsgi.on("die-on-term") and not hooked:
        yield Finding("die-on-term", "SIGTERM is a brutal reload, no stop", "die-on-term = true", "warning")


def _stops(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    if not uwsgi.of("spooler"):
        return
    if uwsgi.on("skip-atexit"):
        problem = "skip-atexit is on: HTTP processes end without waiting for jobs, which are killed"
        yield Finding("stop", problem, "; skip-atexit  (take the line out)", "warning")
    for name in ("idle", "cheap", "die-on-idle"):
        if uwsgi.of(name)[-1:] not in ([], ["0"], ["false"]):
            problem = f"{name} is set: a stop that finds no HTTP process waits for nothing, and kills running jobs"
            yield Finding("stop", problem, f"; {name}  (take the line out)", "warning")
    if lines := recommended.missing(uwsgi, recommended.STOP):
        yield Finding("stop", "a stop kills running jobs at once; they run again", "\n    ".join(lines), "warning")
    elif [int(number) for number in uwsgi.of("processes", "workers")[-1:] if number.isdigit()] in ([], [0], [1]):
        problem = "there is one HTTP process: a stop while it starts waits for nothing, and kills running jobs"
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
        what = "the socket behind it" if found[0].startswith("http") else "it"
        problem = f"{found[0]}: whoever reaches {what} can enqueue jobs, of any library"
        yield Finding("socket", problem, "allowed-modifiers = 0", "warning")


def _buffer_size(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    given = uwsgi.of("buffer-size")[-1:]
    digits = re.match(r"\d*", given[0] if given else "4096")
    size = int(digits[0] or 0) if digits else 0
    if uwsgi.of("spooler") and size < HEADERS:
        what = f"buffer-size is {size}{'' if given else ', its default'}"
        problem = f"{what}: a request with longer headers, such as a full session cookie, gets no answer"
        yield Finding("buffer-size", problem, "buffer-size = 32768", "warning")


# Who serves the directory


def _spooler_alive(site: Site) -> Iterator[Finding]:
    if not site.spoolers:
        unknown = "" if site.uwsgi else ", and no uWSGI is known whose options could be looked at"
        yield Finding("spooler-alive", f"no spooler of {_show(site.directory)} is alive{unknown}", _START)
    for pid in filter(_is_stopped, site.spoolers):
        yield Finding("spooler-alive", f"the spooler with pid {pid} is stopped", f"kill -CONT {pid}")


def _lock(site: Site) -> Iterator[Finding]:
    def strange() -> dict[str, int]:
        held = {job.path: pid for job, pid in _holders(site.due(LOCKED)) if pid is not None}
        spoolers = presence.spoolers(site.directory)  # one that died may have a successor by now
        return {path: pid for path, pid in held.items() if pid not in spoolers or _is_stopped(pid)}

    if first := strange():
        time.sleep(0.05)  # whoever only looks at a job, to cancel it, say, is done with it by then
        yield from _few([_held(path, pid, site) for path, pid in strange().items() if first.get(path) == pid])


def _held(path: str, pid: int, site: Site) -> Finding:
    if _is_stopped(pid):
        return Finding("lock", f"{_show(path)} is held by pid {pid}, which is stopped", f"kill -CONT {pid}")
    if pid <= 0:
        problem = f"{_show(path)} is held by a process of another container or host"
        return Finding("lock", problem, "run all spoolers of a directory in one container")
    problem = f"{_show(path)} is held by pid {pid} ({_status(pid).get('Name')}), no spooler of this directory"
    return Finding("lock", problem, f"ps -fp {pid}; kill {pid}  # if it hangs")


def _due_job(site: Site) -> Iterator[Finding]:
    seen = site.uwsgi is None or site.uwsgi.on("spooler-ordered")
    waiting = [job for job in site.due(site.max_due_age) if (seen or job.folder is None) and job.about.st_size > 3]
    since = [site.now - job.about.st_mtime for job, pid in _holders(waiting) if pid is None]
    if since:
        problem = f"due jobs that wait in {_show(site.directory)}: {len(since)}, the oldest for {max(since):.0f} s"
        yield Finding("due-job", problem, f"spooler-processes = {2 * len(site.spoolers)}" if site.spoolers else _START)


def _paused(site: Site) -> Iterator[Finding]:
    state = gate.state(site.directory)
    if state is not None:
        problem = f"{_show(site.directory)} is {state}: no job starts"
        yield Finding("paused", problem, f"flask spool resume {_quote(site.directory)}", "warning")


# What lies there


def _permissions(site: Site) -> Iterator[Finding]:
    about, directory = os.stat(site.directory), _show(site.directory)
    mode = about.st_mode & 0o777
    owner = next((uid for uid in map(_uid, site.spoolers) if uid is not None), about.st_uid)
    if about.st_uid != owner:
        problem = f"{directory} belongs to uid {about.st_uid}, its spoolers are uid {owner}"
        yield Finding("permissions", problem, f"chown {owner} {_quote(directory)}")
    if mode != 0o700:
        problem = f"{directory} has mode {mode:04o}: who writes there has code run, who reads there learns of jobs"
        severity: Severity = "warning" if mode & 0o722 == 0o700 else "error"
        yield Finding("permissions", problem, f"chmod 700 {_quote(directory)}", severity)
    jobs = site.jobs()
    others = [job for job in jobs if job.about.st_uid != owner]
    closed = [job for job in jobs if job.about.st_mode & 0o600 != 0o600]
    opened = [job for job in jobs if job.about.st_mode & 0o077]
    cures: tuple[tuple[list[Entry], str, str, Severity], ...] = (
        (others, f"do not belong to uid {owner}", f"chown {owner}", "error"),
        (closed, "cannot be opened by uWSGI, and never run", "chmod 600", "error"),
        (opened, "are open to other users", "chmod 600", "warning"),
    )
    for found, what, cure, severity in cures:
        if found:
            remedy = f"find {_quote(directory)} -maxdepth 2 -name '{spoolfile.PREFIX}*' -exec {cure} {{}} +"
            problem = f"jobs that {what}: {len(found)}, such as {_show(found[0].path)}"
            yield Finding("permissions", problem, remedy, severity)


def _priority_folder(site: Site) -> Iterator[Finding]:
    files = [entry for entry in site.entries if not entry.is_seen and entry.name.startswith(spoolfile.PREFIX)]
    for folder in sorted({str(entry.folder) for entry in files} - {morgue.FOLDER}):
        path = os.path.join(site.directory, folder)
        problem = f"{_show(path)} is no number, and so no priority: the jobs in it never run"
        yield Finding("priority-folder", problem, f"mv -n {_quote(path)}/{spoolfile.PREFIX}* {_quote(site.directory)}")


def _foreign_file(site: Site) -> Iterator[Finding]:
    dead = _quote(os.path.join(site.directory, morgue.FOLDER))
    found = []
    for entry in site.entries:
        if entry.is_seen and (trap := _trap(entry, site)) is not None:
            # By its number, where a shell cannot be told its name.
            name = f'"$(find {_quote(site.directory)} -inum {entry.about.st_ino})"'
            remedy = f"mkdir -p {dead}; mv -n -t {dead} {_quote(entry.path) if entry.path.isprintable() else name}"
            found.append(Finding("foreign-file", f"{_show(entry.path)} {trap[0]}", remedy, trap[1]))
    yield from _few(found)


def _trap(entry: Entry, site: Site) -> tuple[str, Severity] | None:
    """What uWSGI makes of a file that is no sound job."""
    if not entry.name.startswith(spoolfile.PREFIX):
        ordered = site.uwsgi is not None and site.uwsgi.on("spooler-ordered")
        taken = ordered and _is_number(entry.name) and entry.kind == stat.S_IFREG
        return ("is taken for a job, as its name is a number, and may be deleted", "error") if taken else None
    if entry.kind != stat.S_IFREG:
        return f"is {_KINDS.get(entry.kind, 'no file')} by the name of a job, and never runs", "warning"
    if any("\ud800" <= letter <= "\udfff" for letter in entry.name):
        return "has a name that is not UTF-8: uWSGI fails on it at every look", "error"
    if entry.about.st_size < 4:
        settled = entry.about.st_ctime < site.now - SETTLED
        return (f"has {entry.about.st_size} bytes, less than a header, and never runs", "warning") if settled else None
    with _opened(entry.path) as fd:
        damage = None if fd is None else _damage(fd)
    return None if damage is None else (f"is damaged, and uWSGI deletes it unrun: {damage}", "error")


def _damage(fd: int) -> str | None:
    damage = ""
    for _ in range(2):  # uWSGI writes in place: it may begin and end between two steps of this
        if _holder(fd) is not None:
            return None
        try:
            packet.load(os.pread(fd, 4 + packet.LIMIT, 0))
        except DecodeError as error:
            damage = str(error)
        else:
            return None
    return damage


def _strange_entry(site: Site) -> Iterator[Finding]:
    """In our own folders every reader passes over what is no file of the directory's owner."""
    found = []
    allowed = {waiting.FOLDER: stat.S_IFIFO}
    owners = {0, files.owner(site.directory)[0], os.stat(site.directory).st_uid}
    for entry in site.entries:
        what = None
        if entry.folder is None and entry.name in OUR_FOLDERS:
            what = None if entry.kind == stat.S_IFDIR else "is no folder, as it should be"
        elif entry.folder in OUR_FOLDERS:
            if entry.kind != allowed.get(str(entry.folder), stat.S_IFREG):
                what = f"is {_KINDS.get(entry.kind, 'no file')}"
            elif entry.about.st_nlink > 1:
                what = "has another name elsewhere (a hard link)"
            elif entry.about.st_uid not in owners:
                what = f"belongs to {files.user_name(entry.about.st_uid)}"
        elif entry.is_job and entry.about.st_size > spoolfile.LARGEST:
            what = f"has {entry.about.st_size} bytes, more than a spooler can read"
        elif entry.is_job and entry.about.st_nlink > 1:
            what = "has another name (a hard link)"
        if what is not None:
            aside = _quote(os.path.join(os.path.dirname(site.directory), f"strange-{entry.name}"))
            remedy = f"mv -n {_quote(entry.path)} {aside}"
            found.append(Finding("foreign-file", f"{_show(entry.path)} {what}: it is passed over", remedy, "warning"))
    yield from _few(found)


def _copies(site: Site) -> Iterator[Finding]:
    by_id: dict[str, list[str]] = {}
    for job in site.jobs():
        # Whatever a copy has after the id (".bak", "-2"), uWSGI takes it for a job.
        id = job.name.removeprefix(spoolfile.PREFIX)[:32]
        if spoolfile.is_id(id):
            by_id.setdefault(id, []).append(job.path)
    found = [sorted(paths, key=lambda path: (len(path), path)) for paths in by_id.values() if len(paths) > 1]
    yield from _few(
        [
            Finding(
                "copied-job",
                f"{_show(paths[1])} is a copy of {_show(paths[0])}: the job runs by one of them only",
                f"rm {_quote(paths[1])}",
                "warning",
            )
            for paths in found
        ]
    )


def _stray_file(site: Site) -> Iterator[Finding]:
    limit = site.now - files.STRAY_AGE
    strays = [entry for entry in site.entries if entry.is_seen and entry.name.startswith(spoolfile.TEMPORARY)]
    if strays := [entry for entry in strays if entry.about.st_ctime < limit]:
        problem = f"files never finished, of no accepted job: {len(strays)}, such as {_show(strays[0].path)}"
        remedy = f"find {_quote(site.directory)} -maxdepth 2 -name '{spoolfile.TEMPORARY}*' -cmin +60 -delete"
        yield Finding("stray-file", problem, remedy, "warning")


def _many_files(site: Site) -> Iterator[Finding]:
    for folder, count in Counter(entry.folder for entry in site.entries).items():
        if count > MANY:
            path = site.directory if folder is None else os.path.join(site.directory, folder)
            problem = f"{_show(path)} holds more than {MANY} files: no more were examined, or are counted here"
            yield Finding("many-files", problem, "flask spool stats", "warning")


def _dead_job(site: Site) -> Iterator[Finding]:
    if dead := morgue.kept(site.directory):
        reasons = f"{_quote(os.path.dirname(dead[0]))}/*.json"
        yield Finding("dead-job", f"dead jobs that wait for somebody to look: {len(dead)}", f"cat {reasons}", "warning")


# What it lies on


def _clock(site: Site) -> Iterator[Finding]:
    with tempfile.TemporaryFile(dir=site.directory, prefix=spoolfile.TEMPORARY) as file:
        skew = os.fstat(file.fileno()).st_mtime - clock.now()
    if abs(skew) > 1:
        problem = f"the clock of the file system of {_show(site.directory)} is {skew:+.1f} s off this machine's"
        yield Finding("clock", problem, "chronyc makestep  # on both machines")
    if far := [job.path for job in site.jobs() if job.about.st_mtime > site.now + times.MAX_AHEAD]:
        problem = f"jobs due in more than ten years: {len(far)}, such as {_show(far[0])}"
        yield Finding("clock", problem, f"touch {_quote(far[0])}  # to run it now", "warning")
    if ahead := [entry for entry in site.entries if entry.is_priority and entry.about.st_mtime > site.now + 1]:
        problem = f"the priority folder {_show(ahead[0].path)} is passed over until its own time, which lies ahead"
        yield Finding("clock", problem, f"touch {_quote(ahead[0].path)}")


def _file_system(site: Site) -> Iterator[Finding]:
    for path, setting in site.places().items():
        if (kind := _mounted(path)) in NETWORK | SHARED:
            problem = f"{_show(path)} lies on {kind}, which other machines reach as well: locks may not hold there"
            severity: Severity = "error" if kind in NETWORK else "warning"
            yield Finding("file-system", problem, f"{setting}=/var/spool/app  # on a local disk", severity)


def _disk(site: Site) -> Iterator[Finding]:
    for path in {os.stat(path).st_dev: path for path in reversed(site.places())}.values():
        disk = os.statvfs(path)
        free = disk.f_bavail * disk.f_frsize
        if free < max(FREE_BYTES, FREE_SHARE * disk.f_blocks * disk.f_frsize):
            problem = f"the disk of {_show(path)} has {free >> 20} MB left"
            yield Finding("disk", problem, f"df -h {_quote(path)}", "warning")
        if disk.f_files and disk.f_favail < FREE_SHARE * disk.f_files:
            problem = f"the disk of {_show(path)} has {disk.f_favail} inodes left"
            yield Finding("disk", problem, f"df -i {_quote(path)}", "warning")


def _store(site: Site) -> Iterator[Finding]:
    store, folder = _quote(site.store), os.path.dirname(site.store)
    # All three: left behind, the log would be taken for that of the next store.
    aside = f"for end in -wal -shm ''; do mv {store}$end {store}.old$end; done  # with uWSGI stopped"
    if folder != site.directory and not os.path.isdir(folder):
        yield Finding(
            "store", f"{_show(folder)}, where the store is to be, is not there", f"mkdir -m 700 {_quote(folder)}"
        )
    for path in (site.store, f"{site.store}-wal", f"{site.store}-shm"):
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):
                yield Finding("store", f"{_show(path)} is no file", aside)
                return
            if mode & 0o777 != 0o600:
                problem = f"{_show(path)} has mode {mode & 0o777:04o}; it holds what jobs are given and give back"
                yield Finding("store", problem, f"chmod 600 {_quote(path)}")
    if os.path.lexists(site.store):
        try:
            # By SQLite alone: to open and close the file here would drop the locks that SQLite has in this process.
            with contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(site.store))}?mode=ro", uri=True)) as db:
                (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version > len(database.MIGRATIONS):
                    result = f"a later spoolkit has written it (version {version})"
        except sqlite3.Error as error:
            result = str(error)
        if result != "ok":
            yield Finding("store", f"{_show(site.store)} cannot be used, jobs are not recorded: {result}", aside)


def _old_code(site: Site) -> Iterator[Finding]:
    busy = presence.working(site.directory)
    for pid in presence.outdated(site.directory):
        what = "finishes its job and ends" if pid in busy else "ends before its next job"
        problem = f"the spooler {pid} runs the code from before the last reload; it {what}"
        yield Finding("old-code", problem, f"kill -TERM {pid}  # not needed: it ends by itself", "warning")


def _broken_code(site: Site) -> Iterator[Finding]:
    if broken := presence.broken_code(site.directory):
        problem = f"no new spooler starts: {broken}"
        yield Finding("broken-code", problem, "mend the code; the spoolers then start by themselves")


def _timers(uwsgi: Instance, site: Site) -> Iterator[Finding]:
    for directory in uwsgi.directories[:1]:
        for function, target in ledger.ineffective(directory, uwsgi.master_pid):
            problem = (
                f"{function} has the target {target!r}, which does not work with lazy-apps: one HTTP process runs it"
            )
            yield Finding(
                "timer-target", problem, f"leave out target={target!r}; call a @spool task from it", "warning"
            )


UWSGI_CHECKS = (
    *(
        _master,
        _threads,
        _spooler,
        _processes,
        _frequency,
        _ordered,
        _imports,
        _signals,
        _stops,
        _reloads,
        _sockets,
        _buffer_size,
        _timers,
    ),
)
CHECKS = (
    *(_options, _spooler_alive, _old_code, _broken_code, _lock, _due_job, _paused),
    *(_permissions, _priority_folder, _foreign_file, _strange_entry, _copies, _stray_file, _many_files, _dead_job),
    *(_clock, _file_system, _disk, _store),
)

# How that is found out


def _described(ini: str) -> Instance:
    version = ""
    for name in ("uwsgi", "pyuwsgi"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
    return Instance(ini, version, inifile.read(ini))


def _few(findings: list[Finding]) -> Iterator[Finding]:
    yield from findings[:MOST]
    if len(findings) > MOST:
        yield replace(findings[MOST], problem=f"and {len(findings) - MOST} more of the kind")


def _scan(directory: str, folder: str | None = None) -> Iterator[Entry]:
    with os.scandir(directory) as names:
        for found in islice(names, MANY + 1):
            with contextlib.suppress(FileNotFoundError):
                about = found.stat(follow_symlinks=False)
                yield Entry(found.path, found.name, about, folder)
                if folder is None and stat.S_ISDIR(about.st_mode):
                    with contextlib.suppress(PermissionError):  # lost+found, say, where it is a file system of its own
                        yield from _scan(found.path, found.name)


def _holders(jobs: Sequence[Entry]) -> Iterator[tuple[Entry, int | None]]:
    for job in jobs:
        with _opened(job.path) as fd:
            if fd is not None:
                yield job, _holder(fd)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None  # gone, or not ours to read: that is another check's business
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    """The process that holds uWSGI's lock on the file; 0 or -1 where it has no pid here."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _is_stopped(pid: int) -> bool:
    return _status(pid).get("State", "")[:1] in ("T", "t")


def _uid(pid: int) -> int | None:
    # Not the owner of /proc/<pid>: for a process that has given up root, that is root.
    return int(uids.split()[1]) if (uids := _status(pid).get("Uid")) else None


def _status(pid: int) -> dict[str, str]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="backslashreplace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    return {}


def _mounted(path: str) -> str:
    """The type of the file system that ``path`` lies on."""
    best, kind = "", ""
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            # Of two on one point, the later one covers the other.
            if len(point) >= len(best) and f"{path}/".startswith(os.path.join(point, "")):
                best, kind = point, fields[fields.index("-") + 1]
    return kind


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _show(path: str) -> str:
    """The path for a person's eyes, whatever its bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else repr(text)


def _quote(path: str) -> str:
    return shlex.quote(_show(path))
