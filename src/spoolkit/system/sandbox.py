"""In a test run, spool directories outside the machine's temporary folder are replaced by private ones.

A test that signs a user up must not put a welcome mail into the spool directory of the site, where a spooler would send
it. So where pytest is among the modules of this process, each directory (and each store) that does not lie in the
temporary folder is mirrored within one that belongs to this test run and goes away with it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile

# Chosen at import: a process that a test forks, such as a live server, then uses the same one as the test.
_OWNER = os.getpid()
_ROOT = os.path.join(os.path.realpath(tempfile.gettempdir()), f"spoolkit-tests-{secrets.token_hex(8)}")


def is_test_run() -> bool:
    """Whether tests run in this process. A uWSGI process is never one: a server that a test starts is real."""
    return "pytest" in sys.modules and not hasattr(sys.modules.get("uwsgi"), "masterpid")


def private(path: str) -> str:
    """Where to keep, in this process, what belongs at ``path``.

    Args:
        path: An absolute path without symbolic links.

    Returns:
        The path itself; in a test run, unless it lies in the temporary folder, its mirror in the private folder.
    """
    if not is_test_run() or _is_within(path, os.path.realpath(tempfile.gettempdir())):
        return path
    if not os.path.isdir(_ROOT):
        os.mkdir(_ROOT, mode=0o700)
        atexit.register(_remove)
    return os.path.join(_ROOT, path.lstrip(os.sep))


def private_directory(path: str) -> str:
    """The same for a directory, whose mirror is made."""
    directory = private(path)
    if directory != path:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def is_private(path: str) -> bool:
    """Whether ``path`` is such a mirror."""
    return _is_within(path, _ROOT)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _remove() -> None:
    if os.getpid() == _OWNER:  # not in a child that a test forked
        shutil.rmtree(_ROOT, ignore_errors=True)
