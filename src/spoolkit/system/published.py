"""Which spool directory serves the code in a given folder? The last spooler has published it for its user's processes.

A cron script that imports only the tasks knows neither the application's configuration nor the server's environment.
But it knows the folder of its code; so each spooler writes a small file for each folder that its tasks come from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Iterable

from spoolkit.system import files

MAX_CHECKED = 1000
"""How many published files are read, at most, to remove those whose folders no longer exist."""


def publish(folders: Iterable[str], spool: str, default: str) -> None:
    """Publish that a spool directory serves the code in these folders. Never raises ``OSError``.

    Args:
        folders: The folders from which the tasks come.
        spool: The spool directory, as an absolute path.
        default: The default spool directory relative to each folder: for that one no file is needed.
    """
    with contextlib.suppress(OSError, KeyError):
        state_folder = _folder()
        for folder in folders:
            path = os.path.join(state_folder, _name(folder))
            if os.path.realpath(os.path.join(folder, default)) == spool:
                files.remove(path)
                continue
            os.makedirs(os.path.dirname(state_folder), mode=0o700, exist_ok=True)
            files.make_folder(state_folder)
            if _is_ours(state_folder):
                files.write(path, json.dumps({"code": folder, "spool": spool}).encode())
        _remove_stale(state_folder)


def find(folder: str) -> str | None:
    """Return the spool directory that serves the code in ``folder``; ``None`` if this user has published none."""
    try:
        state_folder = _folder()
        if not _is_ours(state_folder):
            return None
        for alias in dict.fromkeys((folder, os.path.realpath(folder))):
            content = _read(os.path.join(state_folder, _name(alias)))
            # Never a directory of another user, who would get the jobs.
            if content and content[0] == alias and files.owner(content[1])[0] == os.geteuid():
                return content[1]
    except (OSError, KeyError):
        pass
    return None


def _folder() -> str:
    """The folder of this user's files. Not by ``$HOME``: uWSGI keeps root's ``$HOME`` when it changes its user."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return os.path.join(state, "spoolkit")
    home = pwd.getpwuid(os.geteuid()).pw_dir
    if _is_ours(home):
        return os.path.join(home, ".local", "state", "spoolkit")
    return f"/var/tmp/spoolkit-{os.geteuid()}"  # noqa: S108 - used only if it belongs to this user alone


def _is_ours(folder: str) -> bool:
    try:
        about = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022


def _name(folder: str) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]


def _read(path: str) -> tuple[str, str] | None:
    try:
        content = json.loads(files.read(path) or b"")
        code, spool = content["code"], content["spool"]
    except (ValueError, KeyError, TypeError):
        return None
    return (code, spool) if isinstance(code, str) and isinstance(spool, str) and os.path.isabs(spool) else None


def _remove_stale(state_folder: str) -> None:
    for name in os.listdir(state_folder)[:MAX_CHECKED]:
        content = _read(os.path.join(state_folder, name))
        if content is None or not all(map(os.path.isdir, content)):
            files.remove(os.path.join(state_folder, name))
