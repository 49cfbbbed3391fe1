"""The SQLite file: its tables, how an older one is brought forward, and one connection per process.

WAL lets HTTP processes read while a spooler writes; each writing is one short transaction.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

from spoolkit.errors import StoreUnavailableError
from spoolkit.system import files, process

PATIENCE = 10.0
"""Seconds to wait for another process's transaction, each of which takes well under a millisecond."""

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id            TEXT PRIMARY KEY,
        task          TEXT NOT NULL,
        engine        TEXT NOT NULL,
        queue         TEXT,             -- the spool directory, where the call named one
        state         TEXT NOT NULL,    -- as in job.State
        attempt       INTEGER NOT NULL, -- how many were started
        base          INTEGER NOT NULL, -- how many before the last fresh count
        max_attempts  INTEGER,
        enqueued_at   REAL,             -- all times: unix seconds, UTC
        run_at        REAL,
        started_at    REAL,             -- of the last attempt
        finished_at   REAL,             -- once the job is done, dead, cancelled or lost
        file          TEXT,             -- the name of its file at the last claim
        pid           INTEGER,          -- who has it, and what tells that process from a later one
        identity      BLOB,
        cancel        INTEGER NOT NULL DEFAULT 0,
        progress      TEXT,             -- [done, total, note]
        error_type    TEXT,
        error_message TEXT,
        ending        TEXT,             -- of the last attempt that failed, as in job.Ending
        result_error  TEXT,
        result        BLOB,             -- the codec's bytes
        arguments     BLOB              -- the codec's bytes, if small
    );
    CREATE INDEX jobs_by_end ON jobs (state, finished_at) WHERE finished_at IS NOT NULL;
    CREATE TABLE events (
        job     TEXT NOT NULL,
        seq     INTEGER NOT NULL,
        time    REAL NOT NULL,
        kind    TEXT NOT NULL,          -- started, one of ENDINGS, or what a person did
        attempt INTEGER,
        seconds REAL,
        detail  TEXT,                   -- JSON: pid, or type, message and traceback
        log     TEXT,
        PRIMARY KEY (job, seq)
    ) WITHOUT ROWID;
    """,
    # Who looks for the jobs of processes that are gone must not read all that ever were.
    "CREATE INDEX jobs_of_processes ON jobs (pid, identity) WHERE engine <> 'spool' AND finished_at IS NULL",
    # Lists and counts must not read every row, each with its result.
    "CREATE INDEX jobs_by_state ON jobs (state, task, id)",
)
"""Each brings a file of the version before it forward. Never change one that was released: add another."""


class NewerSchemaError(Exception):
    """The file was written by a later version."""


class Database:
    """The SQLite file ``path``, made when it is first written to. May be used by all threads, and after a fork.

    Every use raises :class:`StoreUnavailableError` where the file is broken, locked for too long, or on a full disk.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened = _Opened()

    def read(self, sql: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """The rows of one query; none where there is no file yet."""
        if not self._exists():
            return []  # to look must make none
        with self._connected() as db:
            return db.execute(sql, values).fetchall()

    def _exists(self) -> bool:
        try:
            return _file(self.path) is not None
        except OSError as error:
            raise StoreUnavailableError(f"{self.path}: {error}", path=self.path) from error

    @contextlib.contextmanager
    def transaction(self, patience: float | None = None) -> Iterator[sqlite3.Connection]:
        """Within it, what is read stays true and what is written comes at once, or not at all.

        Args:
            patience: Seconds to wait for the transactions of other processes; ``None``: :data:`PATIENCE`.
        """
        if self._opened.pid == os.getpid():
            self._opened.look()
        with self._connected() as db:
            # IMMEDIATE: a transaction that reads first and then cannot get the lock to write would have to start over.
            if patience is not None:
                db.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            try:
                db.execute("BEGIN IMMEDIATE")
            finally:
                if patience is not None:
                    db.execute(f"PRAGMA busy_timeout = {int(PATIENCE * 1000)}")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._opened.pid != os.getpid():
            # A connection must not cross a fork. Not even closed: that would take the parent's locks for its own.
            _inherited.append(self._opened)
            self._opened = _Opened()
        opened = self._opened
        with opened.lock:
            if opened.is_lost:
                # Not by a fresh connection either: SQLite shares its locks among all connections of a process.
                reason = "a task closed the store's descriptors in this process"
                raise StoreUnavailableError(f"{self.path}: {reason}", path=self.path)
            try:
                # What was moved away must not be written on: all others look at the path.
                if opened.connection is None or opened.file != _file(self.path):
                    opened.close()
                    opened.connection = _connect(self.path)
                    opened.file = _file(self.path)
                    opened.descriptors = _descriptors(self.path)
            except (sqlite3.Error, OSError, NewerSchemaError) as error:
                raise StoreUnavailableError(f"{self.path}: {error}", path=self.path) from error
            try:
                yield opened.connection
            except sqlite3.Error as error:
                if "locked" not in str(error):
                    opened.close()  # the next use tries anew: a task may have closed its descriptors
                raise StoreUnavailableError(f"{self.path}: {error}", path=self.path) from error

    @property
    def is_lost(self) -> bool:
        """Whether a task was found to have closed the descriptors of this process's connection."""
        return self._opened.pid == os.getpid() and self._opened.is_lost

    def close(self) -> None:
        """Close this process's connection; the next call opens another."""
        if self._opened.pid == os.getpid():
            with self._opened.lock:
                self._opened.close()


class _Opened:
    """The connection of one process, for all its threads in turn."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None
        self.descriptors: dict[int, tuple[int, int] | None] = {}
        self.is_lost = False

    def look(self) -> None:
        """See whether the descriptors are still the connection's: other files may have their numbers."""
        if not self.is_lost:
            self.is_lost = any(process.file_of(fd) != file for fd, file in self.descriptors.items())

    def close(self) -> None:
        self.look()
        # Closed, it would close what has its descriptors' numbers now.
        if self.connection is not None and not self.is_lost:
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
            self.connection, self.descriptors = None, {}


_inherited: list[_Opened] = []


def _file(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def _descriptors(path: str) -> dict[int, tuple[int, int] | None]:
    """Those that SQLite writes by way of, each with its file."""
    ours = {_file(path), _file(f"{path}-wal")} - {None}
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            if (file := process.file_of(int(name))) in ours:
                found[int(name)] = file
    return found


def _connect(path: str) -> sqlite3.Connection:
    # Made by us, so that it is ours alone from its first byte; SQLite gives the files beside it the same mode, and, as
    # root, the same owner. Only
    # where there is none: to close a descriptor of a file that SQLite has open drops SQLite's locks.
    with contextlib.suppress(FileExistsError):
        os.close(files.create(path))
    db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        db.row_factory = sqlite3.Row
        _use_wal(db)
        # A power cut may cost the last moves, never the file. A job's own file is what must survive it.
        db.execute("PRAGMA synchronous = NORMAL")
        _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    # The one statement that does not wait for others: of several who turn a fresh file to WAL, some are refused.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _migrate(db: sqlite3.Connection) -> None:
    if _version(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # another process may have been faster
        if version > len(MIGRATIONS):
            raise NewerSchemaError(f"it has version {version}, this spoolkit knows {len(MIGRATIONS)}: update spoolkit")
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def insert(db: sqlite3.Connection, given: dict[str, Any]) -> None:
    """Add a job with these columns."""
    names = ", ".join(given)
    marks = ", ".join("?" * len(given))
    db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", _values(given))  # noqa: S608 - names of ours


def update(db: sqlite3.Connection, id: str, given: dict[str, Any]) -> None:
    """Change these columns of the job ``id``."""
    changes = ", ".join(f"{name} = ?" for name in given)
    db.execute(f"UPDATE jobs SET {changes} WHERE id = ?", (*_values(given), id))  # noqa: S608 - names of ours


def event(
    db: sqlite3.Connection,
    id: str,
    kind: str,
    time: float,
    attempt: int | None = None,
    seconds: float | None = None,
    detail: dict[str, Any] | None = None,
    log: str = "",
) -> None:
    """Add to what happened to the job ``id``."""
    kept = {key: value for key, value in (detail or {}).items() if value is not None}
    db.execute(
        "INSERT INTO events (job, seq, time, kind, attempt, seconds, detail, log)"
        " VALUES (?, (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE job = ?), ?, ?, ?, ?, ?, ?)",
        (id, id, time, kind, attempt, seconds, text_of(json.dumps(kept)) if kept else None, text_of(log) or None),
    )


def _values(given: dict[str, Any]) -> list[Any]:
    return [text_of(value) if isinstance(value, str) else value for value in given.values()]


def text_of(text: str) -> str:
    """``text`` as SQLite takes it."""
    # Its text is UTF-8: half a surrogate pair, as in the name of a file, would be refused.
    return text.encode("utf-8", "backslashreplace").decode()
