"""What must be put right in a spool directory before a spooler takes its first job there?"""

from __future__ import annotations

import os
import stat

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import dead, spoolfile
from spoolkit.system import clock, files, log

HEADER_TIME = 60.0
"""Seconds after which a file without a full header is no longer being written."""


def set_unreadable_files_aside(spool_dir: str) -> None:
    """Move the files to the dead letters that uWSGI would delete unrun, or fail on at every scan.

    uWSGI's C code unlinks a file whose header promises more than there is, or whose packet breaks off, before any
    Python sees it (``spooler_manage_task`` in core/spooler.c, ``uwsgi_python_spooler`` in the Python plugin). It reads
    a file whole, and exits if there is no memory for that.

    Only for a process that runs no job: this opens the files, and closing its own job's file would drop its lock.
    """
    for path in spoolfile.scanned(spool_dir):
        with spoolfile.claim(path) as fd:
            if fd is None:
                continue
            try:
                os.path.basename(path).encode()
                packet.load(os.pread(fd, 4 + packet.LIMIT, 0))
                if (size := os.fstat(fd).st_size) > spoolfile.MAX_SIZE:
                    raise DecodeError(f"the file has {size} bytes; a job has at most {spoolfile.MAX_SIZE}")
            except (DecodeError, UnicodeEncodeError) as error:
                about = os.fstat(fd)
                if about.st_size >= 4 or about.st_ctime < clock.now() - HEADER_TIME:
                    moved_to = dead.quarantine(path, spool_dir, reason=str(error))
                    log.error("a spool file that cannot be read was moved to %s: %s", moved_to, error)


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
