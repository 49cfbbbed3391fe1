"""How is the SQLite file opened, migrated, read and written?

In WAL mode, so that HTTP processes read while a spooler writes; each write is one short transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from spoolkit.errors import NewerStoreError, StoreUnavailableError
from spoolkit.store import rows
from spoolkit.system import files, process
from spoolkit.system.process import PerProcess

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the transactions of other processes, each of which takes well under a millisecond."""

CHECK_LOCK_TIMEOUT = 2.0
"""Seconds for which the question waits whether the file can be written."""

FIRST_PAUSE, LONGEST_PAUSE = 0.0001, 0.005
"""Seconds between two tries to get the lock. SQLite's own first pause, a millisecond, is that of ten transactions."""

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id            TEXT PRIMARY KEY,
        task          TEXT NOT NULL,
        engine        TEXT NOT NULL,
        queue         TEXT,             -- the spool directory, if the call named one
        state         TEXT NOT NULL,    -- as in job.State
        attempt       INTEGER NOT NULL, -- how many attempts were started
        base          INTEGER NOT NULL, -- how many of them before the count was last reset
        max_attempts  INTEGER,
        enqueued_at   REAL,             -- all times: unix seconds, UTC
        run_at        REAL,
        started_at    REAL,             -- of the last attempt
        finished_at   REAL,             -- once the job is done, dead, cancelled or lost
        file          TEXT,             -- the name of its file when it was last claimed
        pid           INTEGER,          -- the process that has the job
        identity      BLOB,             -- what tells that process from a later one with the same pid
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
        kind    TEXT NOT NULL,          -- started, one of queries.ENDINGS, or what a person did
        attempt INTEGER,
        seconds REAL,
        detail  TEXT,                   -- JSON: pid, or type, message and traceback
        log     TEXT,
        PRIMARY KEY (job, seq)
    ) WITHOUT ROWID;
    """,
    # The search for jobs of processes that are gone must not read the rows of all jobs.
    "CREATE INDEX jobs_of_processes ON jobs (pid, identity) WHERE engine <> 'spool' AND finished_at IS NULL",
    # Lists and counts must not read every row, each with its result.
    "CREATE INDEX jobs_by_state ON jobs (state, task, id)",
    # Whether the job has rows in events. While it has none, its row tells them: see rows.derived_events().
    "ALTER TABLE jobs ADD COLUMN has_events INTEGER NOT NULL DEFAULT 1",
    # Each index costs every job about as much as its row does. So one serves lists, counts, durations and deletions.
    """
    DROP INDEX jobs_by_end;
    DROP INDEX jobs_by_state;
    CREATE INDEX jobs_by_state ON jobs (state, finished_at, task)
    """,
    "ALTER TABLE jobs ADD COLUMN expires_at REAL",
    # JSON of what the call said that no query asks for: see rows.options_of().
    "ALTER TABLE jobs ADD COLUMN options TEXT",
    # Jobs without a limit pay nothing for the index.
    """
    ALTER TABLE jobs ADD COLUMN limit_key TEXT;
    CREATE INDEX jobs_of_limits ON jobs (limit_key) WHERE limit_key IS NOT NULL AND state = 'running'
    """,
    """
    CREATE TABLE batches (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL,
        on_death     TEXT NOT NULL,              -- as in job.OnDeath
        created_at   REAL NOT NULL,              -- all times: unix seconds, UTC
        completed_at REAL,                       -- while all members have ended
        generation   INTEGER NOT NULL DEFAULT 0, -- how often that was so
        callback     BLOB,                       -- the callback's spool file, but for its id
        called_back  INTEGER NOT NULL DEFAULT 0, -- the generation whose callback is accepted
        callback_job TEXT                        -- the id of that callback
    );
    CREATE INDEX batches_to_call_back ON batches (id) WHERE callback IS NOT NULL AND called_back < generation;
    CREATE INDEX batches_open ON batches (id) WHERE completed_at IS NULL;
    CREATE INDEX batches_by_end ON batches (completed_at) WHERE completed_at IS NOT NULL;
    CREATE TABLE members (
        job   TEXT PRIMARY KEY,
        batch TEXT NOT NULL,
        task  TEXT NOT NULL,
        queue TEXT,
        ended TEXT                               -- the state in which it ended; NULL: it has not
    );
    CREATE INDEX members_of_batches ON members (batch, ended)
    """,
    "CREATE TABLE job_tags (tag TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (tag, job)) WITHOUT ROWID",
    # See rates.py: a row for each key of a rate, and the slot for which a job waits.
    """
    CREATE TABLE rates (key TEXT PRIMARY KEY, reserved REAL NOT NULL, started REAL NOT NULL) WITHOUT ROWID;
    ALTER TABLE jobs ADD COLUMN slot REAL;
    ALTER TABLE jobs ADD COLUMN slot_is_counted INTEGER
    """,
    # See totals.py: what the rows of deleted jobs told of their attempts. A job that is done at once pays nothing for
    # the index.
    """
    CREATE TABLE totals (
        task       TEXT NOT NULL,
        ending     TEXT NOT NULL,
        run_below  REAL NOT NULL,    -- the bucket in which the attempts ran: its upper bound, in seconds; 0: unknown
        wait_below REAL NOT NULL,    -- the same of the time for which their jobs waited
        attempts   INTEGER NOT NULL,
        run        INTEGER NOT NULL, -- all of them together, in microseconds
        wait       INTEGER NOT NULL,
        PRIMARY KEY (task, ending, run_below, wait_below)
    ) WITHOUT ROWID;
    CREATE INDEX events_of_endings ON events (kind, seconds)
        WHERE attempt IS NOT NULL AND kind NOT IN ('started', 'done')
    """,
    # What its attempts took: see job.Bill. Seconds, all in all, and the most bytes.
    """
    ALTER TABLE jobs ADD COLUMN cpu REAL;
    ALTER TABLE jobs ADD COLUMN memory INTEGER;
    -- Of deleted jobs, in microseconds.
    CREATE TABLE cpu_totals (task TEXT PRIMARY KEY, cpu INTEGER NOT NULL) WITHOUT ROWID
    """,
    "ALTER TABLE rates ADD COLUMN seen REAL NOT NULL DEFAULT 0",  # when it was last changed
)
"""Each script migrates a file of the version before it. Never change one that was released: add another."""


class NewerSchemaError(Exception):
    """The file was written by a later version of spoolkit."""


class Database:
    """The SQLite file ``path``, which the first write creates. It may be used by all threads, and after a fork.

    Every use raises :class:`StoreUnavailableError` if the file is damaged, locked for too long, or on a full disk, and
    its subclass :class:`NewerStoreError` if a newer version of spoolkit has written it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # A connection must not cross a fork. It must not even be closed in the child, which would release the locks of
        # the parent: so the parent's one stays referenced there.
        self._connection = PerProcess(_Connection)

    def read(self, sql: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """Return the rows of the query ``sql`` with its ``values``; none if there is no file yet."""
        if not self._exists():
            return []  # a reader must not create the file
        connection = self._connection.get()
        with connection.lock:
            db = self._opened(connection)
            try:
                try:
                    return _execute(db, sql, values).fetchall()
                except UnicodeEncodeError:  # one is the name of a file that is not UTF-8
                    return _execute(db, sql, rows.encoded(values)).fetchall()
            except sqlite3.Error as error:
                raise self._failure(connection, error) from error

    def check_version(self) -> None:
        """Raise :class:`NewerStoreError` if a newer version of spoolkit has written the file, and nothing else."""
        try:
            self.read("PRAGMA user_version")
        except NewerStoreError:
            raise
        except StoreUnavailableError:
            pass  # it cannot be used for another reason: jobs run all the same

    def check_usable(self) -> bool:
        """Raise :class:`StoreUnavailableError` if the file cannot be read. Returns whether there is one."""
        self.read("SELECT 1 FROM jobs LIMIT 1")
        return self._exists()

    def check_writable(self) -> None:
        """Raise :class:`StoreUnavailableError` if the file cannot be written; its folder, if there is none yet."""
        if self._exists():
            with self.transaction(CHECK_LOCK_TIMEOUT):
                pass  # nothing is written: to get the lock is what a file or a disk that is read-only refuses
        elif not os.access(folder := os.path.dirname(self.path), os.W_OK | os.X_OK):
            raise StoreUnavailableError(f"{self.path}: {folder} is missing or may not be written", path=self.path)

    def _exists(self) -> bool:
        try:
            return _file(self.path) is not None
        except OSError as error:
            raise StoreUnavailableError(f"{self.path}: {error}", path=self.path) from error

    def write_before_task(self, sql: str, values: Sequence[object], still_there: Callable[[], bool]) -> bool:
        """Execute one statement, as a transaction of its own.

        Args:
            sql: The statement. It may call ``still_there()``.
            values: Its values.
            still_there: What that function returns. It is called while no other process writes.

        Returns:
            Whether the statement changed a row.
        """
        connection = self._connection.get()
        with connection.lock:
            connection.check_descriptors()
            db = self._opened(connection)
            connection.still_there = still_there
            return self._changed(connection, db, sql, values)

    def write_after_task(self, sql: str, values: Sequence[object]) -> bool:
        """Execute one statement like :meth:`write_before_task`, in the same file, after a task ran in this process."""
        connection = self._connection.get()
        with connection.lock:
            connection.check_descriptors()
            # The path is not looked at once more: a file that took this one's place meanwhile does not know the job.
            db = self._opened(connection) if connection.is_lost or connection.sqlite is None else connection.sqlite
            return self._changed(connection, db, sql, values)

    def _changed(self, connection: _Connection, db: sqlite3.Connection, sql: str, values: Sequence[object]) -> bool:
        try:
            try:
                cursor = db.execute(sql, values)
            except sqlite3.OperationalError:  # what waiting and opening anew need is not done for each statement
                cursor = self._write(connection, db, sql, values)
            return cursor.rowcount == 1
        except sqlite3.Error as error:
            raise self._failure(connection, error) from error

    def _write(
        self,
        connection: _Connection,
        db: sqlite3.Connection,
        sql: str,
        values: Sequence[object] = (),
        timeout: float | None = None,
    ) -> sqlite3.Cursor:
        """Execute the first statement that writes, in another connection if ``db`` can only read."""
        try:
            return _execute(db, sql, values, timeout)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY or connection.is_lost:
                raise
        # A connection that was opened for a read while the file could not be written stays like that.
        connection.close()
        return _execute(self._opened(connection), sql, values, timeout)

    @contextlib.contextmanager
    def transaction(self, lock_timeout: float | None = None) -> Iterator[sqlite3.Connection]:
        """Open a transaction: within it no other process writes, and all of its changes take effect or none.

        Args:
            lock_timeout: Seconds to wait for the transactions of other processes; ``None``: :data:`LOCK_TIMEOUT`.
        """
        connection = self._connection.get()
        connection.check_descriptors()
        with connection.lock:
            db = self._opened(connection)
            try:
                try:
                    # IMMEDIATE: a transaction that reads first and then cannot get the lock to write would have to
                    # start over.
                    db = self._write(connection, db, "BEGIN IMMEDIATE", timeout=lock_timeout).connection
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    # Also after BEGIN alone, where the time limit of a task may strike: without it, what is written
                    # next would never be committed.
                    with contextlib.suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._failure(connection, error) from error

    def sync(self) -> None:
        """Wait until what was written is on the disk: without that, a power cut may cost the last transactions.

        Raises:
            OSError: It may not be there.
        """
        with contextlib.suppress(FileNotFoundError):  # all of it is in the file itself, which SQLite syncs
            files.fsync(f"{self.path}-wal")
        files.fsync_folder(os.path.dirname(self.path))

    def _opened(self, connection: _Connection) -> sqlite3.Connection:
        """Return the connection to the file that has the path now; opened first if there is none."""
        if connection.is_lost:
            # Not by a new connection either: SQLite shares its locks among all connections of a process.
            reason = "a task closed the store's descriptors in this process"
            raise StoreUnavailableError(f"{self.path}: {reason}", path=self.path)
        try:
            # A file that was moved away must not be written to: all other processes open the path.
            if connection.sqlite is None or connection.file != _file(self.path):
                connection.close()
                connection.sqlite = _connect(self.path)
                connection.sqlite.create_function("still_there", 0, lambda: connection.still_there())
                connection.file = _file(self.path)
                connection.descriptors = _descriptors(self.path)
        except NewerSchemaError as error:
            raise NewerStoreError(f"{self.path}: {error}", path=self.path) from error
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"{self.path}: {error}", path=self.path) from error
        return connection.sqlite

    def _failure(self, connection: _Connection, error: sqlite3.Error) -> StoreUnavailableError:
        if "locked" not in str(error):
            connection.close()  # the next use opens another: a task may have closed its descriptors
        return StoreUnavailableError(f"{self.path}: {error}", path=self.path)

    @property
    def is_lost(self) -> bool:
        """Whether a task was found to have closed the descriptors of this process's connection."""
        connection = self._connection.peek()
        return connection is not None and connection.is_lost

    def close(self) -> None:
        """Close the connection of this process; the next use opens another."""
        if (connection := self._connection.peek()) is not None:
            with connection.lock:
                connection.close()


class _Connection:
    """The connection of one process, which its threads use in turn."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sqlite: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None
        #: The descriptors that SQLite writes through.
        self.descriptors: list[process.KeptDescriptor] = []
        self.is_lost = False
        #: What the SQL function of this name returns.
        self.still_there: Callable[[], bool] = lambda: True

    def check_descriptors(self) -> None:
        """Find out whether the descriptors still are the connection's: other files may have their numbers."""
        for descriptor in self.descriptors:
            if not descriptor.is_intact():
                self.is_lost = True

    def close(self) -> None:
        self.check_descriptors()
        # A lost connection must not be closed: it would close the files that have its descriptors' numbers now.
        if self.sqlite is not None and not self.is_lost:
            with contextlib.suppress(sqlite3.Error):
                self.sqlite.close()
            self.sqlite, self.descriptors = None, []


def _file(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def _descriptors(path: str) -> list[process.KeptDescriptor]:
    ours = {_file(path), _file(f"{path}-wal")} - {None}
    with contextlib.suppress(OSError):
        open_now = map(int, os.listdir("/proc/self/fd"))
        return [process.KeptDescriptor(fd) for fd in open_now if process.file_of(fd) in ours]
    return []


def _connect(path: str) -> sqlite3.Connection:
    # Created here and not by SQLite, so that from its first byte no other user can read it; SQLite gives the files
    # beside it the same mode and, as root, the same owner. Only if there is none: closing a descriptor of a file that
    # SQLite has open would release SQLite's locks.
    with contextlib.suppress(FileExistsError):
        os.close(files.create(path))
    db = sqlite3.connect(path, timeout=_patience(), isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        db.row_factory = sqlite3.Row
        _use_wal(db)
        # A power cut may cost the last moves, never the file. A job's own file is what must survive it.
        db.execute("PRAGMA synchronous = NORMAL")
        _migrate(db)
        db.execute("PRAGMA busy_timeout = 0")  # from here on, _execute() waits
    except BaseException:
        db.close()
        raise
    return db


def _execute(
    db: sqlite3.Connection, sql: str, values: Sequence[object] = (), timeout: float | None = None
) -> sqlite3.Cursor:
    """Execute a statement; while another process has the lock, try again for ``timeout`` seconds."""
    pause, deadline = FIRST_PAUSE, None
    while True:
        try:
            return db.execute(sql, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            now, budget = time.monotonic(), _budget.get()
            deadline = deadline or now + (LOCK_TIMEOUT if timeout is None else timeout)
            if now >= deadline or (budget is not None and budget.left <= 0):
                raise
        time.sleep(pause)
        if budget is not None:
            budget.left -= time.monotonic() - now
        pause = min(2 * pause, LONGEST_PAUSE)


class _Budget:
    """How many seconds this thread may still wait for the transactions of other processes."""

    def __init__(self, left: float) -> None:
        self.left = left


_budget: ContextVar[_Budget | None] = ContextVar("_budget", default=None)


@contextlib.contextmanager
def waiting_once(seconds: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Let the statements of this thread wait for ``seconds`` all together, where each would wait as long.

    For an action on many jobs, and for a page: beside a store that stays locked, each statement would cost the whole
    time.
    """
    token = _budget.set(_Budget(seconds))
    try:
        yield
    finally:
        _budget.reset(token)


def _patience() -> float:
    """Seconds to wait for the lock of a file that is being opened."""
    budget = _budget.get()
    return LOCK_TIMEOUT if budget is None else max(0.0, min(LOCK_TIMEOUT, budget.left))


def _use_wal(db: sqlite3.Connection) -> None:
    # The one statement that does not wait for a lock: of several processes that turn a new file to WAL, some fail.
    deadline = time.monotonic() + _patience()
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
            known = len(MIGRATIONS)
            text = f"a newer spoolkit has written it, its schema has version {version}, this one knows {known}"
            raise NewerSchemaError(f"{text}: set SPOOLKIT_STORE to another file, or update spoolkit")
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
