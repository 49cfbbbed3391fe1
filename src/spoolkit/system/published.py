"""Which spool directory serves which code, as the last spooler published it for other processes of its user.

A cron script that imports only the tasks knows neither the application's configuration nor the server's environment.
It knows where its code lies; so each spooler leaves a small file for the folder that its tasks come from.
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

MOST = 1000
"""Files that are looked at to remove those of folders that are gone."""


def publish(folders: Iterable[str], spool: str, default: str) -> None:
    """Say that ``spool`` serves the code in ``folders``.

    Where it is the folder's own ``default``, nothing needs to be said. Never raises ``OSError``.
    """
    with contextlib.suppress(OSError, KeyError):
        kept = _folder()
        for folder in folders:
            path = os.path.join(kept, _name(folder))
            if os.path.realpath(os.path.join(folder, default)) == spool:
                files.remove(path)
                continue
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            files.make_folder(kept)
            if _is_ours(kept):
                files.write(path, json.dumps({"code": folder, "spool": spool}).encode())
        _forget_gone(kept)


def find(folder: str) -> str | None:
    """The spool directory that serves the code in ``folder``; ``None`` where none was published by this user."""
    try:
        kept = _folder()
        if not _is_ours(kept):
            return None
        for known in dict.fromkeys((folder, os.path.realpath(folder))):
            content = _read(os.path.join(kept, _name(known)))
            # Never into another user's directory, whose owner would have the jobs.
            if content and content[0] == known and files.owner(content[1])[0] == os.geteuid():
                return content[1]
    except (OSError, KeyError):
        pass
    return None


def _folder() -> str:
    """Where this user's files lie. By the user, not by ``$HOME``: uWSGI keeps root's when it gives up being root."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return os.path.join(state, "spoolkit")
    home = pwd.getpwuid(os.geteuid()).pw_dir
    if _is_ours(home):
        return os.path.join(home, ".local", "state", "spoolkit")
    return f"/var/tmp/spoolkit-{os.geteuid()}"  # noqa: S108 - looked at only where it is this user's alone


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


def _forget_gone(kept: str) -> None:
    for name in os.listdir(kept)[:MOST]:
        content = _read(os.path.join(kept, name))
        if content is None or not all(map(os.path.isdir, content)):
            files.remove(os.path.join(kept, name))
