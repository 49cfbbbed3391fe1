"""The visits, in SQLite. One thread of a process writes at a time: a second one would only wait for its lock."""

import os
import sqlite3
from contextlib import closing

import spoolkit

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "visits.db")


def connect() -> sqlite3.Connection:
    db = sqlite3.connect(PATH, timeout=10)  # seconds to wait while another process writes
    db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
    db.execute("CREATE TABLE IF NOT EXISTS visits (node INTEGER NOT NULL, at REAL NOT NULL)")
    return db


@spoolkit.thread(concurrency=1, track=False)
def record_visit(node_id: int, at: float) -> None:
    with closing(connect()) as db, db:
        db.execute("INSERT INTO visits VALUES (?, ?)", (node_id, at))


def counts() -> dict[int, int]:
    with closing(connect()) as db:
        return dict(db.execute("SELECT node, count(*) FROM visits GROUP BY node ORDER BY node"))
