"""What signs links where the site has no ``SECRET_KEY``? A random key in ``signing/``, which is made once."""

from __future__ import annotations

import os

from spoolkit.errors import SpoolUnavailableError
from spoolkit.system import files

FOLDER = "signing"

KEY = "key"


def read(spool_dir: str) -> bytes | None:
    """Return the key; ``None`` if there is none, or this process may not read it."""
    try:
        return files.read(_path(spool_dir), linked=True) or None
    except OSError:
        return None


def read_or_make(spool_dir: str) -> bytes:
    """Return the key, which is made if there is none.

    Raises:
        SpoolUnavailableError: This process may neither read nor make it.
    """
    if (known := read(spool_dir)) is not None:
        return known
    path = _path(spool_dir)
    try:
        files.check_user(spool_dir)
        files.make_folder(os.path.dirname(path))
        if made := files.write_once(path, os.urandom(32).hex().encode()):
            return made
        reason = "it is no regular file of the directory's owner"
    except OSError as error:
        reason = error.strerror or str(error)
    raise SpoolUnavailableError(
        f"{path}, the key that signs links to progress bars, cannot be made: {reason}. Give the site a SECRET_KEY",
        directory=spool_dir,
    )


def _path(spool_dir: str) -> str:
    return os.path.join(spool_dir, FOLDER, KEY)
