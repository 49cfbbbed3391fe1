"""SQLite with savepoints that work, as SQLAlchemy's manual says."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event


def begin_each_transaction(engine: Engine) -> None:
    """Have SQLAlchemy begin the transactions of an engine: the driver begins none before a SAVEPOINT."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
