"""How does the application's database tell, after a crash, whether a job's transaction was committed?

The name of each held file is a row of the same transaction: the row is there if, and only if, it was committed. Rows
are deleted by the sweep, once their file has been moved. Imported only by those who use SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, delete, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from spoolkit.errors import ConfigurationError, shown
from spoolkit.spooldir import held
from spoolkit.system import log

TABLE = Table(
    "spoolkit_outbox",
    MetaData(),
    Column("id", String(64), primary_key=True),
    # Several machines may share a database, each with a spool directory of its own.
    Column("spool", String(32), nullable=False, index=True),
)
"""The table, which the application creates in its database."""

MAX_WAIT = 2
"""Seconds that a question waits for a transaction in progress; then it is asked again later."""

AT_ONCE = 500
"""Rows that are read, and deleted, at once."""

_LIMITS = {
    "postgresql": f"SET LOCAL lock_timeout = '{MAX_WAIT}s'",
    "mysql": f"SET SESSION innodb_lock_wait_timeout = {MAX_WAIT}",
    "mariadb": f"SET SESSION innodb_lock_wait_timeout = {MAX_WAIT}",
}
"""What keeps a question from waiting for long. SQLite waits for 5 s by itself."""


class Outbox:
    """The table of one database.

    Args:
        engine: A synchronous engine of the database that commits the sessions.

    Raises:
        ConfigurationError: It is none, or commits each statement at once.
    """

    def __init__(self, engine: Engine) -> None:
        if isinstance(engine, AsyncEngine) or not isinstance(engine, Engine):
            raise ConfigurationError(
                f"the engine of an outbox is {shown(engine)}: give a synchronous engine of SQLAlchemy", setting="outbox"
            )
        _check_transactional(engine, "the engine of an outbox")
        self._engine = engine

    def add(self, session: Session, spool: str, names: Sequence[str]) -> None:
        """Write rows in the transaction of ``session``, which begins one if there is none.

        Args:
            session: The session.
            spool: The :func:`~spoolkit.spooldir.held.identity` of the spool directory.
            names: The names of the held files.

        Raises:
            ConfigurationError: The session commits in another database, or each statement at once.
        """
        try:
            bind = session.get_bind(clause=insert(TABLE))
        except UnboundExecutionError:
            bind = self._engine
        # An engine with other execution options is another object, with the same pool.
        if bind.engine.pool is not self._engine.pool:
            raise ConfigurationError(
                f"the session commits in {bind.engine.url!r}, but the outbox is in {self._engine.url!r}: one commit "
                "cannot cover both",
                setting="outbox",
            )
        connection = session.connection(bind_arguments={"bind": bind})
        _check_transactional(connection, "the connection of the session")
        connection.execute(insert(TABLE), [{"id": name, "spool": spool} for name in names])

    def was_committed(self, name: str) -> bool | None:
        """Whether the transaction with this row was committed, whose process or connection is gone.

        A row that is not there may be one of a transaction in progress: one that is prepared, or whose commit is on its
        way. So the answer is not read. This tries to write the same row: the database lets it wait for the transaction
        that has written it first. A read might come from a replica, too, and a write cannot.

        Returns:
            ``None``: it cannot be said yet.
        """
        try:
            with self._engine.connect() as connection:
                connection.detach()  # its own limit of waiting must not come back into the pool
                return self._was_committed(connection, name)
        except DBAPIError as error:
            log.complain("the outbox cannot say yet whether held jobs were committed, and is asked again", error=error)
            return None

    def _was_committed(self, connection: Connection, name: str) -> bool | None:
        with connection.begin() as transaction:
            if limit := _LIMITS.get(connection.dialect.name):
                connection.exec_driver_sql(limit)
            try:
                connection.execute(insert(TABLE), {"id": name, "spool": ""})
            except IntegrityError:
                pass
            else:
                return False
            finally:
                transaction.rollback()
        with connection.begin():
            found = connection.execute(select(TABLE.c.id).where(TABLE.c.id == name)).first()
        return None if found is None else True

    def forget(self, spool_dir: str, still_held: Callable[[str], set[str]]) -> None:
        """Delete the rows of files that are held no more.

        Raises:
            OSError: The spool directory cannot be read.
            DBAPIError: The rows cannot be deleted.
        """
        query = select(TABLE.c.id).where(TABLE.c.spool == held.identity(spool_dir)).order_by(TABLE.c.id).limit(AT_ONCE)
        last = ""
        while True:
            with self._engine.connect() as connection:
                rows = cast("Sequence[str]", connection.scalars(query.where(TABLE.c.id > last)).all())
            if not rows:
                return
            # In this order: each row that was read is committed, and its file was there before it.
            waiting = still_held(spool_dir)
            if done := [name for name in rows if name not in waiting]:
                with self._engine.begin() as connection:
                    connection.execute(delete(TABLE).where(TABLE.c.id.in_(done)))
            if len(rows) < AT_ONCE:
                return
            last = rows[-1]


def _check_transactional(given: Engine | Connection, what: str) -> None:
    """Refuse what commits each statement at once: a row would be there before the transaction is committed.

    Not by a question to the database, which PostgreSQL answers with the level of a transaction. The attribute of the
    dialect has what ``create_engine(isolation_level=)`` got.
    """
    level = given.get_execution_options().get("isolation_level")
    level = level or getattr(given.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        raise ConfigurationError(
            f"{what} has the isolation level AUTOCOMMIT, with which no transaction tells whether a job was committed: "
            "give one without isolation_level, or with that of the database, such as "
            'engine.execution_options(isolation_level="READ COMMITTED")',
            setting="outbox",
        )
