"""A spool directory is put in order before this process takes its first job there."""

from __future__ import annotations

import os
import stat

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import dead, spoolfile
from spoolkit.system import clock, files, log

HEADER_TIME = 60.0
"""Seconds after which a file without a full header can have no writer any more."""


def vet(directory: str) -> None:
    """Set aside what uWSGI would delete unrun or trip over for ever. Only before this process holds any job.

    uWSGI's C code unlinks a file whose header promises more than there is, or whose packet breaks off, before any
    Python sees it (``spooler_manage_task`` in core/spooler.c, ``uwsgi_python_spooler`` in the Python plugin). It reads
    a file whole, and exits where there is no memory for that.
    """
    for path in spoolfile.pending(directory):
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
                    kept = dead.quarantine(path, directory, reason=str(error))
                    log.error("a spool file that cannot be read was set aside, as %s: %s", kept, error)


def close_to_others(directory: str) -> None:
    """Whoever can write here has code run: the directory is its owner's alone. A folder for the dead is made."""
    about = os.stat(directory)
    if (
        about.st_uid == os.geteuid()
        and stat.S_IMODE(about.st_mode) & 0o077
        and spoolfile.may_become_spool_directory(directory)
    ):
        os.chmod(directory, 0o700)
    # Now: on a full disk there would be no room for it, and what is dead would come up at every scan.
    files.make_folder(os.path.join(directory, dead.FOLDER))
