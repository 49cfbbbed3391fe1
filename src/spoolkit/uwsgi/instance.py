"""With which options does uWSGI run? Each spooler writes them into its spool directory, for processes outside uWSGI."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spoolkit.system import files, process

PATH = os.path.join(files.SPOOLERS, "instance.json")
"""The file, relative to the spool directory."""

LIMIT = 1024 * 1024
"""Size in bytes above which the file is not read."""

IMPORTS = frozenset(
    f"{where}-{how}" for where in ("spooler", "shared") for how in ("import", "pyimport", "py-import", "python-import")
)
"""Options by which a spooler imports modules: with ``lazy-apps`` it does not inherit them from the master."""

MODULES = ("module", "wsgi")
"""Options that name an application by its module."""

FILES = ("wsgi-file", "file")
"""Options that name an application by its file."""

APPLICATION = frozenset({*MODULES, *FILES, "callable", "mount", "single-interpreter"})
"""Options that say which applications are served; see ``served.py``."""

# Only what the doctor needs: any other option may hold a password.
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
    """A uWSGI instance: a running one, or one that an ini file describes."""

    #: Where the options come from, for messages.
    source: str
    #: The version of uWSGI, such as ``2.0.31``; empty if unknown.
    version: str
    #: The values by option, in order. Of a repeated option a running uWSGI reports only the last value.
    options: Mapping[str, Sequence[str]]
    #: The pid of the running master; 0 for an ini file.
    master_pid: int = 0
    #: The spool directories that a running uWSGI serves, as absolute paths.
    directories: Sequence[str] = ()

    def of(self, *names: str) -> list[str]:
        """Return the values of these options, all in one list."""
        return [value for name in names for value in self.options.get(name, ())]

    def on(self, *names: str) -> bool:
        """Whether any of these flags is set. As in uWSGI, the last value of a flag counts; an empty value is true."""
        last = [self.of(name)[-1] for name in names if self.of(name)]
        return any(value.lower() not in ("false", "off", "no", "0") for value in last)


def publish(
    directory: str, options: Mapping[str, object], master_pid: int, version: str, directories: Sequence[str] = ()
) -> None:
    """Write the options of this uWSGI into the spool directory. Never raises ``OSError``: jobs run without the file.

    Args:
        directory: The spool directory.
        options: The options as uWSGI reports them; only those in :data:`OPTIONS` are written.
        master_pid: The pid of uWSGI's master.
        version: The version of uWSGI.
        directories: All spool directories that this uWSGI serves.
    """
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
    """Return the uWSGI that serves the spool directory; ``None`` if none has published its options, or it is gone."""
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
    texts = [_text(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    # A hook may be a whole command line, with a secret among its arguments.
    return [text for text in texts if not name.startswith("hook-") or text.startswith("unix_signal:")]


def _text(value: object) -> str:
    if value is True:
        return "true"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
