"""Which private spool directory does a test run use instead of the site's own?

A test that signs a user up must not put a welcome mail into the spool directory of the site, where a spooler would send
it. So in a process that has imported pytest, each spool directory and each store outside the machine's temporary folder
is replaced by a mirror inside a folder that belongs to this test run and is removed at its end.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile

# Chosen at import, so that a process which a test forks, such as a live server, uses the same folder as the test.
_OWNER = os.getpid()
_ROOT = os.path.join(os.path.realpath(tempfile.gettempdir()), f"spoolkit-tests-{secrets.token_hex(8)}")


def is_test_run() -> bool:
    """Whether tests run in this process. Never in a uWSGI process: a server that a test starts is a real one."""
    return "pytest" in sys.modules and not hasattr(sys.modules.get("uwsgi"), "masterpid")


def private(path: str) -> str:
    """Return the path to use in this process instead of ``path``.

    Args:
        path: An absolute path without symbolic links.

    Returns:
        In a test run the mirror of ``path``, unless it is in the temporary folder; else ``path`` itself.
    """
    if not is_test_run() or _is_within(path, os.path.realpath(tempfile.gettempdir())):
        return path
    if not os.path.isdir(_ROOT):
        os.mkdir(_ROOT, mode=0o700)
        atexit.register(_remove)
    return os.path.join(_ROOT, path.lstrip(os.sep))


def private_directory(path: str) -> str:
    """Return what :func:`private` returns, for a directory: its mirror is created."""
    directory = private(path)
    if directory != path:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def is_private(path: str) -> bool:
    """Whether ``path`` is in the private folder of this test run."""
    return _is_within(path, _ROOT)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _remove() -> None:
    if os.getpid() == _OWNER:  # not in a child that a test forked
        shutil.rmtree(_ROOT, ignore_errors=True)
