"""The options of the running uWSGI, for who looks from outside: each spooler leaves them in its directory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spoolkit.system import files, process

PATH = os.path.join("spoolers", "instance.json")

LIMIT = 1024 * 1024
"""Bytes of the file that are read."""

IMPORTS = frozenset(
    f"{where}-{how}" for where in ("spooler", "shared") for how in ("import", "pyimport", "py-import", "python-import")
)
"""Options by which a spooler imports modules where ``lazy-apps`` keeps it from inheriting them."""

MODULES = ("module", "wsgi")
FILES = ("wsgi-file", "file")
APPLICATION = frozenset({*MODULES, *FILES, "callable", "mount", "single-interpreter"})
"""Options that say which applications are served; see served.py."""

# Only what the doctor looks at: any other option may hold a password.
# fmt: off
OPTIONS = IMPORTS | APPLICATION | {
    "master", "enable-threads", "threads", "die-on-term", "hook-master-start", "hook-post-fork", "hook-accepting",
    "import", "processes", "workers", "skip-atexit", "lazy", "lazy-apps", "buffer-size",
    "idle", "cheap", "die-on-idle",
    "spooler", "spooler-external", "spooler-frequency", "spooler-freq", "spooler-processes", "spooler-ordered",
    "spooler-harakiri", "socket", "uwsgi-socket", "protocol", "socket-protocol", "http", "https", "allowed-modifiers",
}
# fmt: on


@dataclass(frozen=True)
class Instance:
    """A uWSGI: a running one, or one that an ini file describes.

    ``source``      where the options are from, for messages
    ``version``     such as ``2.0.31``; empty if unknown
    ``options``     values by name, in order; where a name was given repeatedly, a running uWSGI tells only the last
    ``master_pid``  0 where nothing is known to run
    ``directories``  the spool directories that a running one serves, absolute
    """

    source: str
    version: str
    options: Mapping[str, Sequence[str]]
    master_pid: int = 0
    directories: Sequence[str] = ()

    def of(self, *names: str) -> list[str]:
        """The values of these options."""
        return [value for name in names for value in self.options.get(name, ())]

    def on(self, *names: str) -> bool:
        """Whether one of these flags is set, as uWSGI reads it: by its last value, of which an empty one is true."""
        last = [self.of(name)[-1] for name in names if self.of(name)]
        return any(value.lower() not in ("false", "off", "no", "0") for value in last)


def publish(
    directory: str, options: Mapping[str, object], master_pid: int, version: str, directories: Sequence[str] = ()
) -> None:
    """Leave the options of this uWSGI in the spool directory. Never raises ``OSError``: jobs run without."""
    path = os.path.join(directory, PATH)
    with contextlib.suppress(OSError):
        content = {
            "master_pid": master_pid,
            "identity": process.identity(master_pid).decode(),
            "version": version,
            "directories": list(directories),
            "options": {name: _texts(name, value) for name, value in options.items() if name in OPTIONS},
        }
        files.make_folder(os.path.dirname(path))
        files.write(path, json.dumps(content, indent=1).encode())


def read(directory: str) -> Instance | None:
    """The uWSGI that serves the directory; ``None`` where none has said so, or where it is gone."""
    try:
        content = json.loads(files.read(os.path.join(directory, PATH), LIMIT) or b"")
        pid = int(content["master_pid"])
        if not process.is_alive(pid, content["identity"].encode()):
            return None
        options = {str(name): tuple(map(str, values)) for name, values in content["options"].items()}
        directories = [str(path) for path in content.get("directories", [])]
        return Instance(f"the running uWSGI (pid {pid})", str(content["version"]), options, pid, directories)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _texts(name: str, value: object) -> list[str]:
    texts = [_text(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    # A hook may be a whole command line, with whatever secret it takes.
    return [text for text in texts if not name.startswith("hook-") or text.startswith("unix_signal:")]


def _text(value: object) -> str:
    if value is True:
        return "true"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
