"""Can the machine be trusted with the spool directory: its clock, its file systems, its disks?

Also the kernel's answers that other checks need: who holds a lock, and in which state a process is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator, Sequence

from spoolkit import times
from spoolkit.doctor.findings import Check, Entry, Finding, Severity, Site, printable, quoted
from spoolkit.spooldir import spoolers, spoolfile
from spoolkit.system import clock, disk, files

# On these, locks, renames and the clock belong to another machine.
# fmt: off
NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.ceph-fuse",
}
# On these, a host and its guests may each have locks of their own.
SHARED_FILE_SYSTEMS = {"9p", "virtiofs", "vboxsf", "prl_fs", "fuse.vmhgfs-fuse", "fuse.grpcfuse", "fakeowner"}
# fmt: on

MOUNTS = "/proc/self/mountinfo"

_FLOCK = "hhqqi"
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid."""


def _clock(site: Site) -> Iterator[Finding]:
    before = clock.now()
    with tempfile.TemporaryFile(dir=site.spool_dir, prefix=spoolfile.TEMPORARY) as file:
        made = os.fstat(file.fileno()).st_mtime
    # On a machine that is busy, seconds may pass in between.
    skew = made - min(max(made, before), clock.now())
    if abs(skew) > 1:
        path = printable(site.spool_dir)
        problem = f"the file system of {path} has a clock that differs by {skew:+.1f} s from this machine's"
        yield Finding("clock", problem, "chronyc makestep  # on both machines")
    if far := [job.path for job in site.jobs() if job.about.st_mtime > site.now + times.MAX_AHEAD]:
        problem = f"jobs that are due in more than ten years: {len(far)}, such as {printable(far[0])}"
        yield Finding("clock", problem, f"touch {quoted(far[0])}  # to run it now", "warning")
    if ahead := [entry for entry in site.entries if entry.is_priority and entry.about.st_mtime > site.now + 1]:
        path = printable(ahead[0].path)
        problem = f"the priority folder {path} was modified in the future: uWSGI does not scan it before that time"
        yield Finding("clock", problem, f"touch {quoted(ahead[0].path)}")


def _file_system(site: Site) -> Iterator[Finding]:
    for path, setting in site.written_directories().items():
        if (kind := _file_system_type(path)) in NETWORK_FILE_SYSTEMS | SHARED_FILE_SYSTEMS:
            problem = f"{printable(path)} is on {kind}, which other machines use too: file locks may not work there"
            severity: Severity = "error" if kind in NETWORK_FILE_SYSTEMS else "warning"
            yield Finding("file-system", problem, f"{setting}=/var/spool/app  # on a local disk", severity)


def _hard_links(site: Site) -> Iterator[Finding]:
    with contextlib.suppress(OSError):  # no spooler was ever started, or the disk is full
        if not files.has_links(os.path.join(site.spool_dir, spoolers.FOLDER)):
            problem = f"{printable(site.spool_dir)} is on a file system without hard links: periodic tasks do not run"
            yield Finding("hard-links", problem, "SPOOLKIT_SPOOL=/var/spool/app  # on ext4 or XFS, for example")


def _disk(site: Site) -> Iterator[Finding]:
    for path in {os.stat(path).st_dev: path for path in reversed(site.written_directories())}.values():
        for shortage in disk.shortages(path):
            problem = f"the disk of {printable(path)} has {shortage.left} left"
            yield Finding("disk", problem, f"df {shortage.option} {quoted(path)}", "warning")


CHECKS: tuple[Check, ...] = (_clock, _file_system, _hard_links, _disk)


def _file_system_type(path: str) -> str:
    """The type of the file system that ``path`` is on."""
    best, kind = "", ""
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            # Of two file systems on one mount point, the later one covers the other.
            if len(point) >= len(best) and f"{path}/".startswith(os.path.join(point, "")):
                best, kind = point, fields[fields.index("-") + 1]
    return kind


# Locks


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[int | None]:
    """A descriptor to read the regular file ``path``; ``None`` where there is none that may be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None  # gone, or not readable: another check reports that
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def lock_holder(fd: int) -> int | None:
    """The pid of the process that holds uWSGI's lock on the file; ``None`` if the file is not locked.

    0 or -1: the process is in another container or on another host, and has no pid here.
    """
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    return None if kind == fcntl.F_UNLCK else int(pid)


def lock_holders(jobs: Sequence[Entry]) -> Iterator[tuple[Entry, int | None]]:
    """Each job whose file can be opened, with the process that has locked it."""
    for job in jobs:
        with open_regular(job.path) as fd:
            if fd is not None:
                yield job, lock_holder(fd)


# Processes


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by SIGSTOP, Ctrl-Z or a debugger."""
    return process_status(pid).get("State", "")[:1] in ("T", "t")


def effective_uid(pid: int) -> int | None:
    """The user that the process runs as; ``None`` where it is gone."""
    # Not the owner of /proc/<pid>: for a process that has given up root, that is root.
    return int(uids.split()[1]) if (uids := process_status(pid).get("Uid")) else None


def process_status(pid: int) -> dict[str, str]:
    """The fields of ``/proc/<pid>/status``; none where the process is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="backslashreplace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    return {}
