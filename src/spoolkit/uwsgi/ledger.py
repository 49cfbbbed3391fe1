"""Which timers, crons and file monitors does the running uWSGI have? The ledger is a file that all processes share.

uWSGI does not report what its tables hold. So the process that adds an entry writes it into this file, where the other
processes find it. The file is valid as long as uWSGI's tables exist: through chain reloads, until uWSGI is restarted or
replaces its whole process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spoolkit.system import files, process

SIGNALS = range(256)
"""The numbers of uWSGI's signals."""

_PREFIX = "timers."

Key = tuple[Any, ...]
"""What identifies an entry across processes and reloads: the table, the schedule and the function, for example."""


@dataclass(frozen=True)
class Entry:
    """An entry of one of uWSGI's tables."""

    #: The number of its signal, 0 to 255.
    number: int
    #: Whether the caller must add it to uWSGI's table.
    is_new: bool


class Ledger:
    """The entries of one running uWSGI.

    Lines are only appended. A line that a killed process left unfinished is skipped.

    Args:
        path: The file.
        stamp: Identifies this uWSGI: a file with another stamp is overwritten.
    """

    def __init__(self, path: str, stamp: str) -> None:
        self._path = path
        self._stamp = stamp
        self._cached_version: tuple[int, int] | None = None
        self._numbers: set[int] = set()

    def numbers(self) -> set[int]:
        """Return the signal numbers in the tables, and those of :meth:`reserved`. Raises ``OSError``."""
        # Cached: for each timer uwsgidecorators asks for every number from 0 upwards.
        try:
            about = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return set()
        if self._cached_version != (version := (about.st_mtime_ns, about.st_size)):
            lines = _lines(self._path)
            self._numbers = set(self._entries(lines).values()) | self._reserved(lines)
            self._cached_version = version
        return self._numbers

    def reserved(self) -> set[int]:
        """Return the signals that the master registered before the first HTTP process started. Raises ``OSError``."""
        return self._reserved(_lines(self._path))

    def reserve(self, numbers: set[int]) -> None:
        """Create the ledger with these numbers as :meth:`reserved`, if it does not exist yet. Raises ``OSError``."""
        with self._locked(numbers):
            pass

    @contextlib.contextmanager
    def entry(self, key: Key, wanted: int, *, fixed: bool, taken: set[int]) -> Iterator[Entry]:
        """Find or create the entry for ``key``.

        Within the context no other process can create an entry. The caller must add a new one to uWSGI's table there.

        Args:
            key: What identifies the entry across processes and reloads.
            wanted: The signal number for a new entry.
            fixed: Whether the application chose that number itself.
            taken: Numbers that this process uses for something else.

        Raises:
            OSError: The ledger cannot be written.
            ValueError: All 256 signal numbers are in use.
        """
        with self._locked(set()) as file:
            lines = _parse(file.read())
            known = self._entries(lines)
            text = json.dumps(key)
            if text in known:
                yield Entry(known[text], is_new=False)
                return
            used = {line["number"] for line in lines if "number" in line} | self._reserved(lines)
            number = wanted if fixed or wanted not in used else min(set(SIGNALS) - used - taken, default=None)
            if number is None:
                raise ValueError("all 256 signals of uWSGI are in use: restart uWSGI, which empties its tables")
            # Two lines: after a kill between them it is unknown whether uWSGI has the entry. It keeps its number, which
            # calls no function, and the key gets another number.
            _append(file, {"number": number})
            yield Entry(number, is_new=True)
            _append(file, {"number": number, "key": text})

    def record_ineffective_target(self, function: str, target: str) -> None:
        """Record for the doctor that this process registered ``function`` with a target that cannot work."""
        about = {"function": function, "target": target}
        with self._locked(set()) as file:
            _append(file, {**about, "pid": os.getpid(), "identity": process.own().decode()})

    @contextlib.contextmanager
    def _locked(self, reserved: set[int]) -> Iterator[Any]:
        folder = os.path.dirname(self._path)
        files.make_folder(folder)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._is_ours(_parse(file.read())):
                file.truncate(0)
                _append(file, {"stamp": self._stamp, "reserved": sorted(reserved)})
                _sweep(folder)
            file.seek(0)
            yield file

    def _is_ours(self, lines: list[dict[str, Any]]) -> bool:
        return bool(lines) and lines[0].get("stamp") == self._stamp

    def _entries(self, lines: list[dict[str, Any]]) -> dict[str, int]:
        return {line["key"]: line["number"] for line in lines if "key" in line} if self._is_ours(lines) else {}

    def _reserved(self, lines: list[dict[str, Any]]) -> set[int]:
        return set(lines[0].get("reserved", ())) if self._is_ours(lines) else set()


def path(directory: str, master_pid: int) -> str:
    """Return the path of the ledger of the uWSGI with this master, whose first spool directory is ``directory``."""
    return os.path.join(directory, files.SPOOLERS, f"{_PREFIX}{master_pid}")


def ineffective_targets(directory: str, master_pid: int) -> list[tuple[str, str]]:
    """Return the functions that living processes registered with a target that cannot work, each with its target."""
    found = set()
    with contextlib.suppress(OSError):
        for line in _lines(path(directory, master_pid)):
            if "target" in line and process.is_alive(line["pid"], line["identity"].encode()):
                found.add((line["function"], line["target"]))
    return sorted(found)


def _lines(path: str) -> list[dict[str, Any]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    with open(fd, "rb") as file:
        return _parse(file.read())


def _parse(data: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _append(file: Any, line: dict[str, Any]) -> None:
    # Begins with a line break: the line before may be unfinished.
    data = b"\n%s\n" % json.dumps(line).encode()
    if file.write(data) != len(data):
        raise OSError("the disk is full")


def _sweep(folder: str) -> None:
    """Remove the ledgers of masters that no longer run."""
    for name in os.listdir(folder):
        pid = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and pid.isascii() and pid.isdigit() and process.started(int(pid)) is None:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
