"""What must be put right in a spool directory before a spooler takes its first job there?"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator

from spoolkit.admin import keys
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import chunks, dead, places, spoolers, spoolfile
from spoolkit.system import clock, files, log

HEADER_TIME = 60.0
"""Seconds after which a file without a full header is no longer being written."""

TIDIED = "tidied"
"""The file in ``spoolers/`` that a spooler has locked while it tidies the directory; its time is when that was done."""

MAX_WAIT = 10.0
"""Seconds that a spooler waits for another one that tidies the directory; then it does so itself."""


def tidy(spool_dir: str) -> None:
    """Remove files whose writers died, and move those to the dead letters that uWSGI would delete unrun.

    Of several spoolers that start together, one does it, and the others wait for it: for 100,000 files that is a
    second.

    Only for a process that runs no job: this opens the files, and closing its own job's file would drop its lock.
    """
    with _one_at_a_time(spool_dir) as is_tidy:
        if not is_tidy:
            spoolfile.sweep(spool_dir)
            dead.sweep(spool_dir)
            chunks.sweep(spool_dir)
            for place in places.PLACES:
                if not place.spool_files:
                    files.sweep(os.path.join(spool_dir, place.name))
            _set_unreadable_files_aside(spool_dir)
            keys.sweep(spool_dir)
            _check_links(spool_dir)


def _check_links(spool_dir: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full, for example
        if not files.has_links(os.path.join(spool_dir, spoolers.FOLDER)):
            log.error("%s is on a file system without hard links: periodic tasks do not run there", spool_dir)


@contextlib.contextmanager
def _one_at_a_time(spool_dir: str) -> Iterator[bool]:
    """Wait until no other spooler tidies the directory. Yields whether one has done so meanwhile."""
    folder = os.path.join(spool_dir, spoolers.FOLDER)
    try:
        files.make_folder(folder)
        fd = files.open_or_create(os.path.join(folder, TIDIED))
    except OSError:  # a full disk, for example
        yield False
        return
    try:
        before, until = os.fstat(fd).st_mtime_ns, time.monotonic() + MAX_WAIT
        while not files.try_lock(fd) and time.monotonic() < until:
            time.sleep(0.02)
        is_tidy = os.fstat(fd).st_mtime_ns != before
        yield is_tidy
        if not is_tidy:
            # Not earlier: a spooler that was killed meanwhile has tidied nothing. By our clock: the kernel may give the
            # time of its last tick, which is the one before.
            os.utime(fd, ns=spoolfile.ns_of(clock.now()))
    finally:
        os.close(fd)


def _set_unreadable_files_aside(spool_dir: str) -> None:
    # uWSGI's C code unlinks a file whose header promises more than there is, or whose packet breaks off, before any
    # Python sees it (spooler_manage_task in core/spooler.c, uwsgi_python_spooler in the Python plugin), and fails on
    # others at every scan. It reads a file whole, and exits if there is no memory for that.
    for path in spoolfile.scanned(spool_dir):
        if _is_readable(path):
            continue
        # With the lock of a spooler: uWSGI itself writes files of other libraries under their final names.
        with spoolfile.claim(path) as fd:
            if fd is None:
                continue
            try:
                os.path.basename(path).encode()
                packet.load(os.pread(fd, packet.HEAD_SIZE, 0))
                if (size := os.fstat(fd).st_size) > spoolfile.MAX_SIZE:
                    raise DecodeError(f"the file has {size} bytes; a job has at most {spoolfile.MAX_SIZE}")
            except (DecodeError, UnicodeEncodeError) as error:
                about = os.fstat(fd)
                if about.st_size >= 4 or about.st_ctime < clock.now() - HEADER_TIME:
                    moved_to = dead.quarantine(path, spool_dir, reason=str(error))
                    log.error("a spool file that cannot be read was moved to %s: %s", moved_to, error)


def _is_readable(path: str) -> bool:
    """Whether a file of ordinary size is whole, as nearly all are. This is cheap: there may be 100,000 of them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(fd, packet.HEAD_SIZE + 1)
        finally:
            os.close(fd)
        packet.load(data)
    except (OSError, DecodeError):
        return False
    return len(data) <= packet.HEAD_SIZE and path.rpartition(os.sep)[2].isascii()


def make_private(spool_dir: str) -> None:
    """Let only its owner use the spool directory, because a file written there is code that is run.

    The folder of dead letters is made as well.
    """
    about = os.stat(spool_dir)
    if (
        about.st_uid == os.geteuid()
        and stat.S_IMODE(about.st_mode) & 0o077
        and spoolfile.may_become_spool_directory(spool_dir)
    ):
        os.chmod(spool_dir, 0o700)
    # Now: on a full disk there would be no room for it, and a dead job's file would come up at every scan.
    files.make_folder(os.path.join(spool_dir, dead.FOLDER))
