"""Are the files of the spool directory sound, and closed to other users?"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from spoolkit.doctor import machine
from spoolkit.doctor.findings import (
    START_COMMAND,
    Check,
    Entry,
    Finding,
    Severity,
    Site,
    is_number,
    limit_findings,
    printable,
    quoted,
)
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import batches, dead, held, later, parked, places, spoolfile, waiting
from spoolkit.system import files

HEADER_TIME = 60.0
"""Seconds within which a new file gets its header: uWSGI writes it in place, under its final name."""

HELD_TIME = 600.0
"""Seconds after which a job that waits for no commit any more should be accepted or deleted: sweeps come each 30 s."""

SWEEP_TIME = 600.0
"""Seconds within which a process that serves has done what a sweep does."""

MAX_ENTRIES = 10_000
"""Entries of a folder that are examined: each costs a system call, a due job several."""

_WITH_FOLDERS = frozenset(place.name for place in places.PLACES if place.has_folders)

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a fifo"}


def scan(directory: str, folder: str | None = None) -> Iterator[Entry]:
    """Read the names in ``directory`` and in its folders, at most :data:`MAX_ENTRIES` of each and one more.

    Raises:
        OSError: The directory cannot be read. A folder that cannot be read is left out.
    """
    with os.scandir(directory) as names:
        for found in islice(names, MAX_ENTRIES + 1):
            with contextlib.suppress(FileNotFoundError):
                about = found.stat(follow_symlinks=False)
                yield Entry(found.path, found.name, about, folder)
                if (folder is None or folder in _WITH_FOLDERS) and stat.S_ISDIR(about.st_mode):
                    with contextlib.suppress(PermissionError):  # such as lost+found, in a file system of its own
                        yield from scan(found.path, found.name if folder is None else os.path.join(folder, found.name))


def unreadable(directory: str, error: Exception) -> Finding:
    """The finding for a spool directory that could not be read because of ``error``."""
    remedy = f"mkdir -m 700 {quoted(directory)}  # as the user of uWSGI"
    if getattr(error, "errno", None) != errno.ENOENT:
        try:
            remedy = f"sudo -u '#{files.owner(directory)[0]}' flask spool doctor"
        except OSError:
            remedy = "flask spool doctor  # as the user of uWSGI"
    if isinstance(error, OSError):
        path = error.filename or directory
        return Finding("directory", f"{printable(path)} cannot be read: {error.strerror}", remedy)
    return Finding("directory", str(error), remedy)


def _permissions(site: Site) -> Iterator[Finding]:
    about, path = os.stat(site.spool_dir), printable(site.spool_dir)
    mode = about.st_mode & 0o777
    owner = next((uid for uid in map(machine.effective_uid, site.spoolers) if uid is not None), about.st_uid)
    if about.st_uid != owner:
        problem = f"{path} belongs to uid {about.st_uid}, but its spoolers run as uid {owner}"
        yield Finding("permissions", problem, f"chown {owner} {quoted(site.spool_dir)}")
    if mode != 0o700:
        problem = f"{path} has mode {mode:04o}: a user who can write there can run code, one who can read sees jobs"
        severity: Severity = "warning" if mode & 0o722 == 0o700 else "error"
        yield Finding("permissions", problem, f"chmod 700 {quoted(site.spool_dir)}", severity)
    jobs = site.jobs()
    foreign = [job for job in jobs if job.about.st_uid != owner]
    closed = [job for job in jobs if job.about.st_mode & 0o600 != 0o600]
    opened = [job for job in jobs if job.about.st_mode & 0o077]
    remedies: tuple[tuple[list[Entry], str, str, Severity], ...] = (
        (foreign, f"do not belong to uid {owner}", f"chown {owner}", "error"),
        (closed, "uWSGI cannot open and never runs", "chmod 600", "error"),
        (opened, "other users can open", "chmod 600", "warning"),
    )
    for found, defect, command, severity in remedies:
        if found:
            find = f"find {quoted(site.spool_dir)} -maxdepth 3 -name '{spoolfile.PREFIX}*'"
            problem = f"jobs that {defect}: {len(found)}, such as {printable(found[0].path)}"
            yield Finding("permissions", problem, f"{find} -exec {command} {{}} +", severity)


def _priority_folder(site: Site) -> Iterator[Finding]:
    hidden = [
        entry
        for entry in site.entries
        if not entry.is_scanned and entry.place is None and entry.name.startswith(spoolfile.PREFIX)
    ]
    for folder in sorted({str(entry.folder) for entry in hidden}):
        path = os.path.join(site.spool_dir, folder)
        problem = f"{printable(path)} is not a number, and so not a priority: the jobs in it never run"
        remedy = f"mv -n {quoted(path)}/{spoolfile.PREFIX}* {quoted(site.spool_dir)}"
        yield Finding("priority-folder", problem, remedy)


def _foreign_file(site: Site) -> Iterator[Finding]:
    target = quoted(os.path.join(site.spool_dir, dead.FOLDER))
    found = []
    for entry in site.entries:
        if (entry.is_scanned or _is_parked(entry)) and (harm := _harm(entry, site)) is not None:
            # By its inode, where the name cannot be written in a shell command.
            by_inode = f'"$(find {quoted(site.spool_dir)} -inum {entry.about.st_ino})"'
            name = quoted(entry.path) if entry.path.isprintable() else by_inode
            remedy = f"mkdir -p {target}; mv -n -t {target} {name}"
            found.append(Finding("foreign-file", f"{printable(entry.path)} {harm[0]}", remedy, harm[1]))
    yield from limit_findings(found)


def _is_parked(entry: Entry) -> bool:
    # A file that is damaged is moved back as well, but only when its group has room.
    return entry.place is not None and entry.place.name == parked.FOLDER and entry.is_job


def _harm(entry: Entry, site: Site) -> tuple[str, Severity] | None:
    """What uWSGI does with an entry that is not a sound job; ``None`` where it does no harm."""
    if not entry.name.startswith(spoolfile.PREFIX):
        ordered = site.uwsgi is not None and site.uwsgi.on("spooler-ordered")
        if ordered and is_number(entry.name) and entry.kind == stat.S_IFREG:
            return "is treated as a job, because its name is a number, and may be deleted", "error"
        return None
    if entry.kind != stat.S_IFREG:
        return f"has the name of a job, but is {_KINDS.get(entry.kind, 'not a file')}, and never runs", "warning"
    if any("\ud800" <= letter <= "\udfff" for letter in entry.name):
        return "has a name that is not UTF-8: uWSGI fails on it at every scan", "error"
    if entry.about.st_size < 4:
        if entry.about.st_ctime >= site.now - HEADER_TIME:
            return None
        return f"has {entry.about.st_size} bytes, less than a header, and never runs", "warning"
    if not site.may_read(entry):
        return None
    with machine.open_regular(entry.path) as fd:
        damage = None if fd is None else _damage(fd)
    return None if damage is None else (f"is damaged, and uWSGI deletes it without running it: {damage}", "error")


def _damage(fd: int) -> str | None:
    damage = ""
    for _ in range(2):  # uWSGI writes in place: it may begin and end between two steps of this function
        if machine.lock_holder(fd) is not None:
            return None
        try:
            packet.load(os.pread(fd, packet.HEAD_SIZE, 0))
        except DecodeError as error:
            damage = str(error)
        else:
            return None
    return damage


def _strange_entry(site: Site) -> Iterator[Finding]:
    """In our own folders all readers ignore what is not a regular file of the directory's owner."""
    found = []
    owners = {0, files.owner(site.spool_dir)[0], os.stat(site.spool_dir).st_uid}
    # A file that is being linked to its name, or whose writer was killed then, has a temporary name as well.
    linked = {(entry.about.st_dev, entry.about.st_ino) for entry in site.entries if entry.is_temporary}
    for entry in site.entries:
        if (entry.about.st_dev, entry.about.st_ino) in linked:
            continue
        if (strangeness := _strangeness(entry, owners)) is not None:
            aside = quoted(os.path.join(os.path.dirname(site.spool_dir), f"strange-{entry.name}"))
            problem = f"{printable(entry.path)} {strangeness}: spoolkit ignores it"
            found.append(Finding("foreign-file", problem, f"mv -n {quoted(entry.path)} {aside}", "warning"))
    yield from limit_findings(found)


def _strangeness(entry: Entry, owners: set[int]) -> str | None:
    """Why our readers ignore the entry; ``None`` where they do not."""
    if (entry.folder is None and entry.name in places.NAMES) or (
        entry.folder == later.FOLDER and is_number(entry.name)
    ):
        return None if entry.kind == stat.S_IFDIR else "is not a directory, but should be one"
    if entry.folder in _WITH_FOLDERS and entry.kind == stat.S_IFDIR:
        return None if entry.folder != later.FOLDER else "is a directory"
    if entry.place is not None:
        is_pipe = entry.folder == waiting.FOLDER or (entry.folder, entry.name) == (later.FOLDER, later.PIPE)
        if entry.kind != (stat.S_IFIFO if is_pipe else stat.S_IFREG):
            return f"is {_KINDS.get(entry.kind, 'not a file')}"
        if entry.about.st_nlink > 1:
            return "has another name elsewhere (a hard link)"
        if entry.about.st_uid not in owners:
            return f"belongs to {files.user_name(entry.about.st_uid)}"
    elif entry.is_job and entry.about.st_size > spoolfile.MAX_SIZE:
        return f"has {entry.about.st_size} bytes, more than a spooler can read"
    elif entry.is_job and entry.about.st_nlink > 1:
        return "has another name (a hard link)"
    return None


def _copies(site: Site) -> Iterator[Finding]:
    by_id: dict[str, list[str]] = {}
    for job in site.jobs():
        # Whatever a copy has after the id (".bak", "-2"), uWSGI takes it for a job.
        id = job.name.removeprefix(spoolfile.PREFIX)[:32]
        if spoolfile.is_id(id):
            by_id.setdefault(id, []).append(job.path)
    found = []
    for paths in by_id.values():
        # Still: while the entries were read, the job may have been moved to the folder of delayed jobs, or from there.
        if len(paths) > 1 and all(map(os.path.lexists, paths)):
            original, copy = sorted(paths, key=lambda path: (len(path), path))[:2]
            problem = f"{printable(copy)} is a copy of {printable(original)}: the job runs from only one of them"
            found.append(Finding("copied-job", problem, f"rm {quoted(copy)}", "warning"))
    yield from limit_findings(found)


def _stray_file(site: Site) -> Iterator[Finding]:
    limit = site.now - files.STRAY_AGE
    if strays := [entry for entry in site.entries if entry.is_temporary and entry.about.st_ctime < limit]:
        problem = f"unfinished files of calls that failed: {len(strays)}, such as {printable(strays[0].path)}"
        remedy = f"find {quoted(site.spool_dir)} -maxdepth 3 -name '{spoolfile.TEMPORARY}*' -cmin +60 -delete"
        yield Finding("stray-file", problem, remedy, "warning")


def _staged_batch(site: Site) -> Iterator[Finding]:
    limit = site.now - files.STRAY_AGE - SWEEP_TIME
    if paths := sorted(
        entry.path
        for entry in site.entries
        if entry.folder == batches.FOLDER and entry.kind == stat.S_IFDIR and entry.about.st_mtime < limit
    ):
        problem = (
            f"batches whose files nobody has moved to where they run, or removed: {len(paths)}, such as "
            f"{printable(paths[0])}"
        )
        yield Finding("batch", problem, START_COMMAND, "warning")


def _many_files(site: Site) -> Iterator[Finding]:
    for folder, count in Counter(entry.folder for entry in site.entries).items():
        if count > MAX_ENTRIES:
            path = site.spool_dir if folder is None else os.path.join(site.spool_dir, folder)
            problem = f"{printable(path)} holds more than {MAX_ENTRIES} files: the others were not examined or counted"
            yield Finding("many-files", problem, "flask spool stats", "warning")


def _held_job(site: Site) -> Iterator[Finding]:
    found = held.leftovers(site.spool_dir)
    paths: list[str] = []
    for path in (*found.in_outbox, *found.committed):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ctime < site.now - HELD_TIME:
                paths.append(path)
    if paths:
        minutes = f"{HELD_TIME / 60:.0f} minutes"
        problem = (
            f"jobs whose call waited for a commit, which is over for {minutes}, and that are neither accepted nor "
            f"deleted: {len(paths)}, such as {printable(paths[0])}"
        )
        yield Finding("held-job", problem, "flask spool run  # its log says what is in the way", "warning")


def _dead_job(site: Site) -> Iterator[Finding]:
    if paths := dead.paths(site.spool_dir):
        problem = f"dead jobs that nobody has retried or purged: {len(paths)}"
        remedy = "flask spool dead  # then flask spool show ID, and flask spool retry ID"
        yield Finding("dead-job", problem, remedy, "warning")


CHECKS: tuple[Check, ...] = (
    *(
        _permissions,
        _priority_folder,
        _foreign_file,
        _strange_entry,
        _copies,
        _stray_file,
        _staged_batch,
        _many_files,
        _held_job,
        _dead_job,
    ),
)
